package server

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/proxy"
)

// did is what an instance has done since its data plane started, every request in the same time.
func did(service, instance string, requests, failed uint64, each time.Duration) proxy.Measure {
	m := proxy.Measure{Service: service, Instance: instance, Requests: requests, Failed: failed, Latency: proxy.Histogram{}}
	for range requests {
		m.Latency.Add(each)
	}
	return m
}

func TestTrafficIsWhatGrewInAStep(t *testing.T) {
	tr, at := &traffic{}, time.Unix(1000, 0)
	push := func(boot string, of ...proxy.Measure) { tr.take(proxy.Measures{Boot: boot, Instances: of}) }
	counts := func() map[string][2]uint64 {
		at = at.Add(2 * time.Second)
		tr.step(at)
		steps, _ := tr.since(0)
		last := steps[len(steps)-1]
		got := map[string][2]uint64{}
		for _, flows := range []map[string]api.Flow{last.Services, diffs(t, tr)} {
			for name, f := range flows {
				got[name] = [2]uint64{f.Requests, f.Failed}
			}
		}
		return got
	}
	tr.step(at)
	push("a", did("web", "web-1", 500, 5, time.Millisecond)) // before anybody looked
	if d := cmp.Diff(map[string][2]uint64{}, counts()); d != "" {
		t.Errorf("the first push (-want +got):\n%s", d)
	}
	push("a", did("web", "web-1", 510, 6, time.Millisecond), did("web", "web-2", 4, 0, time.Millisecond))
	push("a", did("web", "web-1", 520, 6, time.Millisecond), did("api", "api-1", 1, 1, time.Millisecond))
	want := map[string][2]uint64{"web": {24, 1}, "web-1": {20, 1}, "web-2": {4, 0}, "api": {1, 1}, "api-1": {1, 1}}
	if d := cmp.Diff(want, counts()); d != "" {
		t.Errorf("two pushes (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[string][2]uint64{}, counts()); d != "" {
		t.Errorf("a quiet step (-want +got):\n%s", d)
	}
	push("b") // another data plane, which counts from nothing
	push("b", did("web", "web-1", 3, 0, time.Millisecond))
	push("a", did("web", "web-1", 521, 6, time.Millisecond))
	if d := cmp.Diff(map[string][2]uint64{"web": {4, 0}, "web-1": {4, 0}}, counts()); d != "" {
		t.Errorf("two data planes (-want +got):\n%s", d)
	}
	tr.keep(map[string]bool{"web-1": true})
	if n := len(tr.last["a"]); n != 1 {
		t.Errorf("%d instances are remembered, want 1", n)
	}
}

// TestTrafficKeepsWhoIsElsewhere: what was shifted to another gateway is not counted anew whenever old instances are forgotten.
func TestTrafficKeepsWhoIsElsewhere(t *testing.T) {
	tr := &traffic{}
	push := func(n uint64) {
		tr.take(proxy.Measures{Boot: "a", Instances: []proxy.Measure{did("http://10.0.0.7:80", "10.0.0.7:80", n, 0, time.Millisecond)}})
	}
	push(500)
	st := engine.State{Desired: &compose.Project{}, Services: []engine.Service{{Name: "web", Instances: []engine.Instance{{ID: "web-1"}}}}}
	st.Desired.Trellis.Gateway = &compose.Gateway{Shift: &compose.Shift{To: "http://10.0.0.7"}}
	tr.keep(instancesOf(st))
	push(503)
	if n := tr.now["10.0.0.7:80"].Requests; n != 3 {
		t.Errorf("%d requests were shifted since, want 3", n)
	}
	st.Desired.Trellis.Gateway = nil
	tr.keep(instancesOf(st))
	if len(tr.last["a"]) != 0 {
		t.Errorf("%v are remembered after the shift", tr.last["a"])
	}
}

// diffs returns the flows of the instances in the last step alone.
func diffs(t *testing.T, tr *traffic) map[string]api.Flow {
	t.Helper()
	_, instances := flows(tr.raw[len(tr.raw)-1:])
	return instances
}

func TestTrafficOfAServiceIsThatOfItsInstances(t *testing.T) {
	tr := &traffic{}
	tr.take(proxy.Measures{Boot: "a"})
	tr.take(proxy.Measures{Boot: "a", Instances: []proxy.Measure{
		did("web", "web-1", 98, 0, 10*time.Millisecond), did("web", "web-2", 2, 0, time.Second),
	}})
	tr.step(time.Unix(1000, 0))
	steps, _ := tr.since(0)
	near := func(what string, got, want float64) {
		if got < want || got > want*17/16 {
			t.Errorf("%s is %v ms, want %v and at most 1/16 more", what, got, want)
		}
	}
	near("p50", steps[0].Services["web"].P50, 10)
	near("p99", steps[0].Services["web"].P99, 1000)
	near("p99 of web-1", steps[0].Recent.Instances["web-1"].P99, 10)
}

func TestTrafficRemembersSoMuchAndNoMore(t *testing.T) {
	tr := &traffic{}
	tr.take(proxy.Measures{Boot: "a"})
	for i := range 2 * trafficSteps {
		tr.take(proxy.Measures{Boot: "a", Instances: []proxy.Measure{did("web", "web-1", uint64(i+1), 0, time.Millisecond)}})
		tr.step(time.Unix(int64(i), 0))
	}
	steps, n := tr.since(0)
	if len(steps) != trafficSteps || n != 2*trafficSteps || steps[len(steps)-1].Time != time.Unix(2*trafficSteps-1, 0) {
		t.Fatalf("%d steps of %d, the last at %v", len(steps), n, steps[len(steps)-1].Time)
	}
	for i, s := range steps {
		if s.Services["web"].Requests != 1 || (s.Recent != nil) != (i == len(steps)-1) {
			t.Errorf("%v: %v, recent %v", s.Time, s.Services, s.Recent)
		}
	}
	recent := steps[len(steps)-1].Recent
	if recent.Seconds != trafficRecent || recent.Services["web"].Requests != trafficRecent || recent.Instances["web-1"].Requests != trafficRecent {
		t.Errorf("recent: %+v, want %d requests in as many seconds", recent, trafficRecent)
	}
	if steps, _ := tr.since(n - 3); len(steps) != 3 {
		t.Errorf("%d steps are new to one who knows all but three", len(steps))
	}
}

func TestTrafficIsFollowed(t *testing.T) {
	tr := &traffic{}
	tr.step(time.Unix(1, 0))
	tr.step(time.Unix(2, 0))
	enough := errors.New("enough")
	var seen []int
	err := tr.follow(t.Context(), func(steps []api.TrafficStep) error {
		seen = append(seen, len(steps))
		if len(seen) == 2 {
			return enough
		}
		go tr.step(time.Unix(3, 0))
		return nil
	})
	if !errors.Is(err, enough) || cmp.Diff([]int{2, 1}, seen) != "" {
		t.Errorf("%v after %v", err, seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tr.follow(ctx, func([]api.TrafficStep) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
