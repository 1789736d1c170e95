package alerts

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSilencedAndInhibitedAlertsAreNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &listener{}
		n := live(t, filepath.Join(t.TempDir(), "alerts.json"), to)
		defer n.end()
		id, err := n.SetSilence(t.Context(), Silence{Labels: map[string]string{"service": "web"}, Ends: time.Now().Add(time.Hour), Actor: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		if all := n.Silences(); len(all) != 1 || all[0].ID != id || all[0].Labels["service"] != "web" || all[0].Actor != "ann" {
			t.Errorf("%+v", all)
		}
		if !n.Silenced(map[string]string{"service": "web", "alertname": "A"}) || n.Silenced(map[string]string{"service": "api"}) {
			t.Error("the silence is in force for others than it says")
		}
		n.fires("A", "web", Page)
		n.fires("B", "api", Page)
		n.fires("C", "api", Ticket)
		want(t, to, "firing B")
		if found, err := n.RemoveSilence(t.Context(), id); err != nil || !found {
			t.Errorf("%v, %v", found, err)
		}
		if found, err := n.RemoveSilence(t.Context(), id); err != nil || found {
			t.Errorf("a silence that is over: %v, %v", found, err)
		}
		time.Sleep(2 * groupInterval)
		want(t, to, "firing A")
		n.fires("D", "", Page)
		n.fires("E", "", Ticket) // of no service, and so of no other's
		want(t, to, "firing D", "firing D E")
		n.ends("B", "api", Page)
		time.Sleep(groupInterval)
		if got := strings.Join(to.said(), " "); !strings.Contains(got, "firing C") || !strings.Contains(got, "resolved B") {
			t.Errorf("after the page the receiver took %q", got)
		}
	})
}

// TestTheEndOfWhatWasToldIsTold: of an alert that was silenced after it was told, and not of one that came and went unheard.
func TestTheEndOfWhatWasToldIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &listener{}
		n := live(t, filepath.Join(t.TempDir(), "alerts.json"), to)
		defer n.end()
		n.fires("A", "web", Page)
		want(t, to, "firing A")
		if _, err := n.SetSilence(t.Context(), Silence{Labels: map[string]string{"service": "web"}, Ends: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		n.fires("B", "web", Page)
		n.ends("B", "web", Page)
		want(t, to)
		n.ends("A", "web", Page)
		want(t, to, "resolved A")
	})
}

func TestASilenceOutlivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, file := &listener{}, filepath.Join(t.TempDir(), "alerts.json")
		n := live(t, file, to)
		id, err := n.SetSilence(t.Context(), Silence{Labels: map[string]string{"service": "web"}, Ends: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		n.end()
		n = live(t, file, to)
		defer n.end()
		n.fires("A", "web", Page)
		want(t, to)
		if again, err := n.SetSilence(t.Context(), Silence{ID: id, Labels: map[string]string{"service": "web"}, Starts: n.Silences()[0].Starts, Ends: time.Now().Add(time.Minute)}); err != nil || again != id {
			t.Errorf("a silence is shortened: %q, %v", again, err)
		}
		time.Sleep(time.Minute + groupInterval)
		want(t, to, "firing A")
	})
}

// TestSilencesThatSilenceNothing are refused.
func TestSilencesThatSilenceNothing(t *testing.T) {
	n := New(Config{Project: "shop", File: filepath.Join(t.TempDir(), "alerts.json"), Log: slog.New(slog.DiscardHandler)})
	ends := time.Now().Add(time.Hour)
	for _, s := range []Silence{{Ends: ends}, {Labels: map[string]string{"service": ""}, Ends: ends}, {ID: "none", Labels: map[string]string{"service": "web"}, Ends: ends}} {
		if _, err := n.SetSilence(t.Context(), s); err == nil {
			t.Errorf("%+v is kept", s)
		}
	}
}

// TestASilencedAlertStaysTold while others of its service come and go: it is not told of anew when the silence ends, and its end is.
func TestASilencedAlertStaysTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &listener{}
		n := live(t, filepath.Join(t.TempDir(), "alerts.json"), to)
		defer n.end()
		n.fires("A", "web", Page)
		want(t, to, "firing A")
		id, err := n.SetSilence(t.Context(), Silence{Labels: map[string]string{"alertname": "A"}, Ends: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		n.fires("B", "web", Page)
		n.ends("B", "web", Page)
		want(t, to, "firing B", "resolved B")
		if _, err := n.RemoveSilence(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		n.fires("A", "web", Page)
		want(t, to)
		if _, err := n.SetSilence(t.Context(), Silence{Labels: map[string]string{"alertname": "A"}, Ends: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		n.ends("A", "web", Page)
		want(t, to, "resolved A")
	})
}
