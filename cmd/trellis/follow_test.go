package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/proxy"
	"trellis/state"
)

func TestPassage(t *testing.T) {
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	service := func(state, reason string, ready int) []engine.Service {
		return []engine.Service{{Name: "web", State: state, Want: 2, Ready: ready, Reason: reason}}
	}
	g := passage{started: start}
	var lines []string
	see := func(seconds float64, services []engine.Service) {
		lines = append(lines, g.observe(services, at(seconds))...)
	}
	see(0, service(engine.ServiceStarting, "pulling", 0))
	see(1, service(engine.ServiceStarting, "restart in 3s", 0)) // only why has changed, and that too soon
	see(7, service(engine.ServiceStarting, "restart in 2s", 0))
	see(8, service(engine.ServiceDegraded, "GET /: 503", 1))
	see(9, service(engine.ServiceHealthy, "", 2))
	see(30, service(engine.ServiceHealthy, "", 2))
	want := []string{
		"  0.0s  web: starting 0/2: pulling",
		"  7.0s  web: starting 0/2: restart in 2s",
		"  8.0s  web: degraded 1/2: GET /: 503",
		"  9.0s  web: healthy 2/2",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if took := g.took(at(60))["web"]; took != 9*time.Second {
		t.Errorf("took %s, want the 9 s until it was healthy", took)
	}
}

func TestPassageLosesPatience(t *testing.T) {
	start := time.Now()
	g := passage{started: start}
	crash := []engine.Service{{Name: "web", State: engine.ServiceCrashLooping, Want: 1}}
	g.observe(crash, start)
	g.observe([]engine.Service{{Name: "web", State: engine.ServiceStarting, Want: 1}}, start.Add(10*time.Second))
	g.observe(crash, start.Add(12*time.Second))
	if name := g.hopeless(start.Add(12*time.Second + patience)); name != "" {
		t.Errorf("%s is given up although it was not crashing all the time", name)
	}
	if name := g.hopeless(start.Add(13*time.Second + patience)); name != "web" {
		t.Errorf("got %q, want web to be given up", name)
	}
}

// histories is a control plane of which only the history is asked.
type histories struct {
	api.Control
	revisions []state.Revision
}

func (h histories) History(context.Context, int) ([]state.Revision, error) { return h.revisions, nil }

func TestSettled(t *testing.T) {
	status := func(revision int64, settled bool, outcome string) api.Status {
		return api.Status{State: engine.State{Revision: revision, Settled: settled, Outcome: outcome}}
	}
	later := []state.Revision{{Number: 6, Actor: "ann@desk", Cause: "up"}, {Number: 5, Outcome: state.Superseded}}
	back := []state.Revision{{Number: 6, Undoes: 5}, {Number: 5, Outcome: state.RolledBack}}
	for _, c := range []struct {
		name    string
		status  api.Status
		history []state.Revision
		done    bool
		err     string
	}{
		{"the one before is in force", status(4, true, state.Healthy), nil, false, ""},
		{"on its way", status(5, false, state.Pending), nil, false, ""},
		{"settled without an outcome", status(5, true, state.Pending), nil, false, ""},
		{"healthy", status(5, true, state.Healthy), nil, true, ""},
		{"failed", status(5, true, state.Failed), nil, true, "failed"},
		{"rolled back, the one before not there yet", status(5, true, state.RolledBack), nil, false, ""},
		{"on its way back", status(6, false, state.Pending), back, false, ""},
		{"rolled back", status(6, true, state.Healthy), back, true, "failed and was rolled back"},
		{"superseded", status(6, false, state.Pending), later, true, "was superseded; revision 6 (up by ann@desk) is in its place"},
		{"healthy before the next came", status(6, false, state.Pending), []state.Revision{{Number: 6}, {Number: 5, Outcome: state.Healthy}}, true, ""},
		{"forgotten", status(6, false, state.Pending), []state.Revision{{Number: 6}}, true, "revision 5: not found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			done, err := settled(t.Context(), histories{revisions: c.history}, 5)(c.status)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if done != c.done || text != c.err {
				t.Errorf("got %v %q, want %v %q", done, text, c.done, c.err)
			}
		})
	}
}

// flapping is a control plane whose Watch ends again and again before it goes on.
type flapping struct {
	api.Control
	ends int
}

func (f *flapping) Watch(ctx context.Context, fn func(api.Status) error) error {
	if f.ends > 0 {
		f.ends--
		return errdefs.ErrUnavailable
	}
	if err := fn(api.Status{Version: "back"}); err != nil {
		return err
	}
	return errors.New("broken")
}

func TestWatchOutlivesTheControlPlane(t *testing.T) {
	statuses, ended := statuses(t.Context(), &flapping{ends: 3})
	if s := <-statuses; s.Version != "back" {
		t.Errorf("got %+v", s)
	}
	if err := <-ended; err == nil || err.Error() != "broken" {
		t.Errorf("ended with %v, want the error that does not pass", err)
	}
}

func TestSummaryCountsTraffic(t *testing.T) {
	status := func(pid int, revision int64, requests, failed uint64) api.Status {
		return api.Status{
			State: engine.State{Services: []engine.Service{{Name: "web", State: engine.ServiceHealthy, Want: 3, Ready: 3, Revision: revision}}},
			Proxy: api.Process{PID: pid}, Traffic: map[string]proxy.Counters{"web": {Requests: requests, Failed: failed}},
		}
	}
	took := passageTimes{whole: time.Minute, services: map[string]time.Duration{"web": 12400 * time.Millisecond}}
	for name, c := range map[string]struct {
		before, after api.Status
		want          string
	}{
		"requests meanwhile":   {status(1, 7, 1000, 2), status(1, 8, 19204, 2), "web r7→r8  3/3 healthy  12.4s  18,204 requests, 0 failed"},
		"another data plane":   {status(1, 7, 1000, 2), status(2, 8, 19204, 2), "web r7→r8  3/3 healthy  12.4s"},
		"no requests":          {status(1, 7, 1000, 2), status(1, 8, 1000, 2), "web r7→r8  3/3 healthy  12.4s"},
		"for the first time":   {api.Status{}, status(1, 8, 1, 0), "web r8  3/3 healthy  12.4s"},
		"same revision as was": {status(1, 8, 1, 0), status(1, 8, 2, 0), " r0 is up to date  1/1 services well  60.0s"},
	} {
		got := summaryLines(c.before, c.after, 0, took)
		if diff := cmp.Diff([]string{c.want}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestOnly(t *testing.T) {
	service := func(image string, on ...string) compose.Service {
		s := compose.Service{Image: image, DependsOn: map[string]compose.Dependency{}}
		for _, name := range on {
			s.DependsOn[name] = compose.Dependency{}
		}
		return s
	}
	want := compose.Project{Name: "shop", Services: map[string]compose.Service{
		"web": service("web:2", "api"), "api": service("api:2", "db"), "db": service("db:2"), "job": service("job:2"), "mail": service("mail:2"),
	}}
	running := &compose.Project{Name: "shop", Services: map[string]compose.Service{
		"mail": service("mail:1"), "db": service("db:1"), "stopped": service("stopped:1"),
	}}
	got := map[string]string{}
	for name, svc := range only(want, running, []string{"mail", "db"}, []string{"web"}).Services {
		got[name] = svc.Image
	}
	if diff := cmp.Diff(map[string]string{"web": "web:2", "api": "api:2", "db": "db:2", "mail": "mail:1"}, got); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	if len(want.Services) != 5 {
		t.Error("the project itself was changed")
	}
}
