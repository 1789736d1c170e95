package server

import (
	"strings"
	"testing"
	"time"

	"trellis/api"
	"trellis/engine"
	"trellis/engine/local"
	"trellis/state"
	"trellis/telemetry"
)

// asked is an inquiry about the service web of a project in which nothing is wrong, which each case changes.
func asked() *inquiry {
	web := engine.Service{Name: "web", State: engine.ServiceHealthy, Want: 2, Ready: 2, Revision: 3, Instances: []engine.Instance{{ID: "web-1"}, {ID: "web-2"}}}
	good := map[way]callNow{{"*", "web"}: {rate: 10, p50: 0.01, p99: 0.05}, {"web", "api"}: {rate: 10, p50: 0.005, p99: 0.02}, {"*", "api"}: {rate: 10, p50: 0.005, p99: 0.02}}
	w := &inquiry{
		service: web, services: map[string]engine.Service{"web": web, "api": {Name: "api"}}, now: time.Unix(10_000, 0),
		calls: map[way]callNow{}, usual: map[way]callNow{},
		changes: func(int64) []string { return nil },
		said:    func(string, time.Time, time.Time) (telemetry.Record, bool) { return telemetry.Record{}, false },
		traced:  func(bool) (telemetry.TraceSummary, bool) { return telemetry.TraceSummary{}, false },
	}
	for at, n := range good {
		w.calls[at], w.usual[at] = n, n
	}
	return w
}

// happened adds an event of some seconds ago.
func (w *inquiry) happened(ago int, kind, instance, reason, message string, revision int64) {
	service, _, _ := strings.Cut(instance, "-")
	w.events = append(w.events, state.Event{
		Time: w.now.Add(-time.Duration(ago) * time.Second), Service: service, Instance: instance, Kind: kind, Reason: reason, Message: message, Revision: revision,
	})
}

// speaks has the service's last words be these.
func (w *inquiry) speaks(words string) {
	w.said = func(string, time.Time, time.Time) (telemetry.Record, bool) {
		return telemetry.Record{Time: w.now, Body: words, Instance: "web-1"}, true
	}
}

func (w *inquiry) deployed(ago int, changes ...string) {
	w.happened(ago+60, "instance.started", "web-1", "start", "", 2)
	w.happened(ago+59, "instance.ready", "web-1", "probe", "", 0)
	w.happened(ago, "revision.applied", "", "up", "applied", 3)
	w.changes = func(int64) []string { return changes }
}

func TestTheFirstCauseIsNamedOrSaidToBeUnknown(t *testing.T) {
	for name, tc := range map[string]struct {
		wrong       func(*inquiry)
		kind, cause string // of the first finding; cause is a part
		what        string // "none": there is nothing to explain
	}{
		"nothing is wrong": {wrong: func(*inquiry) {}, what: "none"},
		"crash": {func(w *inquiry) {
			w.happened(40, "instance.started", "web-1", "start", "", 3)
			w.happened(30, "instance.exited", "web-1", "crashed", "exited with code 7", 3)
			w.speaks("no connection to the database")
		}, "crash", "exited with code 7: no connection to the database", "restart"},
		"a kill of somebody else's": {func(w *inquiry) {
			w.happened(30, "instance.exited", "web-1", "signal", "killed by signal KILL", 3)
		}, "crash", "which Trellis did not send", "restart"},
		"bad version": {func(w *inquiry) {
			w.deployed(30, "services.web.image", "services.web.environment.A")
			w.happened(20, "instance.started", "web-1", "start", "", 3)
			w.happened(10, "instance.exited", "web-1", "crashed", "exited with code 2", 3)
		}, "bad-version", "revision 3 ends before it is ready (exited with code 2)", "restart"},
		"a version that ran, and ends at once when it is started again": {func(w *inquiry) {
			w.deployed(7200, "services.web.image")
			w.happened(7190, "instance.started", "web-2", "start", "", 3)
			w.happened(7180, "instance.ready", "web-2", "probe", "", 0)
			w.happened(7170, "revision.healthy", "", "up", "every service is as wanted", 3)
			w.happened(20, "instance.started", "web-1", "restart", "", 3)
			w.happened(10, "instance.exited", "web-1", "crashed", "exited with code 2", 3)
			w.speaks("no connection to the database")
		}, "crash", "exited with code 2: no connection to the database", "restart"},
		"bad version, taken back": {func(w *inquiry) {
			w.deployed(30, "services.web.x-trellis.process.artifact")
			w.happened(10, "revision.rolled-back", "", "up", "web failed more requests than before", 3)
		}, "bad-version", "web failed more requests than before", "rollback"},
		"a rollback because of another service": {func(w *inquiry) {
			w.happened(10, "revision.rolled-back", "", "up", "web-shop: crashed 3 times in a row", 3)
		}, "", "", "none"},
		"config error": {func(w *inquiry) {
			w.deployed(30, "services.web.environment.DATABASE_URL")
			w.happened(20, "instance.started", "web-1", "start", "", 3)
			w.happened(10, "instance.exited", "web-1", "crashed", "exited with code 1", 3)
		}, "config-error", "revision 3 changed nothing but services.web.environment.DATABASE_URL", "restart"},
		"not to be started": {func(w *inquiry) {
			w.happened(10, "instance.refused", "web-1", "invalid", "no such user: shop", 3)
		}, "config-error", "no such user: shop", "failure"},
		"memory": {func(w *inquiry) {
			w.happened(10, "instance.exited", "web-1", "oom", "used more memory than its limit", 3)
			w.calls[way{"*", "web"}] = callNow{rate: 10, failed: 2, p99: 0.1}
		}, "memory", "more memory than its limit", "errors"},
		"hung": {func(w *inquiry) {
			w.happened(200, "instance.exited", "web-2", "crashed", "exited with code 1", 3) // an older trouble
			w.happened(20, "instance.unready", "web-1", "probe", "no answer within 1s", 0)
			w.happened(10, "instance.stopping", "web-1", "stop", local.Hung+": no answer within 1s", 0)
			w.happened(9, "instance.exited", "web-1", "stopped", "was stopped", 3)
		}, "hung", "does not answer any more", "restart"},
		"hung, and not yet replaced": {func(w *inquiry) {
			w.happened(3, "instance.unready", "web-1", "probe", "no answer within 1s", 0)
			w.service.Instances[0].State, w.service.Ready = engine.InstanceUnready, 1
		}, "hung", "runs and does not answer", "failure"},
		"unready, and nobody says why": {func(w *inquiry) {
			w.happened(3, "instance.unready", "web-1", "probe", "HTTP 503", 0)
			w.service.Instances[0].State, w.service.Ready = engine.InstanceUnready, 1
		}, "", "", "failure"},
		"slow dependency": {func(w *inquiry) {
			w.calls[way{"*", "web"}] = callNow{rate: 10, p99: 0.8}
			w.calls[way{"web", "api"}] = callNow{rate: 10, p99: 0.75}
			w.calls[way{"api", "db"}] = callNow{rate: 10, p99: 0.7}
			w.calls[way{"*", "api"}] = callNow{rate: 10, p99: 0.75}
			w.deployed(100, "services.web.image") // that it comes after a deploy says nothing
		}, "dependency", "api's calls to db take 700ms at p99", "slow"},
		"failing dependency": {func(w *inquiry) {
			w.calls[way{"*", "web"}] = callNow{rate: 10, failed: 5}
			w.calls[way{"web", "api"}] = callNow{rate: 10, failed: 5}
			w.services["api"] = engine.Service{Name: "api", Reason: "crashed 3 times in a row"}
		}, "dependency", "50.0% of its calls to api fail; api: crashed 3 times in a row", "errors"},
		"retry storm": {func(w *inquiry) {
			w.calls[way{"*", "web"}] = callNow{rate: 10, retries: 6, p99: 0.05}
			w.measured.broken = map[string]float64{"web-1": 0.01, "web-2": 0.6}
		}, "retry-storm", "web-2 (60 %) cut requests off, so that 6 a second are tried again", "slow"},
		"retry storm of a service that is fast, as what it calls is": {func(w *inquiry) {
			w.calls[way{"*", "web"}] = callNow{rate: 10, retries: 6, p99: 0.006}
			w.calls[way{"web", "api"}] = callNow{rate: 10, p99: 0.004}
		}, "retry-storm", "instances of web take requests and do not answer them", "slow"},
		"requests that wait, and are answered fast then, as is what is called": {func(w *inquiry) {
			w.calls[way{"*", "web"}] = callNow{rate: 10, held: 4, p99: 0.03}
		}, "overload", "4.0 requests a second wait", "slow"},
		"overload": {func(w *inquiry) {
			w.calls[way{"*", "web"}] = callNow{rate: 10, held: 4, p99: 2, failed: 3}
		}, "overload", "4.0 requests a second wait because all 2 instances are busy", "errors"},
		"overload of the processor": {func(w *inquiry) {
			w.calls[way{"*", "web"}] = callNow{rate: 10, p99: 2}
			w.measured.cpu = map[string]float64{"web": 0.99}
		}, "overload", "99 % of the CPU", "slow"},
		"full disk": {func(w *inquiry) {
			w.measured.disk, w.measured.free = 0.99, 4e6
		}, "disk", "4 MB (1.0 %) are left", "disk"},
		"what it runs on is taken away": {func(w *inquiry) {
			w.happened(60, "instance.started", "web-1", "wanted", "", 3)
			w.happened(59, "instance.ready", "web-1", "probe", "", 3)
			w.happened(30, "instance.exited", "web-1", "error", "its network was ended under it", 3)
			w.speaks("listening")
		}, "crash", "its network was ended under it", "restart"},
		"a crash while the disk is nearly full": {func(w *inquiry) {
			w.happened(30, "instance.exited", "web-1", "crashed", "exited with code 7", 3)
			w.measured.disk, w.measured.free = 0.96, 10e9
		}, "crash", "exited with code 7", "restart"},
		"a full disk long after a crash": {func(w *inquiry) {
			w.happened(900, "instance.exited", "web-1", "crashed", "exited with code 7", 3)
			w.measured.disk, w.measured.free = 0.99, 4e6
		}, "disk", "4 MB (1.0 %) are left", "disk"},
		"a version taken back while a certificate is about to end": {func(w *inquiry) {
			w.deployed(30, "services.web.image")
			w.happened(10, "revision.rolled-back", "", "up", "web failed more requests than before", 3)
			w.certificates = []certificate{{name: "shop", source: certificateFile, notBefore: w.now.Add(-80 * 24 * time.Hour), notAfter: w.now.Add(10 * 24 * time.Hour)}}
		}, "bad-version", "web failed more requests", "rollback"},
		"full disk, and it says so": {func(w *inquiry) {
			w.calls[way{"*", "web"}] = callNow{rate: 10, failed: 5}
			w.speaks("write /data/orders: no space left on device")
			w.measured.disk, w.measured.free = 0.999, 0
		}, "disk", "no space left on device", "errors"},
		"a driver that does not answer": {func(w *inquiry) {
			w.happened(300, "instance.exited", "web-2", "crashed", "exited with code 1", 3) // an older trouble
			w.happened(20, "driver.away", "", "unavailable", "the Docker engine cannot be reached", 0)
			w.service.Unknown = &engine.Unknown{Driver: "docker", Since: w.now.Add(-20 * time.Second), Reason: "the Docker engine cannot be reached", Remedy: "start it again"}
		}, "driver", "cannot be reached; start it again", "failure"},
		"certificate": {func(w *inquiry) {
			w.certificates = []certificate{{name: "shop.localhost", source: certificateLocal, notBefore: w.now.Add(-23 * time.Hour), notAfter: w.now.Add(time.Hour)}}
			w.happened(60, "certificate.failed", "", "local", "root.key: no such file", 3)
		}, "certificate", "could not be renewed: root.key: no such file", "certificate"},
		"a certificate, while another one could not be had": {func(w *inquiry) {
			w.certificates = []certificate{{name: "shop.example.org", source: certificateACME, notBefore: w.now.Add(-80 * 24 * time.Hour), notAfter: w.now.Add(10 * 24 * time.Hour)}}
			w.happened(3600, "certificate.failed", "", certificateACME, "no certificate for shop.example.org: rate limited; asked again at 12:00:00 UTC", 3)
			w.happened(60, "certificate.failed", "", certificateACME, "no certificate for api.shop.example.org: no such name; asked again at 12:00:00 UTC", 3)
			w.happened(50, "certificate.failed", "", certificateLocal, "root.key: no such file", 3)
		}, "certificate", "no certificate for shop.example.org: rate limited", "certificate"},
		"a certificate of which only others' failures are known": {func(w *inquiry) {
			w.certificates = []certificate{{name: "shop.example.org", source: certificateACME, notBefore: w.now.Add(-80 * 24 * time.Hour), notAfter: w.now.Add(10 * 24 * time.Hour)}}
			w.happened(60, "certificate.failed", "", certificateACME, "no certificate for api.shop.example.org: no such name; asked again at 12:00:00 UTC", 3)
		}, "certificate", "nothing says why", "certificate"},
		"routes that the cluster's gateway does not serve": {func(w *inquiry) {
			w.unserved = []engine.Unserved{{Service: "web", Route: "/api/*", Reason: "no such filter (UnsupportedValue)"}}
		}, "gateway", "no such filter (UnsupportedValue)", "failure"},
		"a certificate of one's own": {func(w *inquiry) {
			w.certificates = []certificate{{name: "shop", source: certificateFile, notBefore: w.now.Add(-80 * 24 * time.Hour), notAfter: w.now.Add(10 * 24 * time.Hour)}}
		}, "certificate", "nobody renews it but you", "certificate"},
		"a certificate that is good": {func(w *inquiry) {
			w.certificates = []certificate{{name: "shop", notBefore: w.now.Add(-time.Hour), notAfter: w.now.Add(23 * time.Hour)}}
		}, "", "", "none"},
		"slower since a deploy": {func(w *inquiry) {
			w.calls[way{"*", "web"}] = callNow{rate: 10, p99: 0.8}
			w.deployed(100, "services.web.image")
		}, "deploy", "it began with revision 3, which changed services.web.image", "slow"},
		"as slow before the deploy": {func(w *inquiry) {
			w.calls[way{"*", "web"}] = callNow{rate: 10, p99: 0.8}
			w.usual[way{"*", "web"}] = callNow{rate: 10, p99: 0.75}
			w.deployed(100, "services.web.image")
		}, "", "", "slow"},
		"a deploy of something else": {func(w *inquiry) {
			w.calls[way{"*", "web"}] = callNow{rate: 10, p99: 0.8}
			w.deployed(100)
		}, "", "", "slow"},
		"slow by itself": {func(w *inquiry) { w.calls[way{"*", "web"}] = callNow{rate: 10, p99: 0.8} }, "", "", "slow"},
		"failing by itself": {func(w *inquiry) {
			w.calls[way{"*", "web"}] = callNow{rate: 10, failed: 3}
			w.happened(4000, "instance.exited", "web-1", "crashed", "exited with code 7", 3) // an hour ago
		}, "", "", "errors"},
		"scaled by hand": {func(w *inquiry) {
			w.happened(10, "service.override", "web-0", "asked", "5 replicas", 3)
		}, "operator", "5 replicas", "scale"},
	} {
		t.Run(name, func(t *testing.T) {
			w := asked()
			tc.wrong(w)
			found := w.findings()
			if tc.what == "none" {
				if len(found) > 0 {
					t.Fatalf("there is nothing to explain: %+v", found)
				}
				return
			}
			if len(found) == 0 {
				t.Fatal("nothing is explained")
			}
			first := found[0]
			if first.What != tc.what || first.Kind != tc.kind || !strings.Contains(first.Cause, tc.cause) {
				t.Errorf("%s, %q: %s\nwant %s, %q: %s", first.What, first.Kind, first.Cause, tc.what, tc.kind, tc.cause)
			}
			if (first.Kind == "") != (first.Cause == "") || first.Kind == "" && !strings.Contains(first.Title, "not say why") {
				t.Errorf("what is not known is not said: %+v", first)
			}
			checkChain(t, first)
		})
	}
}

// checkChain fails if an explanation rests on nothing.
func checkChain(t *testing.T, x api.Explanation) {
	t.Helper()
	if len(x.Chain) == 0 {
		t.Errorf("no evidence: %+v", x)
	}
	for _, e := range x.Chain {
		if e.Text == "" || e.Time.IsZero() || e.Kind == "" {
			t.Errorf("evidence that says nothing: %+v", e)
		}
	}
}

// TestSymptomsLeadOn: requests that fail are shown with what the service says and with the trace of one of them, and what a
// deploy has to do with it with its revision.
func TestSymptomsLeadOn(t *testing.T) {
	w := asked()
	w.calls[way{"*", "web"}] = callNow{rate: 10, failed: 5, p99: 0.05}
	w.deployed(100, "services.web.image")
	w.speaks("order 17 failed")
	w.traced = func(failing bool) (telemetry.TraceSummary, bool) {
		return telemetry.TraceSummary{Trace: telemetry.TraceID{0xab}, Root: "GET /orders/*", Path: "/orders/17", Duration: 20 * time.Millisecond, HTTP: 500, Start: w.now}, failing
	}
	got := ""
	for _, e := range w.findings()[0].Chain {
		got += e.Kind + " " + e.Text + " -> " + e.Ref + "\n"
	}
	want := `revision revision.applied: applied -> 3
log order 17 failed -> web-1
metric 50.0% of its requests fail, of 10 a second -> trellis_request_duration_seconds{service="web"}
trace one of them: GET /orders/17, 20ms, answered 500 -> ab000000000000000000000000000000
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestLastWordsAreOfTheRunThatEnded: where an instance runs again at once, its first words are not those of its end.
func TestLastWordsAreOfTheRunThatEnded(t *testing.T) {
	for again, want := range map[bool]string{false: "exited with code 3: flushed", true: "exited with code 3: no database"} {
		w := asked()
		w.happened(8, "instance.started", "web-1", "start", "", 3)
		w.happened(5, "instance.exited", "web-1", "exit", "exited with code 3", 3)
		end := w.now.Add(-5 * time.Second)
		if again {
			w.happened(4, "instance.started", "web-1", "restart", "", 3)
		}
		w.said = func(_ string, _, until time.Time) (telemetry.Record, bool) {
			if until.After(end) {
				return telemetry.Record{Time: end.Add(time.Second), Body: "flushed", Instance: "web-1"}, true
			}
			return telemetry.Record{Time: end, Body: "no database", Instance: "web-1"}, true
		}
		if x, ok := w.restart(); !ok || x.Cause != want {
			t.Errorf("started again %v: %q, want %q", again, x.Cause, want)
		}
	}
}
