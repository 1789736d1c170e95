//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"trellis/engine/enginetest"
	"trellis/load"
)

// fault counts what a test of a fault did. Its last line, "verdict: ...", is what `make faults` puts in its table.
type fault struct {
	*testing.T
	random   *rand.Rand // of a seed that FAULTS_SEED gives, or else of another one each time
	tried    int        // faults that were injected
	held     int        // after which everything was as it has to be
	requests int        // answered meanwhile
	lost     int        // not answered, or not as they have to be
}

// longAlone skips what takes too long for every run of all tests.
func longAlone(t *testing.T) {
	t.Helper()
	if !long(t) {
		t.Skip("part of the long form alone (make faults)")
	}
}

// newFault starts the count of a test, and tells it at the test's end.
func newFault(t *testing.T) *fault {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if given := os.Getenv("FAULTS_SEED"); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("FAULTS_SEED: %v", err)
		}
	}
	f := &fault{T: t, random: rand.New(rand.NewPCG(seed, 0))}
	t.Cleanup(func() {
		t.Logf("verdict: %d tried, %d held, %d requests, %d lost, seed %d", f.tried, f.held, f.requests, f.lost, seed)
	})
	return f
}

// try is one fault and what has to be true after it.
func (f *fault) try(what string, inject func()) {
	f.Helper()
	f.tried++
	before := f.Failed()
	began := time.Now()
	inject()
	f.Logf("%s: %v", what, time.Since(began).Round(time.Millisecond))
	if before || !f.Failed() {
		f.held++
	}
}

// underLoad sends nine GETs for each POST while faults are tried. A request that waits keeps its connection, so that there
// have to be as many as may wait.
func (f *fault) underLoad(url string, rate float64, during func()) enginetest.Traffic {
	f.Helper()
	return f.underLoadOf(load.Config{
		URL: url, Pacer: load.Constant(rate, 10*time.Minute), Connections: int(rate) * 2, Timeout: 15 * time.Second, Mix: enginetest.Mix(),
	}, during)
}

func (f *fault) underLoadOf(cfg load.Config, during func()) enginetest.Traffic {
	f.Helper()
	tr := enginetest.Drive(f.T, cfg, during)
	f.count(tr)
	return tr
}

// count adds what a run of load did.
func (f *fault) count(tr enginetest.Traffic) {
	f.requests += tr.Report.Completed
	f.lost += tr.All()
}

// postsCutOff fails if more POSTs were lost than cannot be helped: one that is with a program when it is killed is neither
// repeated nor answered, and is told as 502. There is rarely more than one at a time.
func (f *fault) postsCutOff(tr enginetest.Traffic, kills int) {
	f.Helper()
	for _, r := range tr.Lost[1] {
		if r.Status != 502 {
			f.Errorf("a POST was lost without an honest answer: %+v", r)
			return
		}
	}
	if n := len(tr.Lost[1]); n > 2*kills {
		f.Errorf("%d POSTs lost in %d kills", n, kills)
	}
}

// ready waits until a service has so many ready instances, none of them one of those that were.
func (p *project) ready(service string, want int, but map[int]bool, within time.Duration) {
	p.t.Helper()
	eventually(p.t, within, fmt.Sprintf("%d of %s ready", want, service), func() string {
		svc := serviceOf(p.t, p.ps(), service)
		n := 0
		for _, in := range svc.Instances {
			if in.Ready && !but[in.PID] {
				n++
			}
		}
		if n != want || svc.Ready != want {
			return fmt.Sprintf("%d ready: %s", n, svc.Reason)
		}
		return ""
	})
}
