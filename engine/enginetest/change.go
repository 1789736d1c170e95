package enginetest

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"trellis/engine"
	"trellis/load"
	"trellis/state"
)

// crashes: an instance that dies is replaced, its callers see a retry, and one that keeps dying is slowed down.
func crashes(c *check) {
	for _, replicas := range c.scales() {
		c.sub(fmt.Sprintf("%d replicas", replicas), func(c *check) {
			const rate = 200
			kills := c.times(5)
			p := c.project(c.only("v1", replicas))
			var away time.Duration
			tr := p.underLoad(rate, Mix(), func() { away = p.crash(kills, replicas) })
			if c.target.Slow && replicas == 1 && away > held {
				tr.forgiveHeld()
			}
			tr.NoGetLost(c)
			// A POST that was with the program when it was killed cannot be repeated: it is answered with an error that
			// says so, never sent twice. A kill meets those under way: one, or as many as come while one is answered.
			underWay := 1
			for _, r := range tr.Lost[1] {
				if r.Status != http.StatusBadGateway {
					c.Errorf("POST lost without an honest answer: %+v", r)
				}
				underWay = max(underWay, 1+int((r.Done-r.Sent).Seconds()*rate/10))
			}
			if len(tr.Lost[1]) > kills*underWay {
				c.Errorf("%d POSTs lost in %d kills", len(tr.Lost[1]), kills)
			}
			tr.Ledger(c, p.answer("/file?path=/ledger/web"))
		})
	}
	if c.target.Brief {
		return
	}
	c.sub("twin without hold", func(c *check) { c.crashTwin(1, "/", "hold") })
	c.sub("twin without retry", func(c *check) { c.crashTwin(3, "/slow?for=50ms", "retry") })
	c.sub("in a loop", func(c *check) {
		p := &running{Project: c.target.New(c.T), c: c}
		broken := service{name: "broken", version: "b", env: []string{`EXIT: "3"`}}
		if err := p.Apply(c.file(p, []service{web(p, "v1", 1), broken})); err == nil || !strings.Contains(err.Error(), "about to exit with 3") {
			c.Errorf("a service that only crashes is not told with its last lines: %v", err)
		}
		if v := p.version(); v != "v1" {
			c.Errorf("web: version %q", v)
		}
	})
}

// scales are the numbers of replicas that something is tried with.
func (c *check) scales() []int {
	if c.target.Brief {
		return []int{3}
	}
	return []int{1, 3}
}

// times is how often something is repeated on the target.
func (c *check) times(n int) int {
	if c.target.Slow {
		return (n + 1) / 3
	}
	return n
}

// held is how long a request waits while no instance is ready.
const held = 5 * time.Second

// crash kills an instance of web so many times, and waits each time until there are as many again. It returns how long
// that took at the most.
func (p *running) crash(kills, replicas int) (longest time.Duration) {
	p.c.Helper()
	for range kills {
		victim, died := p.live()[0], time.Now()
		if err := p.Crash(victim.ID); err != nil {
			p.c.Error(err)
			return longest
		}
		p.c.until(patience, "replaced", func() string {
			svc := p.service("web")
			for _, in := range svc.Instances {
				if in.ID == victim.ID && in.Restarts == victim.Restarts {
					return "still listed"
				}
			}
			if svc.Ready != replicas {
				return fmt.Sprintf("%d ready of %d: %s", svc.Ready, replicas, svc.Reason)
			}
			return ""
		})
		longest = max(longest, time.Since(died))
	}
	return longest
}

// crashTwin has to lose requests.
func (c *check) crashTwin(replicas int, path, without string) {
	p := c.project(c.only("v1", replicas), without)
	tr := p.underLoad(200, []load.Request{{Method: "GET", Path: path}}, func() { p.crash(c.times(4), replicas) })
	if tr.All() == 0 {
		c.Errorf("without %s nothing was lost: the tests with it show nothing", without)
	}
}

// rollouts: replicas are replaced start-first, drained, and nothing is lost; without the time to drain something is.
func rollouts(c *check) {
	for _, replicas := range c.scales() {
		c.sub(fmt.Sprintf("%d replicas", replicas), func(c *check) {
			p := c.project(c.only("v1", replicas))
			p.nothingLost(200, func() {
				for i := range c.times(3) {
					p.apply(c.only(fmt.Sprint("v", i+2), replicas)(p))
				}
			})
			if v, want := p.version(), fmt.Sprint("v", 1+c.times(3)); v != want {
				c.Errorf("version %q after the last rollout, want %s", v, want)
			}
		})
	}
	if c.target.Brief {
		return
	}
	c.sub("twin without drain", func(c *check) {
		file := func(version string) func(Project) string {
			return func(p Project) string {
				return c.file(p, []service{web(p, version, 2).with("stop_grace_period: 10ms")})
			}
		}
		p := c.project(file("v1"))
		// Longer than an instance goes on by itself, and so many that all connections have one all the time.
		takes := time.Second
		if c.target.Unrouted > 0 {
			takes = c.target.Unrouted + 3*time.Second
		}
		slow := []load.Request{{Method: "POST", Path: "/slow?for=" + takes.String()}}
		tr := p.underLoad(connections/takes.Seconds(), slow, func() {
			p.apply(file("v2")(p))
			time.Sleep(c.target.Unrouted)
		})
		if tr.All() == 0 {
			c.Error("without a drain nothing was lost: the tests with it show nothing")
		}
	})
}

// badRollouts: a version that crashes, or that answers worse, is taken back by itself and touches no old instance.
func badRollouts(c *check) {
	for name, bad := range map[string]string{"crashes": `EXIT: "1"`, "answers with errors": `FAIL_PERCENT: "20"`} {
		c.sub(name, func(c *check) {
			file := func(version string, env ...string) func(p Project) string {
				return func(p Project) string {
					s := web(p, version, 3, env...)
					s.monitor = "20s"
					return c.file(p, []service{s})
				}
			}
			p := c.project(file("v1"))
			before := p.runs()
			p.nothingLost(200, func() {
				if err := p.Apply(file("v2", bad)(p)); err == nil || !strings.Contains(err.Error(), "rolled back") {
					c.Errorf("apply of a bad version: %v", err)
				}
			})
			c.until(patience, "the old instances alone, untouched", func() string {
				if after := p.runs(); after != before {
					return fmt.Sprintf("%q, then %q", before, after)
				}
				return ""
			})
			if v := p.version(); v != "v1" {
				c.Errorf("version %q serves", v)
			}
			for _, r := range p.observe().Rollouts {
				if r.Phase == state.TakenBack && r.Failure != nil && len(r.Failure.Log) > 0 {
					return
				}
			}
			c.Errorf("nothing is kept of why: %+v", p.observe().Rollouts)
		})
	}
}

// rollbacks: an earlier revision comes back with its configuration and contents.
func rollbacks(c *check) {
	file := func(version, motd string) func(p Project) string {
		return func(p Project) string {
			s := web(p, version, 2).with("configs: [{source: motd, target: /etc/motd-of-shop}]")
			return c.file(p, []service{s}, `configs: {motd: {content: "`+motd+`"}}`)
		}
	}
	p := c.project(file("v1", "one"))
	first := p.observe().Revision
	p.apply(file("v2", "two")(p))
	p.apply(file("v3", "three")(p))
	p.nothingLost(200, func() {
		if err := p.Rollback(first); err != nil {
			c.Errorf("roll back: %v", err)
		}
	})
	if v, motd := p.version(), p.answer("/file?path=/etc/motd-of-shop"); v != "v1" || motd != "one" {
		c.Errorf("version %q with %q serves after the rollback", v, motd)
	}
	if now := p.observe().Revision; now != first+3 {
		c.Errorf("revision %d, want %d: a rollback is a new one", now, first+3)
	}
}

// autoscaling: the replicas follow the load between min and max, the reason is kept, and an apply resets nothing.
func autoscaling(c *check) {
	file := func(version string) func(p Project) string {
		return func(p Project) string {
			s := web(p, version, 0).deployed("x-trellis: {autoscale: {min: 1, max: 3, target: {concurrency: 4}, window: 20s}}")
			return c.file(p, []service{s})
		}
	}
	p := c.project(file("v1"))
	// 3.5 at a time: one replica can do it, at more of the target than it is to be used. How soon another one comes is
	// the engine's affair; until then nothing is lost.
	tr := p.underLoad(70, []load.Request{{Method: "GET", Path: "/slow?for=50ms"}}, func() {
		var svc engine.Service
		c.until(2*patience, "more replicas", func() string {
			if svc = p.service("web"); svc.Ready < 2 {
				return fmt.Sprintf("%d ready of %d", svc.Ready, svc.Want)
			}
			return ""
		})
		if svc.Want > 3 || svc.Autoscale == nil || svc.Autoscale.Reason == "" {
			c.Errorf("%d wanted because of %+v", svc.Want, svc.Autoscale)
		}
		p.apply(file("v2")(p))
		if after := p.service("web"); after.Want < 2 {
			c.Errorf("an apply reset the replicas from %d to %d", svc.Want, after.Want)
		}
	})
	tr.NoneLost(c)
}
