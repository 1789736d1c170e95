package metrics

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"trellis/telemetry"
)

// TestASumOnlyGrows: what is scraped again, with as much in it or more, has no smaller sum. A Prometheus takes one that fell for that of
// a program which began anew, and adds the whole of it to what it has seen.
func TestASumOnlyGrows(t *testing.T) {
	counts, last := map[float64]uint64{}, 0.0
	for i := range 300 {
		counts[0.001+0.0137*float64(i)] = uint64(1000 + 7*i)
	}
	for round := range 200 {
		if round%10 == 0 {
			counts[0.001+0.0137*float64(round)]++
		}
		one := sample("took_seconds", time.Time{}, 0, "service", "web")
		one.Distribution = &telemetry.Distribution{Counts: counts}
		w := httptest.NewRecorder()
		Expose(w, httptest.NewRequest("GET", "/metrics", nil), []telemetry.Sample{one})
		_, text, _ := strings.Cut(w.Body.String(), "took_seconds_sum{service=\"web\"} ")
		var sum float64
		if _, err := fmt.Sscan(text, &sum); err != nil {
			t.Fatalf("%v in\n%s", err, w.Body)
		}
		if sum < last {
			t.Fatalf("round %d: the sum fell from %v to %v", round, last, sum)
		}
		last = sum
	}
}
