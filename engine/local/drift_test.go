package local

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/state"
)

// drift returns what drifted, one line each.
func (b *bench) drift() []string {
	b.Helper()
	all, err := b.eng.Drift(b.Context(), projectName)
	if err != nil {
		b.Fatal(err)
	}
	lines := []string{}
	for _, d := range all {
		from, _ := json.Marshal(d.From)
		to, _ := json.Marshal(d.To)
		line := fmt.Sprintf("%s: %s %s %s -> %s (%s)", d.Kind, d.Action, d.Path, from, to, d.Effect)
		if d.Heals {
			line += " heals"
		}
		if d.Adoptable {
			line += " adoptable"
		}
		lines = append(lines, line)
	}
	return lines
}

func (b *bench) noDrift() {
	b.Helper()
	if lines := b.drift(); len(lines) > 0 {
		b.Fatalf("drift where there is none:\n%s", strings.Join(lines, "\n"))
	}
}

// instance returns the ID of the instance of a slot.
func (b *bench) instance(service string, slot int) driver.ID {
	b.Helper()
	for _, in := range b.service(service).Instances {
		if in.Slot == slot {
			return full(projectName, in.ID)
		}
	}
	b.Fatalf("%s has no instance %d", service, slot)
	return ""
}

// drifting is a service with something of everything that can be changed behind its back.
func drifting(s *compose.Service) {
	s.Environment = map[string]string{"COLOR": "blue", "DB_PASSWORD": "hunter2"}
	s.Volumes = []compose.Mount{
		{Type: compose.MountTmpfs, Target: "/tmp"}, {Type: compose.MountVolume, Source: "data", Target: "/data", ReadOnly: true},
	}
	s.Tmpfs = []string{"/run:size=1m"}
	s.Secrets = []compose.FileMount{{Source: "password"}}
	s.Configs = []compose.FileMount{{Source: "other"}, {Source: "settings", Target: "/etc/settings"}}
	s.ExtraHosts = map[string][]string{"mail.example.org": {"192.0.2.1"}}
	s.Deploy.Resources.Limits.Memory = 128 << 20
}

func driftingProject() compose.Project {
	p := project(server("web", 2, drifting), server("db", 1, func(s *compose.Service) {
		s.Volumes = []compose.Mount{{Type: compose.MountVolume, Source: "data", Target: "/data"}}
	}))
	p.Volumes["data"] = compose.Volume{}
	p.Secrets = map[string]compose.FileValue{"password": {Ref: "aa"}}
	p.Configs = map[string]compose.FileValue{"settings": {Ref: "bb"}, "other": {Ref: "cc"}}
	return p
}

func TestDriftOfInstances(t *testing.T) {
	for _, c := range []struct {
		name    string
		service string
		dev     driver.Deviation
		want    string
	}{
		{"memory", "web", driver.Deviation{Field: driver.DeviatesLimit, Key: "memory", Want: int64(128 << 20), Have: int64(64 << 20)},
			"changed: change services.web.deploy.resources.limits.memory 134217728 -> 67108864 (rollout) adoptable"},
		{"cpus that were not limited", "web", driver.Deviation{Field: driver.DeviatesLimit, Key: "cpus", Have: 0.5},
			"changed: add services.web.deploy.resources.limits.cpus null -> 0.5 (rollout) adoptable"},
		{"processes no longer limited", "web", driver.Deviation{Field: driver.DeviatesLimit, Key: "pids", Want: int64(50)},
			"changed: remove services.web.deploy.resources.limits.pids 50 -> null (rollout) adoptable"},
		{"shares of CPU", "web", driver.Deviation{Field: driver.DeviatesLimit, Key: "cpu_shares", Have: int64(512)},
			"changed: add services.web.cpu_shares null -> 512 (rollout) adoptable"},
		{"the only replica of a volume stops first", "db", driver.Deviation{Field: driver.DeviatesUlimit, Key: "nofile", Want: int64(1024), Have: int64(64)},
			"changed: change services.db.ulimits.nofile.hard 1024 -> 64 (stop-first) adoptable"},
		{"out of memory score", "web", driver.Deviation{Field: driver.DeviatesOom, Want: int64(100), Have: int64(-5)},
			"changed: change services.web.oom_score_adj 100 -> -5 (rollout) adoptable"},
		{"stands still", "web", driver.Deviation{Field: driver.DeviatesState, Want: "running", Have: "paused"},
			`changed: change services.web "running" -> "paused" (rollout)`},
		{"unmounted volume", "web", driver.Deviation{Field: driver.DeviatesMount, Key: "/data", Want: "mounted"},
			`changed: remove services.web.volumes[1] "mounted" -> null (rollout)`},
		{"unmounted tmpfs", "web", driver.Deviation{Field: driver.DeviatesMount, Key: "/run", Want: "mounted"},
			`changed: remove services.web.tmpfs[0] "mounted" -> null (rollout)`},
		{"volume that may be written", "web", driver.Deviation{Field: driver.DeviatesAccess, Key: "/data", Want: true, Have: false},
			"changed: change services.web.volumes[1].read_only true -> false (rollout) adoptable"},
		{"secret", "web", driver.Deviation{Field: driver.DeviatesFile, Key: "/run/secrets/password", Want: "content", Have: "another content"},
			`changed: change services.web.secrets[0] "content" -> "another content" (rollout)`},
		{"config that is gone", "web", driver.Deviation{Field: driver.DeviatesFile, Key: "/etc/settings", Want: "content"},
			`changed: remove services.web.configs[1] "content" -> null (rollout)`},
		{"mode of a config", "web", driver.Deviation{Field: driver.DeviatesMode, Key: "/other", Want: "0444", Have: "0666"},
			`changed: change services.web.configs[0].mode "0444" -> "0666" (rollout) adoptable`},
		{"name of the file's own", "web", driver.Deviation{Field: driver.DeviatesHost, Key: "mail.example.org", Want: "192.0.2.1", Have: "192.0.2.9"},
			`changed: change services.web.extra_hosts."mail.example.org" "192.0.2.1" -> "192.0.2.9" (rollout)`},
		{"name of a service", "web", driver.Deviation{Field: driver.DeviatesHost, Key: "db", Want: "127.88.0.1"},
			`changed: remove services.web.networks "127.88.0.1" -> null (rollout)`},
		{"environment", "web", driver.Deviation{Field: driver.DeviatesEnv, Key: "COLOR", Want: "blue", Have: "green"},
			`changed: change services.web.environment.COLOR "blue" -> "green" (rollout) adoptable`},
		{"a secret in the environment is not shown and not adopted", "web",
			driver.Deviation{Field: driver.DeviatesEnv, Key: "DB_PASSWORD", Want: "hunter2", Have: "hunter3"},
			`changed: change services.web.environment.DB_PASSWORD "***" -> "***" (rollout)`},
		{"image", "web", driver.Deviation{Field: driver.DeviatesImage, Want: "web:1", Have: "web:2"},
			`changed: change services.web.image "web:1" -> "web:2" (rollout) adoptable`},
		{"network", "web", driver.Deviation{Field: driver.DeviatesNetwork, Key: "shop_default", Want: "joined"},
			`changed: remove services.web.networks.default "joined" -> null (rollout)`},
		{"somebody else's network", "web", driver.Deviation{Field: driver.DeviatesNetwork, Key: "theirs", Have: "joined"},
			`changed: add services.web.networks null -> "joined" (rollout)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(b *bench) {
				b.apply(driftingProject())
				b.settled(state.Healthy)
				b.noDrift()
				changed := b.instance(c.service, 1)
				b.world.Deviate(changed, c.dev)
				if d := cmp.Diff([]string{c.want}, b.drift()); d != "" {
					t.Fatalf("-want +got:\n%s", d)
				}
				asked, err := b.eng.Revert(b.Context(), projectName, nil, "me@here")
				if err != nil || len(asked) != 1 {
					t.Fatalf("revert: %v, %v", asked, err)
				}
				b.until("it is replaced", func() bool {
					svc := b.service(c.service)
					return svc.Ready == svc.Want && !slices.ContainsFunc(svc.Instances, func(in engine.Instance) bool {
						return full(projectName, in.ID) == changed
					})
				})
				b.noDrift()
				if got := b.events("drift.found", "drift.gone", "drift.reverted"); !slices.Equal(got, []string{"drift.found " + c.service, "drift.reverted " + c.service, "drift.gone"}) {
					t.Errorf("events %q", got)
				}
			})
		})
	}
}

func TestDriftOfOverrides(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(driftingProject())
		b.settled(state.Healthy)
		five := 5
		for _, o := range []state.Override{{Service: "web", Replicas: &five}, {Service: "db", Stopped: true}} {
			if err := b.eng.Override(b.Context(), projectName, o); err != nil {
				t.Fatal(err)
			}
		}
		b.until("scaled and stopped", func() bool {
			db := b.service("db")
			return b.service("web").Ready == 5 && db.Ready == 0 && db.State == engine.ServiceStopped
		})
		want := []string{
			"stopped: change services.db.deploy.replicas 1 -> 0 (in-place) adoptable",
			"scaled: change services.web.deploy.replicas 2 -> 5 (in-place) adoptable",
		}
		if d := cmp.Diff(want, b.drift()); d != "" {
			t.Fatalf("-want +got:\n%s", d)
		}
		if d := cmp.Diff(map[string]int{"web": 1, "db": 1}, b.eng.Drifted()); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
		if _, err := b.eng.Revert(b.Context(), projectName, []string{"web"}, "me@here"); err != nil {
			t.Fatal(err)
		}
		b.until("two again", func() bool { return len(b.service("web").Instances) == 2 })
		if d := cmp.Diff(want[:1], b.drift()); d != "" {
			t.Fatalf("after web: -want +got:\n%s", d)
		}
		// A restart, and a number that the file says too, separate nothing from the revision.
		two := 2
		if err := b.eng.Override(b.Context(), projectName, state.Override{Service: "web", Replicas: &two, Restart: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.eng.Revert(b.Context(), projectName, nil, "me@here"); err != nil {
			t.Fatal(err)
		}
		b.until("db runs", func() bool { return b.service("db").Ready == 1 })
		b.until("it is seen by itself that nothing differs any more", func() bool { return len(b.eng.Drifted()) == 0 })
		b.noDrift()
	})
}

func TestDriftOfWhatIsGone(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(driftingProject())
		b.settled(state.Healthy)
		b.world.Fault(func(op string, _ driver.ID) error {
			if op == "start" {
				return fmt.Errorf("not now")
			}
			return nil
		})
		b.world.Crash(b.instance("web", 2), 0, "SIGKILL") // answered by the driver itself
		b.until("back", func() bool { return b.service("web").Ready == 2 })
		b.world.Crash(b.instance("web", 2), 0, "SIGKILL") // and this one by the loop, which is refused
		want := []string{"gone: change services.web.deploy.replicas 2 -> 1 (in-place) heals"}
		if d := cmp.Diff(want, b.drift()); d != "" {
			t.Fatalf("-want +got:\n%s", d)
		}
		if asked, err := b.eng.Revert(b.Context(), projectName, nil, "me@here"); err != nil || len(asked) != 0 {
			t.Errorf("what heals is left to heal: %v, %v", asked, err)
		}
		b.world.Fault(nil)
		b.until("healed", func() bool { return b.service("web").Ready == 2 })
		b.noDrift()
		if got := b.events("drift.found"); len(got) > 0 {
			t.Errorf("events %q of what heals", got)
		}
	})
}

func TestDriftOfPorts(t *testing.T) {
	p := project(server("web", 1, func(s *compose.Service) {
		s.Ports = []compose.Port{{Target: 80, Published: "8080", Protocol: "tcp"}, {Target: 81, Published: "80", Protocol: "tcp"}}
	}))
	d := &desired{want: want{services: []wantService{{name: "web"}}}, services: map[string]*service{"web": {compose: p.Services["web"]}}}
	for problem, want := range map[string]string{
		"":                                 "",
		"0.0.0.0:8080: nginx (pid 7)":      "services.web.ports[0].published",
		"conflict: [::]:80 is taken":       "services.web.ports[1].published",
		"conflict: 0.0.0.0:18080 is taken": "",
		"conflict: 0.0.0.0:80801, and :80": "services.web.ports[1].published",
	} {
		got := ""
		for _, one := range takenPorts(d, problem) {
			got += one.Path
		}
		if got != want {
			t.Errorf("%q: %q, want %q", problem, got, want)
		}
	}
}

// TestDriftIsFoundUnasked: within five minutes, told once, also by the next control plane.
func TestDriftIsFoundUnasked(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(driftingProject())
		b.settled(state.Healthy)
		b.world.Deviate(b.instance("web", 1), driver.Deviation{Field: driver.DeviatesLimit, Key: "memory", Want: int64(128 << 20), Have: int64(64 << 20)})
		time.Sleep(driftEvery + time.Second)
		if got := b.events("drift.found"); !slices.Equal(got, []string{"drift.found web"}) {
			t.Fatalf("events %q", got)
		}
		b.kill()
		b.run()
		time.Sleep(3 * driftEvery)
		if got := b.events("drift.found", "drift.gone"); !slices.Equal(got, []string{"drift.found web"}) {
			t.Errorf("events %q after a restart", got)
		}
		for ev, err := range b.store.Events(b.Context(), state.EventFilter{}) {
			if err == nil && ev.Kind == "drift.found" && !strings.Contains(ev.Message, "services.web.deploy.resources.limits.memory of web-1-") {
				t.Errorf("message %q", ev.Message)
			}
		}
	})
}
