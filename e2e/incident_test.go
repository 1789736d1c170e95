//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"trellis/api"
	"trellis/identity"
)

// incident is something that goes wrong with a service of a project that runs, what `trellis why` has to say of it while
// it does, and the alert that has to fire.
type incident struct {
	name, service string
	inject        func()
	repair        func()
	kind          string // of the first cause; "" it cannot be known, and that has to be said
	cause         string // a regular expression
	alert         string // "" none
	seen          time.Duration
	quick         bool // part of make test too, where no alert is waited for
}

// Alerts are evaluated every 15 seconds, of what is measured every 5. What Trellis itself needs to see a fault (a probe has
// to fail so many times) is each incident's own.
const (
	evaluated = 15 * time.Second
	collected = 5 * time.Second
)

// outcome is what came of an incident.
type outcome struct {
	incident
	answer   api.Explanation
	fired    time.Duration // after its beginning
	resolved time.Duration // after its end
	wrong    string
}

// tried injects incidents one beside the other, asks why when the alert of each fires, and repairs them.
func tried(p *project, all []incident) []outcome {
	if !long(p.t) {
		all = slices.DeleteFunc(all, func(one incident) bool { return !one.quick })
	}
	outcomes := make([]outcome, len(all))
	var running sync.WaitGroup
	for i, one := range all {
		running.Go(func() { outcomes[i] = p.incident(one) })
	}
	running.Wait()
	return outcomes
}

// explained is the short form of an incident: why has to find the cause of what has just begun.
func (p *project) explained(one incident) outcome {
	o := outcome{incident: one}
	one.inject()
	o.fired = p.within(one.seen+30*time.Second, func() bool {
		var why api.Why
		if p.ask(&why, "why", one.service) != nil || len(why.Findings) == 0 {
			return false
		}
		o.answer = why.Findings[0]
		return o.named()
	})
	one.repair()
	return o
}

// named says whether the first cause was named, or said to be unknown where it is.
func (o outcome) named() bool {
	return o.answer.Kind == o.kind && (o.kind == "" || regexp.MustCompile(o.cause).MatchString(o.answer.Cause))
}

func (p *project) incident(one incident) outcome {
	if !long(p.t) {
		return p.explained(one)
	}
	o := outcome{incident: one}
	about := one.service
	if one.alert != "" && p.firing(one.alert, about) {
		o.wrong = one.alert + " fires before anything is wrong"
		return o
	}
	began := time.Now()
	one.inject()
	limit := one.seen + collected + 2*evaluated
	if one.alert == "" {
		time.Sleep(limit / 2) // for what is wrong to be measured
	} else if o.fired = p.within(limit, func() bool { return p.firing(one.alert, about) }); o.fired < 0 {
		o.wrong = fmt.Sprintf("%s does not fire within %v", one.alert, limit)
	} else {
		o.fired = time.Since(began)
	}
	var why api.Why
	if err := p.ask(&why, "why", one.service); err != nil {
		o.wrong = err.Error()
	} else if len(why.Findings) > 0 {
		o.answer = why.Findings[0]
	}
	one.repair()
	if one.alert != "" && o.fired >= 0 {
		if o.resolved = p.within(4*time.Minute, func() bool { return !p.firing(one.alert, about) }); o.resolved < 0 {
			o.wrong = one.alert + " does not resolve"
		}
	}
	return o
}

// within polls until ok, and returns after how long; -1 it was not.
func (p *project) within(limit time.Duration, ok func() bool) time.Duration {
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			return -1
		}
		time.Sleep(500 * time.Millisecond)
	}
	return time.Since(began)
}

// firing says whether an alert fires for a service; "" whatever it is about.
func (p *project) firing(name, service string) bool {
	var found api.Alerts
	if p.ask(&found, "alerts") != nil {
		return false
	}
	for _, a := range found.Alerts {
		if a.Name == name && a.State == api.AlertFiring && (service == "" || a.Service == service || a.Service == "") {
			return true
		}
	}
	return false
}

// judged fails for every incident whose alert did not fire in time and resolve, for more than one in ten that was not
// explained, and for any that was explained wrongly.
func judged(f *fault, all []outcome) {
	f.Helper()
	right := 0
	for _, o := range all {
		f.tried++
		if o.named() {
			right++
		}
		switch {
		case o.wrong != "":
			f.Errorf("%s: %s", o.name, o.wrong)
		case !o.named() && o.answer.Kind != "":
			f.Errorf("%s: explained wrongly, as %s", o.name, o.answer.Kind)
		default:
			f.held++
		}
		f.Logf("%-16s why: %v %q: %s; %s fired after %v, resolved after %v", o.name, o.named(), o.answer.Kind, o.answer.Cause, o.alert,
			o.fired.Round(time.Second), o.resolved.Round(time.Second))
	}
	if 10*(len(all)-right) > len(all) {
		f.Errorf("the first cause of %d incidents of %d was named", right, len(all))
	}
}

// visits asks url so many times a second until stop is called; it does not wait for answers.
func visits(url string, rate int) (stop func()) {
	client := &http.Client{Timeout: 8 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	ended := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
			}
			all.Go(func() {
				if resp, err := client.Get(url); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		}
	})
	return sync.OnceFunc(func() { close(ended); all.Wait() })
}

// told has a service of the test's misbehave, or with "" no more.
func told(t *testing.T, at int, how string) func() {
	return func() {
		t.Helper()
		resp, err := http.Post(url(at)+"/misbehave?"+how, "", nil)
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
	}
}

// TestIncidents: of what goes wrong while a project runs, `why` names the first cause, and does not make one up; the alert of
// each fires within two evaluations and resolves when it is repaired.
func TestIncidents(t *testing.T) {
	t.Run("running", runningIncidents)
	t.Run("deployed", deployedIncidents)
	if long(t) {
		t.Run("disk", fullDiskIncident)
	}
}

// testService is a service of the test's program with a port of its own.
func testService(name string, port int, more string) string {
	return fmt.Sprintf(`  %s:
    image: testapp
    ports: [{target: 80, published: "%d", app_protocol: http}]
    healthcheck: {interval: 1s, timeout: 1s, retries: 3}
    x-trellis: {process: {command: [%s]}, probe: {http: /healthz}}
%s`, name, port, built.app, more)
}

func runningIncidents(t *testing.T) {
	t.Parallel()
	f := newFault(t)
	ports := map[string]int{}
	file := strings.Builder{}
	secure := freePort(t)
	fmt.Fprintf(&file, "name: shop\nx-trellis: {gateway: {http: \"127.0.0.1:%d\", https: \"127.0.0.1:%d\", hosts: [shop.localhost], policy: {auth: none}}}\nservices:\n", freePort(t), secure)
	for name, more := range map[string]string{
		"web": "", "stock": "", "flaky": "", "dreamy": "", "hung": "",
		"greedy": "    deploy: {resources: {limits: {memory: 64M}}}\n",
		"busy":   "    environment: {SLOW: 100ms}\n    deploy: {x-trellis: {autoscale: {min: 1, max: 1, target: {concurrency: 2}}}}\n",
	} {
		ports[name] = freePort(t)
		file.WriteString(testService(name, ports[name], more))
	}
	fmt.Fprintf(&file, `  crasher:
    restart: always
    volumes: ["./flags:/flags"]
    x-trellis: {process: {command: [sh, -c, "while [ ! -e /flags/crash ]; do sleep 0.2; done; echo no connection to the database >&2; exit 7"]}}
  front:
    image: testapp
    ports: [{target: 80, x-trellis: {routes: [{path: "/*"}]}}]
    x-trellis: {process: {command: [%s]}, probe: {http: /healthz}}
`, built.app)
	p := newProject(t, map[string]string{"compose.yaml": file.String(), "flags/.keep": ""})
	authority := filepath.Join(p.dir, "data", "trellis", "ca")
	p.env = append(p.env, "XDG_DATA_HOME="+filepath.Join(p.dir, "data"))
	p.run("up", "-d", "--yes")
	for path, rate := range map[string]int{"flaky": 20, "dreamy": 5, "greedy": 5, "hung": 5, "busy": 5, "stock": 2} {
		defer visits(url(ports[path]), rate)()
	}
	defer visits(url(ports["web"])+"/fetch?url=http://stock/", 10)()
	if long(t) {
		time.Sleep(75 * time.Second) // what is usual has to be known: a minute, and some time before it
	}
	var stopRush func()
	flag := filepath.Join(p.dir, "flags", "crash")
	all := []incident{
		{
			name: "crash", service: "crasher", kind: "crash", cause: "exited with code 7.*no connection to the database", alert: "CrashLooping", seen: 15 * time.Second, quick: true,
			inject: func() { p.write("flags/crash", "") }, repair: func() { _ = os.Remove(flag) },
		},
		{
			name: "slow dependency", service: "web", kind: "dependency", cause: "calls to stock take", alert: "Slow",
			inject: told(t, ports["stock"], "slow=700ms"), repair: told(t, ports["stock"], ""),
		},
		{
			name: "retry storm", service: "flaky", kind: "retry-storm", cause: "flaky.* tried again", alert: "RetryStorm",
			inject: told(t, ports["flaky"], "reset_percent=50"), repair: told(t, ports["flaky"], ""),
		},
		{
			name: "memory limit", service: "greedy", kind: "memory", cause: "more memory than its limit", alert: "OutOfMemory", quick: true,
			inject: func() {
				if resp, err := http.Post(url(ports["greedy"])+"/eat", "", nil); err == nil {
					resp.Body.Close()
				}
			},
			repair: func() {},
		},
		{
			name: "hung process", service: "hung", kind: "hung", cause: "does not answer", alert: "InstanceHung", seen: 30 * time.Second, quick: true,
			inject: func() { signal(t, p.instances("hung")[0].PID, "STOP") }, repair: func() {},
		},
		{
			name: "overload", service: "busy", kind: "overload", cause: "wait because all 1 instances are busy", alert: "Overloaded",
			inject: func() { stopRush = visits(url(ports["busy"]), 40) }, repair: func() { stopRush() },
		},
		{
			name: "own slowness", service: "dreamy", kind: "", alert: "Slow",
			inject: told(t, ports["dreamy"], "slow=800ms"), repair: told(t, ports["dreamy"], ""),
		},
		{
			name: "certificate", service: "front", kind: "certificate", cause: "could not be renewed: .*root.key", alert: "CertificateExpiring",
			seen: time.Minute, inject: func() { p.agedCertificate(authority) },
			repair: func() { _ = os.Rename(filepath.Join(authority, "away"), filepath.Join(authority, "root.key")) },
		},
	}
	if strings.Contains(p.run("check"), "limits.memory") { // there are no limits here: it would take all that there is
		all = slices.DeleteFunc(all, func(one incident) bool { return one.service == "greedy" })
	}
	judged(f, tried(p, all))
}

// agedCertificate puts a certificate of almost a day in place of the gateway's, and takes away what a new one is made with.
func (p *project) agedCertificate(authority string) {
	p.t.Helper()
	now := time.Now()
	a, err := identity.OpenAuthority(p.t.Context(), authority, now)
	if err == nil {
		err = os.Rename(filepath.Join(authority, "root.key"), filepath.Join(authority, "away"))
	}
	if err != nil {
		p.t.Error(err)
		return
	}
	chain, key, err := a.Issue([]string{"localhost", "127.0.0.1", "::1", "shop.localhost"}, now.Add(-23*time.Hour))
	if err != nil {
		p.t.Error(err)
		return
	}
	dir := filepath.Join(p.dir, ".trellis", "shop", "tls")
	for name, content := range map[string][]byte{"gateway.crt": chain, "gateway.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			p.t.Error(err)
		}
	}
}

func deployedIncidents(t *testing.T) {
	t.Parallel()
	f, port, other := newFault(t), freePort(t), freePort(t)
	p := newProject(t, nil)
	deploy := func(web, api string) func() {
		return func() {
			p.write("compose.yaml", "name: shop\nservices:\n"+testService("web", port, web)+testService("api", other, api))
			p.try("up", "-d", "--yes", "--timeout", "1m")
		}
	}
	good := deploy("", "    environment: {DATABASE: postgres://db/shop}\n")
	good()
	bad := strings.Replace(testService("web", port, ""), "["+built.app+"]", "[sh, -c, \"echo panic: nil map >&2; exit 2\"]", 1)
	version := incident{
		name: "bad version", service: "web", kind: "bad-version", cause: "revision 2.*the one before did not", alert: "DeployRolledBack", repair: good,
		inject: func() {
			bad := strings.Replace(bad, "image: testapp", "image: testapp2", 1) // another program, as a build makes one
			p.write("compose.yaml", "name: shop\nservices:\n"+bad+testService("api", other, "    environment: {DATABASE: postgres://db/shop}\n"))
			p.try("up", "-d", "--yes", "--timeout", "1m")
		},
	}
	configured := incident{
		name: "config error", service: "api", kind: "config-error", cause: "changed nothing but services.api.environment", alert: "DeployRolledBack",
		inject: deploy("", "    environment: {DATABASE: postgres://db/shop, EXIT: \"1\"}\n"), repair: good,
	}
	var all []outcome
	for _, one := range []incident{version, configured} {
		all = append(all, p.incident(one))
	}
	judged(f, all)
}

// freeMiB returns what of a disk is free.
func freeMiB(dir string) int {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return 0
	}
	return int(s.Bavail * uint64(s.Bsize) >> 20)
}

func fullDiskIncident(t *testing.T) {
	t.Parallel()
	f, port := newFault(t), freePort(t)
	disk := smallDisk(t, t.TempDir(), "size=400m") // before the project, whose state is there until it is down
	p := newProject(t, nil)
	p.flags = []string{"--state", filepath.Join(disk, "shop")}
	ledger := filepath.Join(disk, "ledger")
	p.write("compose.yaml", "name: shop\nservices:\n"+testService("web", port, fmt.Sprintf("    environment: {LEDGER: /ledger/web}\n    volumes: [\"%s:/ledger\"]\n", ledger)))
	if err := os.MkdirAll(ledger, 0o777); err != nil {
		t.Fatal(err)
	}
	p.run("up", "-d", "--yes")
	defer visits(url(port), 5)()
	fill := filepath.Join(disk, "fill")
	judged(f, tried(p, []incident{{
		name: "full disk", service: "web", kind: "disk", cause: "are left on the disk of the project's state", alert: "DiskAlmostFull",
		inject: func() {
			out, err := os.Create(fill)
			if err != nil {
				t.Error(err)
				return
			}
			defer out.Close()
			for block := make([]byte, 1<<20); freeMiB(disk) > 12; {
				if _, err := out.Write(block); err != nil {
					break
				}
			}
		},
		repair: func() { _ = os.Remove(fill) },
	}}))
}
