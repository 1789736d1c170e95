package server

import (
	"testing"

	"trellis/telemetry"
	"trellis/telemetry/alerts"
)

func TestAnObjectiveIsOneAlert(t *testing.T) {
	burning := func(service, objective, severity string) telemetry.Alert {
		return telemetry.Alert{Labels: map[string]string{"alertname": alerts.Burning, "service": service, alerts.LabelObjective: objective, "severity": severity}}
	}
	got := ""
	for _, a := range onePerObjective([]telemetry.Alert{
		burning("web", "99.9%", alerts.Ticket), burning("web", "99.9%", alerts.Page), burning("web", "p99 1s", alerts.Ticket), burning("api", "99.9%", alerts.Ticket),
		{Labels: map[string]string{"alertname": "Slow", "service": "web", "severity": alerts.Ticket}},
	}) {
		got += a.Labels["alertname"] + " " + a.Labels["service"] + " " + a.Labels[alerts.LabelObjective] + " " + a.Labels["severity"] + "\n"
	}
	want := "ObjectiveBurning web 99.9% page\nObjectiveBurning web p99 1s ticket\nObjectiveBurning api 99.9% ticket\nSlow web  ticket\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
