package load_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"trellis/load"
)

// A hundred requests in half a second, one in ten of them a POST; the receiver's ledger says whether each arrived once.
func ExampleRun() {
	var ledger load.Ledger
	target := httptest.NewServer(&ledger)
	defer target.Close()

	report, err := load.Run(context.Background(), load.Config{
		URL: target.URL, Rate: 200, Duration: 500 * time.Millisecond,
		Mix: []load.Request{{Weight: 9}, {Weight: 1, Method: http.MethodPost}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("sent", report.Sent, "lost", report.Lost())
	fmt.Println("received", ledger.Account().Received, "duplicates", len(ledger.Account().Duplicates))
	// Output:
	// sent 100 lost 0
	// received 10 duplicates 0
}
