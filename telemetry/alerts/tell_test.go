package alerts

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/notify/webhook"

	"trellis/telemetry"
)

// TestTell: each service's alerts are one notification, tried again while the receiver may yet take it, and refused at once
// where it will not.
func TestTell(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	all := []telemetry.Alert{DriftedAlert("web", 2, since, time.Time{}), DriftedAlert("db", 0, since, since.Add(time.Hour))}
	var took []string
	answers := []int{http.StatusServiceUnavailable, http.StatusOK, http.StatusOK}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var p webhook.Message
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
			t.Error(err)
		}
		for _, a := range p.Alerts {
			took = append(took, a.Status+" "+a.Labels["alertname"]+" "+a.Labels["service"]+" of "+a.Labels["project"]+": "+a.Annotations["summary"])
		}
		answer := http.StatusGone
		if len(answers) > 0 {
			answer, answers = answers[0], answers[1:]
		}
		w.WriteHeader(answer)
	}))
	defer server.Close()
	if err := Tell(t.Context(), "shop", server.URL, "", all); err != nil {
		t.Fatal(err)
	}
	const db, web = "resolved Drifted db of shop: db is as its revision says again", "firing Drifted web of shop: web differs from its revision in 2 places: trellis drift"
	if got, want := strings.Join(took, "\n"), strings.Join([]string{db, db, web}, "\n"); got != want {
		t.Errorf("the receiver took\n%s\nwant\n%s", got, want)
	}
	if err := Tell(t.Context(), "shop", server.URL, "", all); err == nil || !strings.Contains(err.Error(), "410 Gone") {
		t.Errorf("a receiver that is gone: %v", err)
	}
	server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := Tell(ctx, "shop", server.URL, "", all); err == nil {
		t.Error("a receiver that is away, and nothing is said")
	}
}
