package enginetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"trellis/engine"
)

// startOrder: a service starts when what it depends on is as it asks; a cycle is an error before anything starts.
func startOrder(c *check) {
	p := &running{Project: c.target.New(c.T), c: c}
	a := service{name: "a", version: "a"}.with("depends_on: [web]")
	if err := p.Apply(c.file(p, []service{a, web(p, "v1", 1).with("depends_on: [a]")})); err == nil || !strings.Contains(err.Error(), "wait for each other") {
		c.Errorf("a cycle is accepted, or not told: %v", err)
	}
	if s, err := p.Observe(); err == nil {
		for _, svc := range s.Services {
			if len(svc.Instances) > 0 {
				c.Errorf("with a cycle in its file %s was started", svc.Name)
			}
		}
	}
	const diary = "DIARY: /ledger/order" // when an engine says that something has started, it has run for a moment already
	db := service{name: "db", version: "db", env: []string{diary, `START_DELAY: "1s"`}}
	job := service{name: "job", version: "job", env: []string{diary, `EXIT: "0"`, `DELAY: "700ms"`}}.with(`restart: "no"`)
	front := web(p, "v1", 1, diary).with("depends_on: {db: {condition: service_healthy}, job: {condition: service_completed_successfully}}")
	p.apply(c.file(p, []service{db, job, front}))
	order := strings.Split(p.answer("/file?path=/ledger/order"), "\n")
	began := slices.Index(order, "v1 begins")
	for _, first := range []string{"db listens", "job ends"} {
		if at := slices.Index(order, first); at < 0 || at > began {
			c.Errorf("web did not wait for %q: %q", first, order)
		}
	}
	done := p.service("job")
	if done.State != engine.ServiceCompleted || len(done.Instances) == 0 || done.Instances[0].Exit == nil {
		c.Errorf("the job has ended, and is %+v", done)
	}
}

// readiness: an instance that is not ready any more takes nothing until it is again. It is not ready from 8 s on, until after
// 20 s, so that a busy machine sees it; after 24 s it would be replaced.
func readiness(c *check) {
	p := c.project(func(p Project) string {
		return strings.Replace(c.only("v1", 2)(p), "interval: 500ms", "interval: 2s", 1)
	})
	p.nothingLost(100, func() {
		var sick hello
		body, err := p.ask("POST", "/unready?for=20s")
		if err != nil {
			c.Fatal(err)
		}
		if err := json.Unmarshal([]byte(body), &sick); err != nil {
			c.Fatalf("%q: %v", body, err)
		}
		ready := func(want int) func() string {
			return func() string {
				if n := p.service("web").Ready; n != want {
					return fmt.Sprintf("%d ready, want %d", n, want)
				}
				return ""
			}
		}
		c.until(patience, "one is not ready", ready(1))
		for range 40 {
			if h := p.hello(); h == sick && p.service("web").Ready == 1 {
				c.Fatalf("%+v answered while it was not ready", h)
			}
		}
		c.until(patience, "both are ready", ready(2))
		c.until(patience, "the one that was not ready answers again", func() string {
			if h := p.hello(); h != sick {
				return fmt.Sprintf("%+v", h)
			}
			return ""
		})
	})
}

// stops: the stop signal comes first, who does not heed it is killed with its children, and nothing is left.
func stops(c *check) {
	p := &running{Project: c.target.New(c.T), c: c}
	other := func(env ...string) service {
		return service{name: "other", version: "other", env: env}.with("stop_grace_period: 1s")
	}
	p.apply(c.file(p, []service{web(p, "v1", 1), other("NOTE: /ledger/stopped")}))
	p.apply(c.file(p, []service{web(p, "v1", 1)}))
	if note := p.answer("/file?path=/ledger/stopped"); note != "SIGTERM\n" {
		c.Errorf("what was stopped heard %q", note)
	}
	p.apply(c.file(p, []service{web(p, "v1", 1), other("DEAF: /ledger/child")}))
	began := time.Now()
	if err := p.Delete(); err != nil {
		c.Errorf("delete: %v", err)
	}
	if took := time.Since(began); took < time.Second || took > patience {
		c.Errorf("with a grace period of 1 s for who does not heed the signal it took %v", took)
	}
	if s, err := p.Observe(); err == nil {
		for _, svc := range s.Services {
			if len(svc.Instances) > 0 {
				c.Errorf("left: %+v", svc.Instances)
			}
		}
	}
}

// arrivals: configs, secrets, environment and hooks arrive as the file says.
func arrivals(c *check) {
	hook := func(what string) string {
		return fmt.Sprintf("[{command: [%s, note, /ledger/hooks, %s]}]", c.target.Program, what)
	}
	file := func(p Project, replicas int) string {
		s := web(p, "v1", replicas, `COLOR: "a b"`).with("secrets: [token]", "configs: [{source: motd, target: /etc/shop/motd}]",
			"pre_start: "+hook("pre_start"), "post_start: "+hook("post_start"), "pre_stop: "+hook("pre_stop"))
		return c.file(p, []service{s}, `secrets: {token: {file: ./secret.txt}}`, `configs: {motd: {content: "hello"}}`)
	}
	p := c.project(func(p Project) string { return file(p, 2) })
	p.nothingLost(100, func() { p.apply(file(p, 1)) })
	for path, want := range map[string]string{"/run/secrets/token": Secret, "/etc/shop/motd": "hello"} {
		if got := p.answer("/file?path=" + path); got != want {
			c.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
	if env := p.answer("/env"); !strings.Contains(env, `"COLOR=a b"`) || strings.Contains(env, Secret) {
		c.Errorf("environment %s", env)
	}
	var hooks []string
	c.until(patience, "pre_stop of the one that went", func() string {
		if hooks = strings.Fields(p.answer("/file?path=/ledger/hooks")); !slices.Contains(hooks, "pre_stop") {
			return fmt.Sprintf("hooks ran as %q", hooks)
		}
		return ""
	})
	if got := strings.Join(hooks, " "); len(hooks) != 4 || hooks[0] != "pre_start" || strings.Count(got, "post_start") != 2 || hooks[3] != "pre_stop" {
		c.Errorf("hooks ran as %q: want pre_start once, post_start for each of two, pre_stop for the one that went", got)
	}
}

// twice: what is as wanted is left alone, and a crash of the engine at any point is repaired.
func twice(c *check) {
	p := c.project(c.only("v1", 2))
	before, revision := p.runs(), p.observe().Revision
	p.apply(c.only("v1", 2)(p))
	if after := p.runs(); after != before || p.observe().Revision != revision {
		c.Errorf("applied twice, and %q became %q in revision %d", before, after, p.observe().Revision)
	}
	if err := p.Interrupt(); err != nil {
		c.Fatal(err)
	}
	if after := p.runs(); after != before {
		c.Errorf("the engine was killed, and %q became %q", before, after)
	}
	for i, after := range []time.Duration{50, 300, 900}[:c.times(3)] {
		version := fmt.Sprint("v", i+2)
		applied := make(chan error, 1)
		go func() { applied <- p.Apply(c.only(version, 2)(p)) }()
		time.Sleep(after * time.Millisecond)
		if err := p.Interrupt(); err != nil {
			c.Fatal(err)
		}
		if err := <-applied; err != nil { // its control plane was killed under it
			p.apply(c.only(version, 2)(p))
		}
		c.until(patience, version, func() string {
			svc := p.service("web")
			if v := p.version(); v != version || svc.Ready != 2 || len(p.live()) != 2 {
				return fmt.Sprintf("version %s, %d ready, %d instances", v, svc.Ready, len(p.live()))
			}
			return ""
		})
	}
}
