package engine_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/compose"
	"trellis/cputime"
	"trellis/engine"
)

func two() compose.Project {
	n := 2
	return compose.Project{
		Name: "shop",
		Services: map[string]compose.Service{
			"web": {
				Name: "web", Image: "web:1", Command: []string{"web", "-v"},
				Environment: map[string]string{"COLOR": "blue", "DB_PASSWORD": "hunter2", "DB_URL": "postgres://app:hunter2@db:5432/app"},
				Ports:       []compose.Port{{Target: 80, Published: "8080", Protocol: "tcp"}, {Target: 81, Published: "8081", Protocol: "tcp"}},
				Deploy:      compose.Deploy{Replicas: &n},
				Labels:      map[string]string{"team": "a"},
				Secrets:     []compose.FileMount{{Source: "db_password"}},
			},
			"db": {
				Name: "db", Image: "postgres:17",
				Volumes: []compose.Mount{{Type: compose.MountVolume, Source: "data", Target: "/var/lib/postgresql"}},
			},
		},
		Volumes: map[string]compose.Volume{"data": {Name: "shop_data"}},
		Secrets: map[string]compose.FileValue{"db_password": {File: "/p/secret.txt", Ref: "aaaa"}},
	}
}

func diff(from, to compose.Project) []string {
	var all []string
	for _, c := range engine.Diff(to, engine.State{Desired: &from}) {
		a, _ := json.Marshal(c.From)
		b, _ := json.Marshal(c.To)
		all = append(all, fmt.Sprintf("%s %s %s -> %s: %s", c.Action, c.Path, a, b, c.Effect))
	}
	return all
}

func TestDiff(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*compose.Project)
		want   []string
	}{
		{"nothing", func(*compose.Project) {}, nil},
		{"environment", func(p *compose.Project) {
			s := p.Services["web"]
			s.Environment = map[string]string{"COLOR": "green", "NEW": "1", "DB_PASSWORD": "other", "DB_URL": "postgres://app:other@db:5432/app"}
			p.Services["web"] = s
		}, []string{
			`change services.web.environment.COLOR "blue" -> "green": rollout`,
			`change services.web.environment.DB_PASSWORD "***" -> "***": rollout`,
			`change services.web.environment.DB_URL "postgres://app:***@db:5432/app" -> "postgres://app:***@db:5432/app": rollout`,
			`add services.web.environment.NEW null -> "1": rollout`,
		}},
		{"ports are compared by what they lead to", func(p *compose.Project) {
			s := p.Services["web"]
			s.Ports = []compose.Port{{Target: 81, Published: "8081", Protocol: "tcp"}, {Target: 80, Published: "9090", Protocol: "tcp"}}
			p.Services["web"] = s
		}, []string{`change services.web.ports[1].published "8080" -> "9090": in-place`}},
		{"a port less", func(p *compose.Project) {
			s := p.Services["web"]
			s.Ports = s.Ports[:1]
			p.Services["web"] = s
		}, []string{`remove services.web.ports[1] {"protocol":"tcp","published":"8081","target":81} -> null: rollout`}},
		{"command as a whole", func(p *compose.Project) {
			s := p.Services["web"]
			s.Command = []string{"web", "--token=abc"}
			p.Services["web"] = s
		}, []string{`change services.web.command ["web","-v"] -> ["web","--token=***"]: rollout`}},
		{"replicas and labels", func(p *compose.Project) {
			s, n := p.Services["web"], 5
			s.Deploy.Replicas, s.Labels = &n, map[string]string{"team": "b"}
			p.Services["web"] = s
		}, []string{
			`change services.web.deploy.replicas 2 -> 5: in-place`,
			`change services.web.labels.team "a" -> "b": rollout`,
		}},
		{"a network more", func(p *compose.Project) {
			s := p.Services["web"]
			s.Networks = map[string]compose.Attachment{"back": {}}
			p.Services["web"] = s
		}, []string{`add services.web.networks.back null -> {}: rollout`}},
		{"a label with dots in its name", func(p *compose.Project) {
			s := p.Services["web"]
			s.Labels = map[string]string{"team": "a", "org.example.token": "hunter2", "org.example.note": "x"}
			p.Services["web"] = s
		}, []string{
			`add services.web.labels."org.example.note" null -> "x": rollout`,
			`add services.web.labels."org.example.token" null -> "***": rollout`,
		}},
		{"a single replica with a volume stops first", func(p *compose.Project) {
			s := p.Services["db"]
			s.Image = "postgres:18"
			p.Services["db"] = s
		}, []string{`change services.db.image "postgres:17" -> "postgres:18": stop-first`}},
		{"service and volume removed", func(p *compose.Project) {
			delete(p.Services, "db")
			delete(p.Volumes, "data")
		}, []string{
			`remove services.db {"image":"postgres:17","volumes":[{"source":"data","target":"/var/lib/postgresql","type":"volume"}]} -> null: stop-first`,
			`remove volumes.data {"name":"shop_data"} -> null: data-loss`,
		}},
		{"content of a secret", func(p *compose.Project) {
			p.Secrets = map[string]compose.FileValue{"db_password": {File: "/p/secret.txt", Ref: "bbbb"}}
		}, []string{`change secrets.db_password.ref "aaaa" -> "bbbb": rollout`}},
		{"content not read yet", func(p *compose.Project) {
			p.Secrets = map[string]compose.FileValue{"db_password": {File: "/p/secret.txt"}}
		}, nil},
		{"service added", func(p *compose.Project) {
			p.Services["cache"] = compose.Service{Name: "cache", Image: "redis", Environment: map[string]string{"REDIS_TOKEN": "x"}}
		}, []string{`add services.cache null -> {"environment":{"REDIS_TOKEN":"***"},"image":"redis"}: none`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := two()
			c.change(&to)
			if d := cmp.Diff(c.want, diff(two(), to)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// TestDiffSeesEveryAttribute: each field of a service is compared under the key that its JSON has, and one that is empty on
// both sides is no difference.
func TestDiffSeesEveryAttribute(t *testing.T) {
	text, err := os.ReadFile("../compose/testdata/full.json")
	if err != nil {
		t.Fatal(err)
	}
	var full compose.Project
	if err := json.Unmarshal(text, &full); err != nil {
		t.Fatal(err)
	}
	for name, svc := range full.Services {
		want := map[string]json.RawMessage{}
		line, err := json.Marshal(svc)
		if err == nil {
			err = json.Unmarshal(line, &want)
		}
		if err != nil {
			t.Fatal(err)
		}
		empty := compose.Service{Name: name, Labels: map[string]string{}, Command: []string{}}
		from := compose.Project{Services: map[string]compose.Service{name: empty}}
		to := compose.Project{Services: map[string]compose.Service{name: svc}}
		got := map[string]bool{}
		for _, c := range engine.Diff(to, engine.State{Desired: &from}) {
			key, _, _ := strings.Cut(strings.TrimPrefix(c.Path, "services."+name+"."), ".")
			key, _, _ = strings.Cut(key, "[")
			got[key] = true
		}
		if d := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); d != "" {
			t.Errorf("%s: -has +seen:\n%s", name, d)
		}
	}
}

func TestDiffOfNothingApplied(t *testing.T) {
	var paths []string
	for _, c := range engine.Diff(two(), engine.State{}) {
		paths = append(paths, c.Action+" "+c.Path)
	}
	want := []string{"add secrets.db_password", "add services.db", "add services.web", "add volumes.data"}
	if !slices.Equal(paths, want) {
		t.Errorf("got %q, want %q", paths, want)
	}
}

func TestDiffNamesNoSecret(t *testing.T) {
	to := two()
	text, err := json.Marshal(engine.Diff(to, engine.State{}))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "hunter2") {
		t.Errorf("a password stands in the plan: %s", text)
	}
}

func large(n int, color string) compose.Project {
	p := compose.Project{Name: "large", Services: map[string]compose.Service{}}
	for i := range n {
		name := fmt.Sprintf("service-%03d", i)
		d := compose.Duration(time.Second)
		p.Services[name] = compose.Service{
			Name: name, Image: "image:1", Environment: map[string]string{"COLOR": color, "A": "1", "B": "2", "C": "3"},
			Ports:       []compose.Port{{Target: 8080, Published: fmt.Sprint(10000 + i), Protocol: "tcp"}},
			Healthcheck: &compose.Healthcheck{Interval: &d}, Networks: map[string]compose.Attachment{"default": {}},
		}
	}
	return p
}

// BenchmarkDiff measures how a plan grows with the number of services, of which none or all are changed. cpu-ms/op is CPU
// time, garbage collection included: on a busy machine ns/op says how long others were served.
func BenchmarkDiff(b *testing.B) {
	for _, n := range []int{50, 500, 5000} {
		for name, color := range map[string]string{"same": "blue", "all": "green"} {
			from, to := large(n, "blue"), large(n, color)
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				begin := cputime.Used(b)
				for b.Loop() {
					engine.Diff(to, engine.State{Desired: &from})
				}
				b.ReportMetric(float64((cputime.Used(b)-begin).Microseconds())/1000/float64(b.N), "cpu-ms/op")
			})
		}
	}
}

// TestDiffGrowsEvenly: ten times the services cost about ten times the time, with room for a noisy machine.
func TestDiffGrowsEvenly(t *testing.T) {
	cost := func(n int) time.Duration {
		from, to := large(n, "blue"), large(n, "green")
		best := time.Duration(1 << 62)
		for range 5 {
			begin := cputime.Used(t)
			engine.Diff(to, engine.State{Desired: &from})
			best = min(best, cputime.Used(t)-begin)
		}
		return best
	}
	small, large := cost(50), cost(500)
	t.Logf("50 services: %s, 500 services: %s", small, large)
	if limit := 40 * max(small, time.Millisecond); large > limit {
		t.Errorf("500 services cost %s, 50 cost %s", large, small)
	}
}

// TestAnotherShareOfAShift: what goes to another gateway changes while everything runs on.
func TestAnotherShareOfAShift(t *testing.T) {
	shifting := func(s *compose.Shift) compose.Project {
		p := two()
		p.Trellis.Gateway = &compose.Gateway{Shift: s}
		return p
	}
	tenth := &compose.Shift{To: "http://10.0.0.7", Share: 0.1}
	for _, c := range []struct {
		to   *compose.Shift
		want []string
	}{
		{&compose.Shift{To: "http://10.0.0.7", Share: 0.5}, []string{`change x-trellis.gateway.shift.share "10%" -> "50%": in-place`}},
		{&compose.Shift{To: "http://10.0.0.7"}, []string{`change x-trellis.gateway.shift.share "10%" -> "0%": in-place`}},
		{nil, []string{
			`remove x-trellis.gateway.shift.share "10%" -> null: in-place`, `remove x-trellis.gateway.shift.to "http://10.0.0.7" -> null: in-place`,
		}},
		{&compose.Shift{To: "https://10.0.0.7", Share: 0.1}, []string{`change x-trellis.gateway.shift.to "http://10.0.0.7" -> "https://10.0.0.7": in-place`}},
	} {
		if d := cmp.Diff(c.want, diff(shifting(tenth), shifting(c.to))); d != "" {
			t.Error(d)
		}
	}
}

// TestDiffToZero: what the model leaves out because it is zero is told as that where leaving it out means zero, and as removed where it
// means something else, or where what it belongs to is gone.
func TestDiffToZero(t *testing.T) {
	with := func(on bool, share compose.Share, number int64) compose.Project {
		p := two()
		p.Trellis.Gateway = &compose.Gateway{RedirectHTTPS: on, AccessLog: float64(share)}
		p.Networks = map[string]compose.Network{"back": {Internal: on}}
		s := p.Services["web"]
		s.ReadOnly, s.OomScoreAdj, s.ShmSize = on, number, number
		s.Volumes = []compose.Mount{{Type: compose.MountVolume, Source: "data", Target: "/d", ReadOnly: on}}
		s.Trellis.Objective = &compose.Objective{Availability: share}
		s.Ports[0].Trellis.Routes = []compose.Route{{Path: "/", Split: []compose.Split{{Service: "db", Share: share, Header: "X"}}}}
		p.Services["web"] = s
		return p
	}
	on, off := with(true, 0.1, 9), with(false, 0, 0)
	want := []string{
		`change networks.back.internal true -> false: none`,
		`change services.web.oom_score_adj 9 -> 0: rollout`,
		`remove services.web.ports[0].x-trellis.routes[0].split[0].share "10%" -> null: in-place`,
		`change services.web.read_only true -> false: rollout`,
		`remove services.web.shm_size 9 -> null: rollout`,
		`change services.web.volumes[0].read_only true -> false: rollout`,
		`remove services.web.x-trellis.objective.availability "10%" -> null: in-place`,
		`change x-trellis.gateway.access_log 0.1 -> 0: in-place`,
		`change x-trellis.gateway.redirect_https true -> false: in-place`,
	}
	if d := cmp.Diff(want, diff(on, off)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	none := with(false, 0, 0)
	none.Trellis.Gateway = nil
	for _, line := range diff(on, none) {
		if strings.Contains(line, "gateway") && !strings.HasPrefix(line, "remove ") {
			t.Errorf("without a gateway: %s", line)
		}
	}
}

// TestDiffOfANameWithADot: what follows the name is found by whoever takes the path apart.
func TestDiffOfANameWithADot(t *testing.T) {
	from := compose.Project{Name: "shop", Services: map[string]compose.Service{"api.v1": {Name: "api.v1", Image: "a"}}}
	to := compose.Project{Name: "shop", Services: map[string]compose.Service{"api.v1": {Name: "api.v1", Image: "b"}}}
	changes := engine.Diff(to, engine.State{Desired: &from})
	if len(changes) != 1 || !slices.Equal(compose.SplitPath(changes[0].Path), []string{"services", "api.v1", "image"}) {
		t.Errorf("changes %+v", changes)
	}
}

// TestWhatAPlanHides: the value of a secret, also where it follows a flag; and not the path of a file, nor whether something is on.
func TestWhatAPlanHides(t *testing.T) {
	shown := func(change func(*compose.Service)) string {
		from, to := two(), two()
		web := to.Services["web"]
		web.Environment = maps.Clone(web.Environment)
		change(&web)
		to.Services["web"] = web
		text, err := json.Marshal(engine.Diff(to, engine.State{Desired: &from}))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, c := range map[string]struct {
		change       func(*compose.Service)
		hidden, seen string
	}{
		"a flag and its value": {func(s *compose.Service) { s.Command = []string{"redis-server", "--requirepass", "hunter3"} }, "hunter3", "--requirepass"},
		"another flag":         {func(s *compose.Service) { s.Command = []string{"app", "--db.password", "hunter3", "--port", "80"} }, "hunter3", `"80"`},
		"flags without values": {func(s *compose.Service) { s.Command = []string{"app", "--password", "--verbose"} }, "hunter3", "--verbose"},
		"a flag in a shell's line": {func(s *compose.Service) {
			s.Command = []string{"sh", "-c", "exec redis-server --requirepass hunter3 --port 80"}
		}, "hunter3", "--port 80"},
		"a variable":         {func(s *compose.Service) { s.Environment["API_TOKEN"] = "hunter3" }, "hunter3", "API_TOKEN"},
		"a number of tokens": {func(s *compose.Service) { s.Environment["MAX_TOKENS"] = "4096" }, "***", "4096"},
		"tokens":             {func(s *compose.Service) { s.Environment["MAX_TOKENS"] = "hunter3,hunter4" }, "hunter3", "MAX_TOKENS"},
		"the path of a file": {func(s *compose.Service) { s.Environment["DB_PASSWORD_FILE"] = "/run/secrets/db" }, "hunter3", "/run/secrets/db"},
		"whether something is on": {func(s *compose.Service) {
			s.Environment["AUTH_ENABLED"], s.Environment["PRIVATE_MODE"] = "true", "true"
		}, "***", "true"},
	} {
		if text := shown(c.change); strings.Contains(text, c.hidden) || !strings.Contains(text, c.seen) {
			t.Errorf("%s: %s\nwant %q to be seen and %q not", name, text, c.seen, c.hidden)
		}
	}
}

// TestLooksSecret: whatever may be one is; a number under a name that says how many there may be is none.
func TestLooksSecret(t *testing.T) {
	for name, values := range map[string]struct{ secret, open string }{
		"MAX_TOKENS":                  {"hunter2", "4096"},
		"max-output-tokens":           {"hunter2", "4096"},
		"maxTokens":                   {"4k of them", "4096"},
		"TOKENS_PER_MINUTE":           {"a,b", "1.5e4"},
		"TOKEN_LIMIT":                 {"none", "100"},
		"apiKeysLimit":                {"abc", "10"},
		"TOKEN":                       {"4096", ""},
		"API_TOKENS":                  {"4096", ""},
		"MAX_TOKENS_API_KEY":          {"4096", ""},
		"ACCESS_TOKEN_MAX_USER":       {"4096", ""},
		"MIN_TOKENS_ADMIN_PASSWORD":   {"123456", ""},
		"NUMBER_OF_THE_CARD_PASSWORD": {"1234", ""},
		"COUNT_SECRET":                {"4096", ""},
		"PASSWORD_FILE":               {"", "/run/secrets/password"},
		"COLOR":                       {"", "blue"},
	} {
		if values.secret != "" && !engine.LooksSecret(name, values.secret) {
			t.Errorf("%s=%s is shown", name, values.secret)
		}
		if values.open != "" && engine.LooksSecret(name, values.open) {
			t.Errorf("%s=%s is hidden", name, values.open)
		}
	}
}
