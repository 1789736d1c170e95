package alerts

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"trellis/compose"
	"trellis/telemetry"
)

// receiver is a webhook that may be down.
type receiver struct {
	mu   sync.Mutex
	down bool
	got  []payload
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	var p payload
	if json.NewDecoder(req.Body).Decode(&p) == nil {
		r.got = append(r.got, p)
	}
}

func (r *receiver) set(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

// await waits until the receiver has n notifications.
func (r *receiver) await(t *testing.T, n int) []payload {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		r.mu.Lock()
		got := append([]payload{}, r.got...)
		r.mu.Unlock()
		if len(got) >= n {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d notifications, want %d", len(got), n)
		}
	}
}

func start(t *testing.T, file, url string) (*Notifier, func()) {
	t.Helper()
	n := New(Config{Project: "shop", File: file, Log: slog.New(slog.DiscardHandler)})
	n.SetReceiver(url, "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = n.Run(ctx) }()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return n, stop
}

func alert(name, service, severity string) telemetry.Alert {
	return telemetry.Alert{
		Labels:      map[string]string{"alertname": name, "service": service, "severity": severity},
		Annotations: map[string]string{"summary": name + " of " + service}, FiredAt: time.Now().Add(-groupWait),
	}
}

func TestAnOutageOfTheReceiverLosesNoAlert(t *testing.T) {
	r := &receiver{down: true}
	server := httptest.NewServer(r)
	defer server.Close()
	file := filepath.Join(t.TempDir(), "alerts.json")
	n, stop := start(t, file, server.URL)
	n.Take([]telemetry.Alert{alert("A", "web", Page), alert("B", "web", Page), alert("C", "api", Page)})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, failing, waiting := n.Status(); failing != "" && waiting == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing waits")
		}
	}
	stop() // a restart in the middle of it
	_, _ = start(t, file, server.URL)
	r.set(false)
	got := r.await(t, 2)
	alerts := map[string]bool{}
	for _, p := range got {
		for _, a := range p.Alerts {
			if alerts[a.Labels["alertname"]] {
				t.Errorf("%s came twice", a.Labels["alertname"])
			}
			alerts[a.Labels["alertname"]] = true
		}
		if p.Version != "4" || p.Status != "firing" || p.CommonLabels["project"] != "shop" {
			t.Errorf("%+v", p)
		}
	}
	if len(alerts) != 3 || len(got) != 2 {
		t.Errorf("%d alerts in %d notifications", len(alerts), len(got))
	}
}

func TestResolvedAlertsAreTold(t *testing.T) {
	r := &receiver{}
	server := httptest.NewServer(r)
	defer server.Close()
	n, _ := start(t, filepath.Join(t.TempDir(), "alerts.json"), server.URL)
	a := alert("A", "web", Page)
	n.Take([]telemetry.Alert{a})
	r.await(t, 1)
	a.ResolvedAt = time.Now()
	n.Take([]telemetry.Alert{a, a})
	got := r.await(t, 2)
	if got[1].Status != "resolved" || got[1].Alerts[0].EndsAt.IsZero() {
		t.Errorf("%+v", got[1])
	}
}

// TestSlacksFormatIsSent: where the file says so the receiver is posted what Slack's webhooks take.
func TestSlacksFormatIsSent(t *testing.T) {
	got := make(chan map[string]any, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body := map[string]any{}
		_ = json.NewDecoder(r.Body).Decode(&body)
		got <- body
	}))
	defer server.Close()
	n, _ := start(t, filepath.Join(t.TempDir(), "alerts.json"), "")
	n.SetReceiver(server.URL, compose.FormatSlack)
	n.Take([]telemetry.Alert{alert("A", "web", Page)})
	select {
	case body := <-got:
		if len(body) != 1 || body["text"] != "shop\n[FIRING] A: A of web" {
			t.Errorf("%v", body)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("nothing came")
	}
}

func TestSilencedAndInhibitedAlertsAreNotSent(t *testing.T) {
	n := New(Config{Project: "shop", File: filepath.Join(t.TempDir(), "alerts.json"), Log: slog.New(slog.DiscardHandler)})
	n.SetReceiver("http://127.0.0.1:1", "")
	now := time.Now()
	n.SetSilence(Silence{ID: "1", Labels: map[string]string{"service": "web"}, Starts: now.Add(-time.Minute), Ends: now.Add(time.Hour)})
	n.Take([]telemetry.Alert{alert("A", "web", Page), alert("B", "api", Page), alert("C", "api", Ticket)})
	n.compose(now.Add(time.Second))
	if len(n.kept.Waiting) != 1 || strings.Contains(string(n.kept.Waiting[0].Body), `"C"`) || !strings.Contains(n.kept.Waiting[0].Text, "B of api") {
		t.Errorf("%+v", n.kept.Waiting)
	}
	n.compose(now.Add(2 * time.Second))
	if len(n.kept.Waiting) != 1 {
		t.Errorf("told twice: %+v", n.kept.Waiting)
	}
	if !n.RemoveSilence("1") || n.RemoveSilence("1") {
		t.Error("the silence is not removed once")
	}
	n.compose(now.Add(3 * time.Second))
	if len(n.kept.Waiting) != 2 {
		t.Errorf("not told after the silence: %+v", n.kept.Waiting)
	}
}

func TestBurnRatesAreTheWorkbooks(t *testing.T) {
	groups := OfObjectives([]Objective{{Service: "web", Name: "availability 99.9%", Target: 0.999}, {Service: "web", Name: "p50 1s", Target: 0.5, Latency: time.Second}})
	if len(groups) != 2 || len(groups[0].Rules) != 2 || len(groups[1].Rules) != 1 {
		t.Fatalf("%+v", groups)
	}
	limit := regexp.MustCompile(`\[(\w+)\]\){2,3} > ([0-9.]+)`)
	for i, want := range []string{"1h 0.0144 5m 0.0144 6h 0.006 30m 0.006", "1d 0.003 2h 0.003 3d 0.001 6h 0.001"} {
		r, got := groups[0].Rules[i], ""
		for _, found := range limit.FindAllStringSubmatch(r.Expr, -1) {
			got += " " + found[1] + " " + found[2]
		}
		if got != " "+want || r.Labels["severity"] != []string{Page, Ticket}[i] {
			t.Errorf("%s: %q, want %q: %s", r.Labels["severity"], got, want, r.Expr)
		}
	}
	// A budget of half of all requests cannot be spent 3 times as fast, but as fast as it lasts.
	if r := groups[1].Rules[0]; r.Labels["severity"] != Ticket || !strings.Contains(r.Expr, "[3d]") || strings.Contains(r.Expr, "[1d]") {
		t.Errorf("%+v", r)
	}
}
