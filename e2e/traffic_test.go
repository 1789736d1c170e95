//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"trellis/load"
)

// traffic is what a run of load did to a service while something else happened.
type traffic struct {
	report load.Report
	lost   map[int][]load.Result // by index into the mix: 0 GET, 1 POST
	posted map[string]bool       // sequence numbers of the POSTs that were answered with 201
	rate   float64
}

// underLoad sends rate requests a second to url (nine GETs for each POST, connections reused, no retries) while during
// runs, and for a moment before and after it.
func underLoad(t *testing.T, url string, rate float64, during func()) traffic {
	t.Helper()
	return underLoadOf(t, url, rate, []load.Request{
		{Weight: 9, Method: "GET", Path: "/"},
		{Weight: 1, Method: "POST", Path: "/ledger", Body: []byte(`{"order": 1}`)},
	}, during)
}

// underLoadOf is underLoad with other requests.
func underLoadOf(t *testing.T, url string, rate float64, mix []load.Request, during func()) traffic {
	t.Helper()
	result := traffic{lost: map[int][]load.Result{}, posted: map[string]bool{}, rate: rate}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var running sync.WaitGroup
	var failed error
	running.Go(func() {
		result.report, failed = load.Run(ctx, load.Config{
			URL: url, Pacer: load.Constant(rate, 5*time.Minute), Connections: 32, Timeout: 15 * time.Second,
			Mix: mix,
			OnResult: func(r *load.Result) {
				switch r.Kind {
				case "":
					if r.Request == 1 {
						result.posted[fmt.Sprint(r.Seq)] = true
					}
				case load.Abandoned, load.Server5xx:
				default:
					result.lost[r.Request] = append(result.lost[r.Request], *r)
				}
			},
		})
	})
	time.Sleep(500 * time.Millisecond)
	during()
	time.Sleep(500 * time.Millisecond)
	cancel()
	running.Wait()
	if failed != nil {
		t.Fatal(failed)
	}
	var text strings.Builder
	_ = result.report.WriteText(&text)
	t.Logf("at %.0f/s:\n%s", rate, text.String())
	if result.report.Completed < int(rate/4) {
		t.Fatalf("only %d requests were answered: this says nothing", result.report.Completed)
	}
	return result
}

// noneLost fails if a single request was lost.
func (tr traffic) noneLost(t *testing.T) {
	t.Helper()
	tr.noGetLost(t)
	if n := len(tr.lost[1]); n > 0 {
		t.Errorf("%d POSTs lost, the first: %+v", n, tr.lost[1][0])
	}
}

// noGetLost fails if a request was lost that may be repeated.
func (tr traffic) noGetLost(t *testing.T) {
	t.Helper()
	if n := len(tr.lost[0]); n > 0 {
		t.Errorf("%d GETs lost, the first: %+v", n, tr.lost[0][0])
	}
}

// ledger compares the POSTs that were answered with what the receivers wrote down: each exactly once. One that was not
// answered stands there at most once.
func (tr traffic) ledger(t *testing.T, files string) {
	t.Helper()
	names, _ := filepath.Glob(files)
	times := map[string]int{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for seq := range strings.FieldsSeq(string(b)) {
			times[seq]++
		}
	}
	for seq := range tr.posted {
		if times[seq] == 0 {
			t.Errorf("POST %s was answered and not received", seq)
		}
	}
	for seq, n := range times {
		if n > 1 {
			t.Errorf("POST %s was received %d times", seq, n)
		}
	}
	if len(tr.posted) == 0 {
		t.Error("no POST was answered: this says nothing")
	}
}
