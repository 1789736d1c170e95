package proxy

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/telemetry"
)

func TestTraceContextIsReadStrictly(t *testing.T) {
	good := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	var c traceContext
	if sampled, ok := c.parse(good); !ok || !sampled || c.trace.String() != "4bf92f3577b34da6a3ce929d0e0e4736" || c.parent.String() != "00f067aa0ba902b7" {
		t.Errorf("%+v", c)
	}
	for _, bad := range []string{
		"", "00", strings.ToUpper(good), good + "-x", "ff" + good[2:], good[:54], "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", strings.Replace(good, "-", "_", 1), "0g" + good[2:],
	} {
		var c traceContext
		if _, ok := c.parse(bad); ok {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, ok := c.parse("01" + good[2:] + "-later"); !ok {
		t.Error("a later version was not read")
	}
}

func FuzzTraceContext(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Fuzz(func(t *testing.T, v string) {
		var c traceContext
		if _, ok := c.parse(v); ok && (c.trace.IsZero() || c.parent.IsZero()) {
			t.Errorf("%q: %+v", v, c)
		}
	})
}

// TestSpansKeepFailuresAndWhatWasChosen: by a service, also one that only its address tells, or here.
func TestSpansKeepFailuresAndWhatWasChosen(t *testing.T) {
	s := newSpans()
	s.traces = bucket{rate: 0.001, burst: 2}
	svc := newService("web", time.Now())
	send := func(header string, outside bool, from string, status int, took time.Duration) *request {
		q := &request{method: "GET", path: "/a/b/c", authority: "x", outside: outside, from: from}
		if header != "" {
			q.header.Add("traceparent", header)
			q.header.Add("tracestate", "a=b")
		}
		began := time.Now()
		s.begin(q, began)
		s.record(svc, nil, q, status, began, took)
		return q
	}
	inner := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	unsampled := strings.TrimSuffix(inner, "1") + "0"
	for _, c := range []struct {
		name    string
		header  string
		outside bool
		from    string
		status  int
		took    time.Duration
		kept    int
	}{
		{"a caller inside has not", unsampled, false, "api", 200, 0, 0}, {"one that its address tells has not", unsampled, true, "api", 200, 0, 0},
		{"chosen", "", true, "", 200, 0, 1}, {"chosen, though one from outside had not", unsampled, true, "", 200, 0, 1},
		{"one too many", "", true, "", 200, 0, 0}, {"failed", "", true, "", 503, 0, 1}, {"slow", "", true, "", 200, slowRequest, 1},
		{"a caller inside has chosen", inner, false, "api", 200, 0, 1},
		{"one that its address tells has chosen", inner, true, "api", 200, 0, 1},
		{"one from outside does not choose", inner, true, "", 200, 0, 0},
	} {
		q := send(c.header, c.outside, c.from, c.status, c.took)
		got := s.take()
		if len(got) != c.kept {
			t.Errorf("%s: %d spans", c.name, len(got))
		}
		told := q.trace.text()
		if len(told) != 55 || !strings.Contains(told, q.trace.span.String()) || c.header != "" && !strings.Contains(told, "4bf92f3577b34da6a3ce929d0e0e4736") {
			t.Errorf("%s: the instance is told %q", c.name, told)
		}
		if len(got) == 1 && (got[0].Service != "web" || got[0].Name != "GET /a/*" || (got[0].Status == telemetry.StatusError) != (c.status >= 500)) {
			t.Errorf("%s: %+v", c.name, got[0])
		}
	}
	if svc.conf.Load().Internal {
		t.Error("an ordinary service is internal")
	}
}

func TestTooManySpansAreCounted(t *testing.T) {
	s := newSpans()
	for range keptSpans + 10 {
		s.keep(telemetry.Span{})
	}
	if n := len(s.take()); n > keptSpans || s.lost.Load() != uint64(keptSpans+10-n) {
		t.Errorf("%d kept, %d lost", n, s.lost.Load())
	}
}

func TestCallsAreToldApart(t *testing.T) {
	p := New(Config{})
	svc := newService("web", time.Now())
	inst := newInstance(svc, &Instance{ID: "web-1", Revision: 3})
	count := func(caller, route string, status int) *request {
		q := &request{method: http.MethodGet, path: "/", from: caller, route: route}
		p.account(svc, inst, q, status, time.Now().Add(-time.Millisecond))
		return q
	}
	count("", "/*", 200)
	count("", "/*", 404)
	count("api", "", 503)
	count("api", "", 0)
	count("api", "", 200).brokeLater()
	all := callsIn(&inst.calls, nil, Call{Service: "web"})
	if len(all) != 2 || all[0].Status != [6]uint64{0, 0, 1, 0, 1} || all[1].Status != [6]uint64{1, 0, 1, 0, 0, 1} || all[1].Failed != 2 || all[0].Failed != 0 {
		t.Errorf("%+v", all)
	}
	if d := all[0].Latency.Distribution(); len(d.Counts) == 0 {
		t.Error("no durations")
	}
	for i := range 2 * maxWays {
		count("c"+string(rune('a'+i%26))+string(rune('a'+i/26)), "", 200)
	}
	all = callsIn(&inst.calls, nil, Call{})
	if len(all) != maxWays || all[maxWays-1].Caller != "other" || all[maxWays-1].Status[2] < maxWays {
		t.Errorf("%d ways, the last %+v", len(all), all[len(all)-1])
	}
	if n := testing.AllocsPerRun(100, func() { inst.calls.of(way{caller: "late"}) }); n > 0 {
		t.Errorf("a way that is told apart no more costs %g allocations each time", n)
	}
}

// TestRetriesAreToldApart: each is counted by whose request it was, over which route, and which revision had not answered; it
// outlives the instance that did not.
func TestRetriesAreToldApart(t *testing.T) {
	p := New(Config{})
	svc := newService("web", time.Now())
	for revision, ways := range [][][2]string{{{"api", ""}}, {{"", "/*"}, {"", "/*"}, {"api", ""}}} {
		inst := newInstance(svc, &Instance{ID: "web-1", Revision: int64(revision)})
		for _, w := range ways {
			svc.again(w[0], w[1], inst)
		}
	}
	p.table.Store(&table{services: map[string]*service{"web": svc}})
	var told []string
	for _, r := range p.Calls().Retries {
		told = append(told, fmt.Sprintf("%s %d %q %q %d", r.Service, r.Revision, r.Caller, r.Route, r.Count))
	}
	want := []string{`web 0 "api" "" 1`, `web 1 "" "/*" 2`, `web 1 "api" "" 1`}
	if !slices.Equal(told, want) || svc.count.read().Retries != 4 {
		t.Errorf("told %q and %d in all, want %q", told, svc.count.read().Retries, want)
	}
}

// TestRetriesOfManyRevisions: a data plane that outlives hundreds of revisions still tells whose requests were repeated.
func TestRetriesOfManyRevisions(t *testing.T) {
	svc := newService("web", time.Now())
	defer svc.close()
	for revision := range int64(3 * maxWays) {
		svc.apply(&Service{Name: "web", Instances: []Instance{{ID: fmt.Sprint("web-", revision), Host: "127.0.0.1", Ready: true, Revision: revision}}}, time.Now())
		svc.again("api", "", svc.instances[fmt.Sprint("web-", revision)])
	}
	all := svc.retried.all()
	if last := all[len(all)-1]; len(all) >= maxWays || last.way != (way{caller: "api", revision: 3*maxWays - 1}) || last.n.Load() != 1 {
		t.Errorf("%d ways, the last is %+v", len(all), last.way)
	}
}
