package local

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/compose"
	"trellis/driver"
	"trellis/driver/fake"
	"trellis/engine"
	"trellis/engine/traffic"
	"trellis/errdefs"
	"trellis/proxy"
	"trellis/state"
)

func published(p compose.Project) []string {
	var all []string
	for _, l := range Doors(p) {
		all = append(all, fmt.Sprintf("%s at %s: %s to %s:%d", l.Name, l.Address, l.Protocol, l.Service, l.Port))
	}
	return all
}

func ports(ports ...compose.Port) func(*compose.Service) {
	return func(s *compose.Service) { s.Ports = ports }
}

func TestDoors(t *testing.T) {
	p := project(
		server("web", 1, ports(
			compose.Port{Target: 80, Published: "8080", Protocol: "tcp"},
			compose.Port{Target: 443, Published: "8443", HostIP: "127.0.0.1", Protocol: "tcp", AppProtocol: "http"},
			compose.Port{Target: 53, Published: "5353", Protocol: "udp"},
			compose.Port{Target: 9000, Protocol: "tcp", AppProtocol: "tcp"},
			compose.Port{Target: 7000, Published: "7000-7010", Protocol: "tcp"},
			compose.Port{Target: 22, Published: "2222", Protocol: "tcp", Mode: "host"},
		), func(s *compose.Service) { s.Trellis.Process = &compose.Process{} }),
		server("box", 1, ports(compose.Port{Target: 23, Published: "2323", Protocol: "tcp", Mode: "host"})), // a container
		server("api", 1, ports(compose.Port{Target: 8080, Protocol: "tcp", Trellis: compose.PortExtension{
			Routes: []compose.Route{{Path: "/api/*"}}}})),
		server("raw", 1, ports(compose.Port{Target: 99, Published: "99", Protocol: "tcp"}), func(s *compose.Service) { s.NetworkMode = "host" }),
	)
	want := []string{
		"port/0.0.0.0:2323/tcp at :2323: detect to box:23",
		"port/0.0.0.0:8080/tcp at :8080: detect to web:80",
		"port/127.0.0.1:8443/tcp at 127.0.0.1:8443: http to web:443",
		"port/0.0.0.0:5353/udp at :5353: udp to web:53",
		"port/0.0.0.0:0/tcp/web:9000 at :0: tcp to web:9000",
		"port/0.0.0.0:7000/tcp at :7000: detect to web:7000",
		"gateway at :8080: http to :0",
	}
	if d := cmp.Diff(want, published(p)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	p.Trellis.Gateway = &compose.Gateway{HTTP: "127.0.0.1:9090", Hosts: []string{"a.test", "b.test"}, Policy: &compose.Policy{Auth: "none"}}
	var routes []string
	for _, r := range traffic.Routes(p) {
		routes = append(routes, fmt.Sprintf("%s%s to %s:%d, auth %s", r.Host, r.Path, r.Service, r.Port, r.Auth))
	}
	if want := []string{"a.test/api/* to api:8080, auth none", "b.test/api/* to api:8080, auth none"}; !slices.Equal(routes, want) {
		t.Errorf("routes %q, want %q", routes, want)
	}
}

func on(networks ...string) func(*compose.Service) {
	return func(s *compose.Service) {
		s.Networks = map[string]compose.Attachment{}
		for _, n := range networks {
			name, alias, _ := strings.Cut(n, ":")
			a := compose.Attachment{}
			if alias != "" {
				a.Aliases = []string{alias}
			}
			s.Networks[name] = a
		}
	}
}

func TestNamesAreServedBeforeTheFirstStart(t *testing.T) {
	bubble(t, func(b *bench) {
		b.world.Fault(func(op string, id driver.ID) error {
			if op != "start" {
				return nil
			}
			name := "name/" + strings.TrimPrefix(string(id), "shop/")
			if !slices.ContainsFunc(b.plane.snapshot().Listeners, func(l proxy.Listener) bool { return l.Name == name }) {
				b.Errorf("%s is started, and no name is served in its namespace", id)
			}
			return nil
		})
		b.apply(project(server("web", 2, on("front")), server("api", 1, on("front", "back:backend")), server("db", 1, on("back:storage:x"))))
		b.settled(state.Healthy)
		listeners := map[string][]string{}
		for _, l := range b.plane.snapshot().Listeners {
			if l.Caller != "" {
				listeners[l.Caller] = append(listeners[l.Caller], fmt.Sprint(slices.Sorted(maps.Values(l.Names))))
			}
		}
		want := map[string][]string{
			"web": {"[api web]", "[api web]"},
			"api": {"[api db web]"},
			"db":  {"[api db]"},
		}
		if d := cmp.Diff(want, listeners); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
		list, _ := b.world.Driver().List(b.Context(), projectName)
		for _, inst := range list {
			spec, _ := b.world.Spec(inst.ID)
			if inst.Service == "db" {
				want := map[string]string{"api": "127.88.0.1", "backend": "127.88.0.1", "db": "127.88.0.2", "storage:x": "127.88.0.2"}
				if d := cmp.Diff(want, spec.Hosts); d != "" {
					t.Errorf("hosts of db, -want +got:\n%s", d)
				}
			}
		}
		// The addresses stay, whatever comes before them in the alphabet.
		b.apply(project(server("aaa", 1, on("back")), server("db", 1, on("back"))))
		b.settled(state.Healthy)
		for _, l := range b.plane.snapshot().Listeners {
			if l.Caller != "" && l.Names["127.88.0.2"] != "db" {
				t.Errorf("db moved: %v", l.Names)
			}
		}
	})
}

func TestSnapshotTellsInstances(t *testing.T) {
	bubble(t, func(b *bench) {
		b.world.Script("web", fake.Script{ReadyAfter: 3 * time.Second, Listen: []int{8080, 9999}})
		b.apply(project(server("web", 1), server("client", 1)))
		b.until("the unready one is told", func() bool {
			s := b.plane.snapshot()
			return len(s.Services) == 2 && len(s.Services[1].Instances) == 1 && !s.Services[1].Instances[0].Ready
		})
		b.settled(state.Healthy)
		web := b.plane.snapshot().Services[1].Instances[0]
		if !web.Ready || web.Draining || web.WarmFrom.IsZero() || web.Host == "" || web.Slot != 1 || web.Revision != 1 {
			t.Errorf("%+v", web)
		}
	})
}

func TestRunOnce(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 1, env("COLOR", "blue"))))
		b.settled(state.Healthy)
		var out bytes.Buffer
		code, err := b.eng.RunOnce(b.Context(), projectName, "web", driver.Command{
			Args: fake.Command(fake.Script{PrintEnv: true, Exits: true, ExitAfter: time.Minute, ExitCode: 5}), Stdout: &out,
		})
		if err != nil || code != 5 || !strings.Contains(out.String(), "COLOR=blue") {
			t.Errorf("code %d, %v, %q", code, err, out.String())
		}
		b.until("nothing is left of it", func() bool { return len(b.world.Left()) == 1 })
		if s := b.service("web"); s.State != engine.ServiceHealthy || len(s.Instances) != 1 {
			t.Errorf("%s, %d instances", s.State, len(s.Instances))
		}
		if _, err := b.eng.RunOnce(b.Context(), projectName, "nobody", driver.Command{}); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("unknown service: %v", err)
		}
		// One that a killed control plane left behind is swept away.
		spec, _ := b.world.Spec(b.world.Left()[0])
		b.kill()
		spec.ID, spec.Slot = driver.ID(projectName+"/web-0-run-deadbeef"), 0
		if err := b.world.Driver().Start(b.Context(), spec); err != nil {
			t.Fatal(err)
		}
		b.run()
		b.until("swept", func() bool { return len(b.world.Left()) == 1 })
	})
}

func TestPublishesOnlyChanges(t *testing.T) {
	bubble(t, func(b *bench) {
		b.apply(project(server("web", 3)))
		b.settled(state.Healthy)
		time.Sleep(10 * time.Second)
		before := b.plane.count
		time.Sleep(time.Hour) // 5400 probes
		if n := b.plane.count - before; n != 0 {
			t.Errorf("%d snapshots in an hour without a change", n)
		}
		first := b.plane.snapshot()
		b.kill()
		b.run()
		b.until("the next epoch", func() bool { return b.plane.snapshot().Epoch > first.Epoch })
		if d := cmp.Diff(first.Services, b.plane.snapshot().Services); d != "" {
			t.Errorf("the next loop tells something else, -want +got:\n%s", d)
		}
	})
}
