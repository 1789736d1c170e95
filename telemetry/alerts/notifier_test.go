package alerts

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/alertmanager/notify/webhook"

	"trellis/compose"
	"trellis/telemetry"
)

// hook is a webhook that may be down.
type hook struct {
	mu   sync.Mutex
	down bool
	got  []webhook.Message
}

func (r *hook) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	var p webhook.Message
	if json.NewDecoder(req.Body).Decode(&p) == nil {
		r.got = append(r.got, p)
	}
}

// near is a receiver that is asked without a network, which a bubble's clock would not wait for.
type near struct{ http.Handler }

func (n near) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	n.ServeHTTP(w, r)
	return w.Result(), nil
}

func (r *hook) set(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

// await waits until the receiver has n notifications.
func (r *hook) await(t *testing.T, n int) []webhook.Message {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		r.mu.Lock()
		got := append([]webhook.Message{}, r.got...)
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

func firing(name, service, severity string) telemetry.Alert {
	return telemetry.Alert{
		Labels:      map[string]string{"alertname": name, "service": service, "severity": severity},
		Annotations: map[string]string{"summary": name + " of " + service}, FiredAt: time.Now(),
	}
}

func TestAnOutageOfTheReceiverLosesNoAlert(t *testing.T) {
	t.Parallel()
	r := &hook{down: true}
	server := httptest.NewServer(r)
	defer server.Close()
	file := filepath.Join(t.TempDir(), "alerts.json")
	n, stop := start(t, file, server.URL)
	n.Take([]telemetry.Alert{firing("A", "web", Page), firing("B", "web", Page), firing("C", "api", Page)})
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
	synctest.Test(t, func(t *testing.T) {
		r := &hook{}
		n := live(t, filepath.Join(t.TempDir(), "alerts.json"), near{r})
		defer n.end()
		a := firing("A", "web", Page)
		n.Take([]telemetry.Alert{a})
		r.await(t, 1)
		a.ResolvedAt = time.Now()
		n.Take([]telemetry.Alert{a, a})
		got := r.await(t, 2)
		if got[1].Status != "resolved" || got[1].Alerts[0].EndsAt.IsZero() {
			t.Errorf("%+v", got[1])
		}
	})
}

// TestSlacksFormatIsSent: where the file says so the receiver is posted what Slack's webhooks take.
func TestSlacksFormatIsSent(t *testing.T) {
	t.Parallel()
	got := make(chan map[string]any, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body := map[string]any{}
		_ = json.NewDecoder(r.Body).Decode(&body)
		got <- body
	}))
	defer server.Close()
	n, _ := start(t, filepath.Join(t.TempDir(), "alerts.json"), "")
	n.SetReceiver(server.URL, compose.FormatSlack)
	n.Take([]telemetry.Alert{firing("A", "web", Page)})
	select {
	case body := <-got:
		if len(body) != 1 || body["text"] != "shop\n[FIRING] A: A of web" {
			t.Errorf("%v", body)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("nothing came")
	}
}
