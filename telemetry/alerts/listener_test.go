package alerts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/alertmanager/notify/webhook"

	"trellis/telemetry"
)

// listener is a receiver without sockets, for tests in which time is made up.
type listener struct {
	answer func(service string) int // nil: 200; 0: not reached

	mu    sync.Mutex
	took  []string // "firing A B resolved C", one for each notification
	tries int
}

// RoundTrip implements http.RoundTripper.
func (l *listener) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tries++
	var m webhook.Message
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		return nil, err
	}
	status := http.StatusOK
	if l.answer != nil {
		status = l.answer(m.GroupLabels["service"])
	}
	if status == 0 {
		return nil, errors.New("nobody listens")
	}
	if status == http.StatusOK {
		by := map[string][]string{}
		for _, a := range m.Alerts {
			by[a.Status] = append(by[a.Status], a.Labels["alertname"])
		}
		var words []string
		for _, status := range []string{"firing", "resolved"} {
			if names := by[status]; names != nil {
				slices.Sort(names)
				words = append(words, status+" "+strings.Join(names, " "))
			}
		}
		l.took = append(l.took, strings.Join(words, " "))
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Body: http.NoBody, Request: r}, nil
}

func (l *listener) becomes(answer func(string) int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = answer
}

// said returns what the receiver has taken since it was last asked.
func (l *listener) said() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.took = nil }()
	return l.took
}

func away(string) int { return 0 }

// life is a notifier that runs. end ends it.
type life struct {
	*Notifier
	end func()
}

func live(t *testing.T, file string, to http.RoundTripper) life {
	t.Helper()
	n := New(Config{Project: "shop", File: file, Log: slog.New(slog.DiscardHandler), Client: &http.Client{Transport: to}})
	n.SetReceiver("http://receiver", "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	return life{n, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}}
}

// fires and ends have the notifier hear of an alert, and a while pass in which it is told.
func (l life) fires(name, service, severity string) {
	l.hears(name, service, severity, time.Time{})
}

func (l life) ends(name, service, severity string) {
	l.hears(name, service, severity, time.Now())
}

func (l life) hears(name, service, severity string, ended time.Time) {
	a := firing(name, service, severity)
	a.FiredAt, a.ResolvedAt = time.Now(), ended
	l.Take([]telemetry.Alert{a})
	time.Sleep(2 * groupInterval)
	synctest.Wait()
}

func want(t *testing.T, to *listener, took ...string) {
	t.Helper()
	if diff := cmp.Diff(took, to.said()); diff != "" {
		t.Errorf("the receiver took (-want +got):\n%s", diff)
	}
}
