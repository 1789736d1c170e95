package local

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"trellis/compose"
	"trellis/engine"
)

// TestEffectsTellTheTruth changes every attribute of a service, one after the other: a plan that says that instances are
// replaced is carried out by replacing them, and one that says they are not leaves them alone.
func TestEffectsTellTheTruth(t *testing.T) {
	base := everything()
	changes := 0
	vary(reflect.ValueOf(base.Services["web"]), "", func(path string, change func(reflect.Value)) {
		changed := everything()
		svc := changed.Services["web"]
		v := reflect.ValueOf(&svc).Elem()
		change(v)
		changed.Services["web"] = svc
		diff := engine.Diff(changed, engine.State{Desired: &base})
		a, err := templateOf(base, named(base, "web"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := templateOf(changed, named(changed, "web"))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		replaced := a.hash(0) != b.hash(0)
		said := false
		for _, c := range diff {
			said = said || c.Effect == engine.EffectRollout || c.Effect == engine.EffectStopFirst
		}
		if replaced != said && !cautious[path] {
			t.Errorf("%s: the plan says %v, instances are replaced: %t", path, effects(diff), replaced)
		}
		if len(diff) == 0 {
			t.Errorf("%s: the plan has no such change", path)
		}
		changes++
	})
	if changes < 60 {
		t.Errorf("only %d attributes were changed", changes)
	}
}

// cautious are changes that a plan may call a rollout although this engine then finds the instance the same.
var cautious = map[string]bool{
	"Image": true, "Entrypoint": true, "Command": true, // overruled by x-trellis.process
	"WorkingDir": true, "Trellis.Process.Dir": true, // overruled by the artefact
	"SecurityOpt":    true,                                             // of which only no-new-privileges is carried out
	"Ports.Protocol": true, "Expose": true, "Trellis.Probe.Port": true, // the port is known already
}

func effects(diff []engine.Change) []string {
	var all []string
	for _, c := range diff {
		all = append(all, c.Path+": "+c.Effect)
	}
	return all
}

func named(p compose.Project, name string) compose.Service {
	s := p.Services[name]
	s.Name = name
	return s
}

// everything is a project with a service that sets everything.
func everything() compose.Project {
	one, mode := 1, uint32(0o440)
	d := compose.Duration(time.Second)
	svc := compose.Service{
		Image: "i", Build: &compose.Build{Context: "/c"}, Command: []string{"c"}, Entrypoint: []string{"e"},
		Environment: map[string]string{"A": "1"}, DependsOn: map[string]compose.Dependency{"db": {Condition: compose.ServiceStarted}},
		Ports:   []compose.Port{{Name: "n", Target: 80, Published: "8080", HostIP: "127.0.0.1", Protocol: "tcp", AppProtocol: "http", Mode: "ingress"}},
		Expose:  []string{"81"},
		Volumes: []compose.Mount{{Type: "bind", Source: "/s", Target: "/t", ReadOnly: true, CreateHostPath: true, Subpath: "p", TmpfsSize: 1, TmpfsMode: 1}},
		Tmpfs:   []string{"/tmp"}, Secrets: []compose.FileMount{{Source: "s", Target: "t", UID: "1", GID: "1", Mode: &mode}},
		Configs:     []compose.FileMount{{Source: "c", Target: "t", UID: "1", GID: "1", Mode: &mode}},
		Networks:    map[string]compose.Attachment{"default": {Aliases: []string{"a"}}},
		Healthcheck: &compose.Healthcheck{Test: []string{"CMD", "x"}, Interval: &d, Timeout: &d, Retries: &one, StartPeriod: &d, StartInterval: &d},
		Deploy: compose.Deploy{
			Replicas: &one, Labels: map[string]string{"a": "1"},
			Resources:     compose.Resources{Limits: compose.ResourceAmounts{CPUs: 1, Memory: 1, Pids: 1}, Reservations: compose.ResourceAmounts{CPUs: 1}},
			RestartPolicy: &compose.RestartPolicy{Condition: "any", Delay: &d, MaxAttempts: &one, Window: &d},
			UpdateConfig:  &compose.UpdateConfig{Parallelism: &one, Delay: &d, Monitor: &d, Order: compose.StartFirst, FailureAction: "pause"},
		},
		Restart: "always", User: "1", GroupAdd: []string{"2"}, WorkingDir: "/w", Hostname: "h", Domainname: "d", ContainerName: "c",
		Platform: "linux/amd64", PullPolicy: "always", Labels: map[string]string{"a": "1"}, Annotations: map[string]string{"a": "1"},
		Profiles: []string{"p"}, StopSignal: "SIGTERM", StopGracePeriod: &d,
		PostStart: []compose.Hook{{Command: []string{"x"}, User: "1", WorkingDir: "/", Environment: map[string]string{"A": "1"}}},
		PreStop:   []compose.Hook{{Command: []string{"x"}}},
		PreStart:  []compose.PreStart{{Hook: compose.Hook{Command: []string{"x"}}, Image: "i"}},
		CapAdd:    []string{"A"}, CapDrop: []string{"B"}, SecurityOpt: []string{"no-new-privileges"}, Ulimits: map[string]compose.Ulimit{"nofile": {Soft: 1, Hard: 1}},
		Sysctls: map[string]string{"net.a": "1"}, ExtraHosts: map[string][]string{"h": {"1.2.3.4"}}, DNS: []string{"1.1.1.1"},
		DNSSearch: []string{"s"}, DNSOpt: []string{"o"}, Links: []string{"db:x"}, ExternalLinks: []string{"l"}, ShmSize: 1, OomScoreAdj: 1,
		Pid: "host", Ipc: "host", Logging: &compose.Logging{Driver: "json-file", Options: map[string]string{"max-size": "1m", "max-file": "2"}},
		Develop: &compose.Develop{Watch: []compose.WatchRule{{Path: "/p", Action: "sync"}}},
		Trellis: compose.ServiceExtension{
			Process:   &compose.Process{Build: "b", Artifacts: []string{"a"}, Command: []string{"a"}, Dir: "/d", TimerSlack: &d, Artifact: "sha"},
			Probe:     &compose.Probe{HTTP: "/h", Port: 80, Scheme: "http"},
			Objective: &compose.Objective{Latency: map[string]compose.Duration{"p99": d}}, Calls: []string{"db"},
		},
	}
	p := project(svc)
	delete(p.Services, "")
	p.Services["web"] = svc
	p.Services["db"] = server("db", 1)
	p.Secrets = map[string]compose.FileValue{"s": {Ref: "aa"}, "sx": {Ref: "bb"}}
	p.Configs = map[string]compose.FileValue{"c": {Ref: "aa"}, "cx": {Ref: "bb"}}
	return p
}

// vary calls f once for each scalar below v with a function that changes it in a copy.
func vary(v reflect.Value, path string, f func(path string, change func(reflect.Value)), steps ...func(reflect.Value) reflect.Value) {
	descend := func(name string, next reflect.Value, step func(reflect.Value) reflect.Value) {
		vary(next, strings.TrimPrefix(path+"."+name, "."), f, append(append([]func(reflect.Value) reflect.Value{}, steps...), step)...)
	}
	change := func(set func(reflect.Value)) {
		f(path, func(root reflect.Value) {
			for _, s := range steps {
				root = s(root)
			}
			set(root)
		})
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			vary(v.Elem(), path, f, append(append([]func(reflect.Value) reflect.Value{}, steps...), reflect.Value.Elem)...)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; name != "Name" || path == "Ports" {
				descend(name, v.Field(i), func(r reflect.Value) reflect.Value { return r.Field(i) })
			}
		}
	case reflect.Slice:
		if v.Len() == 0 {
			return
		}
		if v.Index(0).Kind() == reflect.Struct {
			vary(v.Index(0), path, f, append(append([]func(reflect.Value) reflect.Value{}, steps...), func(r reflect.Value) reflect.Value { return r.Index(0) })...)
			return
		}
		change(func(r reflect.Value) { r.Set(reflect.Append(r, r.Index(0))) })
	case reflect.Map:
		if v.Len() > 0 && v.Type().Elem().Kind() == reflect.String {
			change(func(r reflect.Value) { r.SetMapIndex(r.MapKeys()[0], reflect.ValueOf("changed")) })
		}
	case reflect.String:
		if v.Len() > 0 {
			change(func(r reflect.Value) { r.SetString(different(path, r.String())) })
		}
	case reflect.Int, reflect.Int64:
		if v.Int() != 0 {
			change(func(r reflect.Value) { r.SetInt(r.Int() + 1) })
		}
	case reflect.Uint32:
		change(func(r reflect.Value) { r.SetUint(r.Uint() + 1) })
	case reflect.Float64:
		if v.Float() != 0 {
			change(func(r reflect.Value) { r.SetFloat(r.Float() + 1) })
		}
	case reflect.Bool:
		change(func(r reflect.Value) { r.SetBool(!r.Bool()) })
	}
}

// different returns another value that the attribute may have.
func different(path, was string) string {
	switch path {
	case "Secrets.Source", "Configs.Source":
		return was + "x"
	case "Ports.Published":
		return "9090"
	case "Ports.Protocol":
		return "udp"
	case "Deploy.UpdateConfig.Order":
		return compose.StopFirst
	case "Trellis.Probe.Scheme":
		return "https"
	}
	return was + "x"
}

// TestHashHoldsOnlyWhatMakesAnotherInstance checks what must not be in it: addresses, revisions, folders and the
// environment of the control plane.
func TestHashHoldsOnlyWhatMakesAnotherInstance(t *testing.T) {
	p := everything()
	a, err := templateOf(p, named(p, "web"))
	if err != nil {
		t.Fatal(err)
	}
	one := &Engine{cfg: Config{Project: projectName, ContentDir: "/one/contents", ArtifactDir: "/one/artifacts", BaseEnv: []string{"PATH=/a"}}}
	two := &Engine{cfg: Config{Project: projectName, ContentDir: "/two/contents", ArtifactDir: "/two/artifacts", BaseEnv: []string{"PATH=/b"}}}
	x := one.place(a.spec, true, "shop/web-1-x", 1, a.hash(0), 1)
	y := two.place(a.spec, true, "shop/web-2-x", 2, a.hash(0), 9)
	if x.Hash != y.Hash || x.Dir != "/one/artifacts/sha" || y.Dir != "/two/artifacts/sha" {
		t.Errorf("%s %s, %s %s", x.Hash, x.Dir, y.Hash, y.Dir)
	}
	if x.Files[0].Source == y.Files[0].Source || !strings.HasPrefix(x.Files[0].Source, "/one/contents/") {
		t.Errorf("files at %s and %s", x.Files[0].Source, y.Files[0].Source)
	}
	if a.hash(0) == a.hash(1) {
		t.Error("a restart that was asked for makes no other instance")
	}
	for range 50 { // maps must not make it random
		if b, err := templateOf(everything(), named(everything(), "web")); err != nil || b.hash(0) != a.hash(0) {
			t.Fatalf("hash %s, before %s, %v", b.hash(0), a.hash(0), err)
		}
	}
}

func TestSpecOfAService(t *testing.T) {
	p := everything()
	tm, err := templateOf(p, named(p, "web"))
	if err != nil {
		t.Fatal(err)
	}
	eng := &Engine{cfg: Config{Project: projectName, ContentDir: "/contents", ArtifactDir: "/artifacts", BaseEnv: []string{"PATH=/bin", "A=base"}}}
	spec := eng.place(tm.spec, true, "shop/web-1-x", 1, tm.hash(0), 3)
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"Command":["a"]`, `"Env":["A=1","PATH=/bin"]`, `"Dir":"/artifacts/sha"`, `"User":"1"`, `"Ports":[80,81]`,
		`"Source":"/contents/aa","Target":"/run/secrets/t","UID":"1","GID":"1","Mode":288,"Secret":true`,
		`"Source":"/contents/aa","Target":"/t"`, `"Limits":{"CPUs":1,"Memory":1,"Pids":1}`,
		`"Log":{"MaxSize":1048576,"MaxFiles":2}`, `"StopSignal":"SIGTERM"`, `"Revision":3`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s lacks %s", text, want)
		}
	}
	if len(tm.hooks) != 1 || tm.hooks[0].spec.Ports != nil || fmt.Sprint(tm.hooks[0].spec.Command) != "[x]" {
		t.Errorf("hooks %+v", tm.hooks)
	}
}

func TestNoNewPrivileges(t *testing.T) {
	for options, want := range map[string]bool{
		"": false, "no-new-privileges": true, "no-new-privileges:true": true, "no-new-privileges=true": true, "no-new-privileges:false": false,
		"no-new-privileges:yes": true, "seccomp:unconfined": false, "seccomp=x no-new-privileges:true label:disable": true,
		"no-new-privileges:true no-new-privileges:false": false,
	} {
		p := project(server("web", 1, func(s *compose.Service) { s.SecurityOpt = strings.Fields(options) }))
		tm, err := templateOf(p, p.Services["web"])
		if err != nil || tm.spec.NoNewPrivileges != want {
			t.Errorf("%q: %v, %v", options, tm.spec.NoNewPrivileges, err)
		}
	}
}
