package server

import (
	"fmt"
	"math"
	"testing"
	"time"

	"trellis/engine/kubernetes"
	"trellis/proxy"
)

// TestLoadIsThatOfAllDataPlanes: what several tell is added up over the window, from when each has been heard for a moment.
func TestLoadIsThatOfAllDataPlanes(t *testing.T) {
	l, begun := &loads{}, time.Unix(1000, 0)
	// Each second 10 requests arrive at plane a and 20 at b, half of which are in flight at any time.
	push := func(source string, second float64, each float64) {
		l.take(proxy.Demands{Source: source, Services: map[string]proxy.Demand{
			"web": {Requests: uint64(each * second), BusySeconds: each / 2 * second},
		}}, begun.Add(time.Duration(second*float64(time.Second))))
	}
	tell := func(second float64) (kubernetes.Load, bool) {
		load, ok := l.tell(begun.Add(time.Duration(second * float64(time.Second))))["web"]
		return load, ok
	}
	if _, ok := tell(0); ok {
		t.Error("a load is told though nothing is measured")
	}
	push("a", 0, 10)
	push("a", 1, 10)
	if load, ok := tell(1); ok {
		t.Errorf("after a second there is %+v: a moment is no load", load)
	}
	for second := 2.0; second <= 30; second++ {
		push("a", second, 10)
		push("b", second, 20)
	}
	load, ok := tell(30)
	if !ok || math.Abs(load.RPS-30) > 0.5 || math.Abs(load.Concurrency-15) > 0.5 {
		t.Errorf("both: %+v, %v; want 30 a second, 15 at a time", load, ok)
	}
	for second := 31.0; second <= 36; second++ {
		push("a", second, 10)
	}
	load, ok = tell(36)
	if !ok || math.Abs(load.RPS-10) > 0.5 {
		t.Errorf("after b has ended: %+v, %v", load, ok)
	}
	if load, ok := tell(50); ok {
		t.Errorf("when none tells any more: %+v; want nothing, which is not 0", load)
	}
}

// TestLoadForgetsDataPlanesThatNobodyAsksFor: where no autoscaler asks for the load, what was heard of pods that are gone goes too.
func TestLoadForgetsDataPlanesThatNobodyAsksFor(t *testing.T) {
	l, begun := &loads{}, time.Unix(1000, 0)
	for pod := range 100 {
		for second := range 10 {
			at := begun.Add(time.Duration(pod)*time.Minute + time.Duration(second)*time.Second)
			l.take(proxy.Demands{Source: fmt.Sprint("pod-", pod), Services: map[string]proxy.Demand{"web": {Requests: uint64(10 * second)}}}, at)
		}
	}
	if n := len(l.services["web"]); n != 1 {
		t.Errorf("%d data planes are remembered, one is there", n)
	}
}
