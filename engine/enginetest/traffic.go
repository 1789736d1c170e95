package enginetest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"trellis/load"
)

// Traffic is what a run of load did while something else happened.
type Traffic struct {
	Report load.Report
	Lost   map[int][]load.Result // by index into the mix
	Failed []load.Result         // that a program answered with a 5xx of its own
	Posted map[string]bool       // sequence numbers of what was answered of the mix's second request
}

// Mix is the load of most tests: nine GETs for each POST, which the receiver writes into its ledger.
func Mix() []load.Request {
	return []load.Request{
		{Weight: 9, Method: "GET", Path: "/"},
		{Weight: 1, Method: "POST", Path: "/ledger", Body: []byte(`{"order": 1}`)},
	}
}

// Drive runs a load while during runs, and for a moment before and after it: connections reused, nothing repeated. It
// fails where too little was answered to say anything.
func Drive(t testing.TB, cfg load.Config, during func()) Traffic {
	t.Helper()
	tr := Traffic{Lost: map[int][]load.Result{}, Posted: map[string]bool{}}
	cfg.OnResult = func(r *load.Result) {
		switch r.Kind {
		case "":
			if r.Request == 1 {
				tr.Posted[fmt.Sprint(r.Seq)] = true
			}
		case load.Abandoned:
		case load.Server5xx:
			tr.Failed = append(tr.Failed, *r)
		default:
			tr.Lost[r.Request] = append(tr.Lost[r.Request], *r)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var running sync.WaitGroup
	var failed error
	running.Go(func() { tr.Report, failed = load.Run(ctx, cfg) })
	time.Sleep(500 * time.Millisecond)
	during()
	time.Sleep(500 * time.Millisecond)
	cancel()
	running.Wait()
	if failed != nil {
		t.Fatal(failed)
	}
	var text strings.Builder
	_ = tr.Report.WriteText(&text)
	t.Log(text.String())
	if tr.Report.Completed == 0 {
		t.Fatal("no request was answered: this says nothing")
	}
	return tr
}

// All returns how many requests were lost.
func (tr Traffic) All() int {
	n := 0
	for _, lost := range tr.Lost {
		n += len(lost)
	}
	return n
}

// NoneLost fails if a single request was lost.
func (tr Traffic) NoneLost(t testing.TB) {
	t.Helper()
	tr.NoGetLost(t)
	if n := len(tr.Lost[1]); n > 0 {
		t.Errorf("%d POSTs lost, the first: %+v", n, tr.Lost[1][0])
	}
}

// NoGetLost fails if a request was lost that may be repeated.
func (tr Traffic) NoGetLost(t testing.TB) {
	t.Helper()
	if n := len(tr.Lost[0]); n > 0 {
		t.Errorf("%d GETs lost, the first: %+v", n, tr.Lost[0][0])
	}
}

// forgiveHeld takes out of what was lost what waited for as long as a request is held, and was then told so.
func (tr Traffic) forgiveHeld() {
	for i := range tr.Lost {
		tr.Lost[i] = slices.DeleteFunc(tr.Lost[i], func(r load.Result) bool {
			return r.Status == http.StatusServiceUnavailable && r.Done-r.Sent >= held
		})
	}
}

// Ledger compares the POSTs that were answered with what the receivers wrote down: each exactly once. One that was not
// answered stands there at most once.
func (tr Traffic) Ledger(t testing.TB, ledger string) {
	t.Helper()
	times := map[string]int{}
	for seq := range strings.FieldsSeq(ledger) {
		times[seq]++
	}
	for seq := range tr.Posted {
		if times[seq] == 0 {
			t.Errorf("POST %s was answered and not received", seq)
		}
	}
	for seq, n := range times {
		if n > 1 {
			t.Errorf("POST %s was received %d times", seq, n)
		}
	}
	if len(tr.Posted) == 0 {
		t.Error("no POST was answered: this says nothing")
	}
}

// connections are how many clients the load of a test has.
const connections = 32

// underLoad sends rate requests of mix a second to p while during runs.
func (p *running) underLoad(rate float64, mix []load.Request, during func()) Traffic {
	p.c.Helper()
	return Drive(p.c.T, load.Config{
		URL: p.Address(), Pacer: load.Constant(rate, 5*time.Minute), Connections: connections, Timeout: 15 * time.Second, Mix: mix,
	}, during)
}

// nothingLost is underLoad where no request may be lost, nor a POST carried out twice.
func (p *running) nothingLost(rate float64, during func()) {
	p.c.Helper()
	tr := p.underLoad(rate, Mix(), during)
	tr.NoneLost(p.c)
	tr.Ledger(p.c, p.answer("/file?path=/ledger/web"))
}
