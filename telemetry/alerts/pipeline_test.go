package alerts

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/model"

	"trellis/telemetry"
)

func TestAlertsOfAServiceAreOneNotification(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &listener{}
		n := live(t, filepath.Join(t.TempDir(), "alerts.json"), to)
		defer n.end()
		now := firing("A", "web", Page)
		now.FiredAt = time.Now()
		n.Take([]telemetry.Alert{now})
		time.Sleep(groupWait / 2)
		n.fires("B", "web", Page)
		want(t, to, "firing A B")
		n.fires("C", "api", Page)
		want(t, to, "firing C")
		n.ends("A", "web", Page)
		want(t, to, "firing B resolved A")
		n.ends("B", "web", Page)
		want(t, to, "resolved B")
		n.ends("B", "web", Page) // as a rule says it for a quarter of an hour
		want(t, to)
	})
}

func TestWhatGoesOnIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &listener{}
		n := live(t, filepath.Join(t.TempDir(), "alerts.json"), to)
		defer n.end()
		goesOn := func(for_ time.Duration) {
			for until := time.Now().Add(for_); time.Now().Before(until); time.Sleep(time.Minute) {
				n.fires("A", "web", Page)
			}
		}
		goesOn(2*repeatAfter + time.Hour)
		want(t, to, "firing A", "firing A", "firing A")
		to.becomes(away)
		goesOn(4 * repeatAfter)
		if _, _, waiting := n.Status(); waiting != 1 {
			t.Errorf("%d wait, and each says the same", waiting)
		}
		to.becomes(nil)
		goesOn(2 * time.Minute)
		want(t, to, "firing A")
		time.Sleep(forgetAfter + time.Minute)
		want(t, to, "resolved A")
	})
}

// TestWhatEndedMeanwhileIsTold: a rule that begins anew after a restart never says that what it does not know of is over.
func TestWhatEndedMeanwhileIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, file := &listener{}, filepath.Join(t.TempDir(), "alerts.json")
		n := live(t, file, to)
		n.fires("A", "web", Page)
		n.fires("B", "web", Page)
		want(t, to, "firing A", "firing A B")
		n.end()
		time.Sleep(time.Hour)
		n = live(t, file, to)
		defer n.end()
		for range 7 { // B goes on; nobody says anything of A
			n.fires("B", "web", Page)
			time.Sleep(time.Minute)
		}
		want(t, to, "firing B resolved A")
	})
}

// TestARuleThatIsRarelyEvaluatedFiresOnce: between two evaluations, and over a restart between them, its alert goes on.
func TestARuleThatIsRarelyEvaluatedFiresOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const every = 10 * time.Minute
		to, file := &listener{}, filepath.Join(t.TempDir(), "alerts.json")
		n := live(t, file, to)
		goesOn := func(times int) {
			for range times {
				a := firing("A", "web", Page)
				a.ValidUntil = time.Now().Add(4 * every) // as Prometheus has it
				n.Take([]telemetry.Alert{a})
				time.Sleep(every)
			}
		}
		goesOn(6)
		n.end()
		time.Sleep(time.Hour)
		n = live(t, file, to)
		defer n.end()
		time.Sleep(every)
		goesOn(1)
		want(t, to, "firing A")
		time.Sleep(4 * every)
		want(t, to, "resolved A")
	})
}

// TestAKillLosesNothingAndTellsNothingTwice: what is found on disk, whenever Trellis dies, goes on where it was.
func TestAKillLosesNothingAndTellsNothingTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, first, second := t.TempDir(), &listener{answer: away}, &listener{}
		file, found := filepath.Join(dir, "alerts.json"), filepath.Join(dir, "found.json")
		n := live(t, file, first)
		defer n.end()
		n.fires("A", "web", Page)
		n.fires("B", "api", Page)
		n.ends("B", "api", Page)
		b, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(found, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		heir := live(t, found, second)
		defer heir.end()
		heir.fires("A", "web", Page) // as its rule says again
		want(t, second, "firing A", "firing B", "resolved B")
		heir.ends("A", "web", Page)
		want(t, second, "resolved A")
	})
}

// TestARefusalHoldsBackItsOwnServiceOnly, is tried again until the receiver takes it, and in order.
func TestARefusalHoldsBackItsOwnServiceOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &listener{answer: func(service string) int {
			if service == "web" {
				return http.StatusForbidden
			}
			return http.StatusOK
		}}
		n := live(t, filepath.Join(t.TempDir(), "alerts.json"), to)
		defer n.end()
		n.fires("A", "web", Page)
		n.ends("A", "web", Page)
		n.fires("B", "api", Page)
		want(t, to, "firing B")
		if _, failing, waiting := n.Status(); waiting != 2 || !strings.Contains(failing, "403") {
			t.Errorf("%d wait, failing %q", waiting, failing)
		}
		time.Sleep(time.Hour)
		want(t, to, "resolved B") // of which nothing was heard any more
		to.becomes(nil)
		time.Sleep(2 * retryMax)
		want(t, to, "firing A", "resolved A")
		if _, failing, waiting := n.Status(); waiting != 0 || failing != "" {
			t.Errorf("%d wait, failing %q", waiting, failing)
		}
	})
}

// TestAFaultOfTheReceiverHoldsBackNobodyElse: a receiver that fails at one notification is not away for the others.
func TestAFaultOfTheReceiverHoldsBackNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &listener{answer: func(service string) int {
			if service == "odd" {
				return http.StatusInternalServerError
			}
			return http.StatusOK
		}}
		n := live(t, filepath.Join(t.TempDir(), "alerts.json"), to)
		defer n.end()
		n.fires("A", "odd", Page)
		n.fires("B", "web", Page)
		time.Sleep(2 * retryMax)
		want(t, to, "firing B")
		n.fires("C", "api", Page)
		time.Sleep(2 * retryMax)
		want(t, to, "firing C")
	})
}

func TestAReceiverIsTriedForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &listener{answer: away}
		n := live(t, filepath.Join(t.TempDir(), "alerts.json"), to)
		defer n.end()
		n.fires("A", "web", Page)
		n.ends("A", "web", Page)
		time.Sleep(giveUp - time.Minute)
		if _, _, waiting := n.Status(); waiting != 2 {
			t.Errorf("%d wait, want 2", waiting)
		}
		time.Sleep(3 * retryMax)
		if _, failing, waiting := n.Status(); waiting != 0 || failing == "" {
			t.Errorf("%d wait, failing %q", waiting, failing)
		}
		if perMinute := float64(to.tries) / giveUp.Minutes(); perMinute > 1.1 {
			t.Errorf("%.1f tries a minute", perMinute)
		}
	})
}

// TestTooManyThatWait: one alert that comes and goes costs no other its place, and is itself told of in the end.
func TestTooManyThatWait(t *testing.T) {
	for name, one := range map[string]struct {
		waiting []notification
		at      int
		lost    bool
	}{
		"one that flaps": {[]notification{
			{Group: "api", About: []model.Fingerprint{1}}, {Group: "web", About: []model.Fingerprint{2}}, {Group: "web", About: []model.Fingerprint{3}},
			{Group: "web", About: []model.Fingerprint{3}}, {Group: "web", About: []model.Fingerprint{3}},
		}, 2, false},
		"one that is told of together with another": {[]notification{
			{Group: "web", About: []model.Fingerprint{1, 2}}, {Group: "web", About: []model.Fingerprint{2, 1}}, {Group: "api", About: []model.Fingerprint{3}},
		}, 0, false},
		"all needed": {[]notification{
			{Group: "api", About: []model.Fingerprint{1}}, {Group: "web", About: []model.Fingerprint{2}}, {Group: "web", About: []model.Fingerprint{3}},
		}, 1, true},
		"of an older form": {[]notification{{Group: "web"}, {Group: "web"}}, 0, true},
	} {
		if at, lost := leastNeeded(one.waiting); at != one.at || lost != one.lost {
			t.Errorf("%s: %d goes, lost %v; want %d, %v", name, at, lost, one.at, one.lost)
		}
	}
}

// TestAClockPutBackTellsOnce: the notification log's last entry is of a time to come.
func TestAClockPutBackTellsOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "alerts.json")
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(3 * time.Hour)
		to := &listener{}
		n := live(t, file, to)
		defer n.end()
		n.fires("A", "web", Page)
		want(t, to, "firing A")
	})
	synctest.Test(t, func(t *testing.T) { // which begins at the same time as the other
		to := &listener{}
		n := live(t, file, to)
		defer n.end()
		n.fires("B", "web", Page)
		time.Sleep(time.Minute)
		want(t, to, "firing A B")
	})
}

// TestAFullDiskIsToldOf: what cannot be kept is delivered all the same, and kept when it can be.
func TestAFullDiskIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, dir := &listener{answer: away}, filepath.Join(t.TempDir(), "telemetry")
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "alerts.json")
		n := live(t, file, to)
		defer n.end()
		n.fires("DiskAlmostFull", "", Page)
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if b, err := os.ReadFile(file); err != nil || !strings.Contains(string(b), "DiskAlmostFull") {
			t.Errorf("it is not kept: %v", err)
		}
		to.becomes(nil)
		time.Sleep(retryMax)
		want(t, to, "firing DiskAlmostFull")
	})
}

func TestWithoutAReceiverNothingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &listener{}
		n := live(t, filepath.Join(t.TempDir(), "alerts.json"), to)
		defer n.end()
		n.SetReceiver("", "")
		n.fires("A", "web", Page)
		n.fires("B", "api", Page)
		n.ends("B", "api", Page)
		if _, _, waiting := n.Status(); waiting != 0 {
			t.Errorf("%d wait for nobody", waiting)
		}
		n.SetReceiver("http://receiver", "")
		time.Sleep(2 * groupInterval)
		want(t, to, "firing A")
	})
}

// TestAFileThatCannotBeReadIsBegunAnew, whatever in it is wrong.
func TestAFileThatCannotBeReadIsBegunAnew(t *testing.T) {
	for _, content := range []string{"", "{", `{"log": "AAAA/w=="}`, `{"silenced": "Bw=="}`, `{"told": 3}`} {
		file := filepath.Join(t.TempDir(), "alerts.json")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			to := &listener{}
			n := live(t, file, to)
			defer n.end()
			n.fires("A", "web", Page)
			want(t, to, "firing A")
		})
	}
}

// TestAnotherProjectsLabelIsKept: a rule's own label of that name does not make two alerts one.
func TestAnotherProjectsLabelIsKept(t *testing.T) {
	one := labelsOf("shop", map[string]string{"alertname": "A", "project": "other"})
	if one["project"] != "shop" || one["exported_project"] != "other" {
		t.Errorf("%v", one)
	}
}
