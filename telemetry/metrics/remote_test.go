package metrics

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"trellis/telemetry"
)

// TestRemoteWrite: what one store takes another one has, histograms and exemplars too, with the header that was given; and
// nothing more once it is switched off.
func TestRemoteWrite(t *testing.T) {
	there, stopThere := opened(t, Config{})
	defer stopThere()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer sesame" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		there.Handler().ServeHTTP(w, r)
	}))
	defer receiver.Close()
	here, stop := opened(t, Config{})
	defer stop()
	if err := here.SetRemoteWrite(receiver.URL+"/api/v1/write", http.Header{"Authorization": {"Bearer sesame"}}); err != nil {
		t.Fatal(err)
	}
	if err := here.SetRemoteWrite("://", nil); err == nil {
		t.Error("an address that is none was taken")
	}
	trace := telemetry.TraceID{1, 2}
	round := uint64(0)
	appended := func() {
		round++
		now := time.Now()
		took := sample("took_seconds", now, 0, "service", "web")
		took.Distribution = &telemetry.Distribution{Counts: map[float64]uint64{0.1: 10 * round}}
		took.Exemplar = &telemetry.Exemplar{Time: now, Value: 0.1, Trace: trace, Span: telemetry.SpanID{3}}
		if err := here.Append(t.Context(), round, []telemetry.Sample{sample("a_total", now, float64(round)), took}); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(60 * time.Second)
	for { // the queue begins at the present, so that the first samples may be left out
		appended()
		if got, err := there.Query(t.Context(), "histogram_count(took_seconds)", time.Now()); err == nil && len(got) == 1 && got[0].Value > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing arrives: %+v", here.RemoteHealth())
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, s := range []*Store{here, there} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/query_exemplars?query=took_seconds&start="+url.QueryEscape(time.Now().Add(-time.Hour).Format(time.RFC3339))+"&end="+url.QueryEscape(time.Now().Add(time.Hour).Format(time.RFC3339)), nil))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), trace.String()) {
			t.Errorf("no exemplar: %d %s", w.Code, w.Body)
		}
	}
	if h := here.RemoteHealth(); h.Accepted == 0 || len(h.Lost) > 0 && h.Lost[telemetry.LossInvalid] > 0 {
		t.Errorf("%+v", h)
	}
}

// TestWhatIsScrapedIsTold: to whoever forwards it, as it was read, without what Prometheus notes of the scrape.
func TestWhatIsScrapedIsTold(t *testing.T) {
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write([]byte("# TYPE orders counter\norders 12\n# TYPE depth gauge\ndepth 3\n"))
	}))
	defer target.Close()
	var mu sync.Mutex
	told := map[string]telemetry.Sample{}
	s, stop := opened(t, Config{Scrape: time.Second, Scraped: func(samples []telemetry.Sample) {
		mu.Lock()
		defer mu.Unlock()
		for _, one := range samples {
			told[one.Labels["__name__"]] = one
		}
	}})
	defer stop()
	s.SetTargets([]Target{{Service: "shop", Instance: "shop-1", Revision: 3, Address: strings.TrimPrefix(target.URL, "http://"), Path: "/metrics"}})
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		mu.Lock()
		n := len(told)
		mu.Unlock()
		if n > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was told")
		}
	}
	mu.Lock()
	defer mu.Unlock()
	orders, depth := told["orders"], told["depth"]
	if len(told) != 2 || orders.Value != 12 || !orders.Cumulative || depth.Value != 3 || depth.Cumulative || orders.Labels["service"] != "shop" || orders.Labels["instance"] != "shop-1" {
		t.Errorf("%+v", told)
	}
}
