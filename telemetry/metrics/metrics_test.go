package metrics

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"trellis/compose"
	"trellis/errdefs"
	"trellis/telemetry"
)

// opened returns a store that runs until the test ends.
func opened(t testing.TB, cfg Config) (s *Store, stop func()) {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = func() { cancel(); <-done }
	select {
	case <-s.Opened():
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	return s, stop
}

func sample(name string, at time.Time, v float64, labels ...string) telemetry.Sample {
	l := map[string]string{"__name__": name}
	for i := 0; i+1 < len(labels); i += 2 {
		l[labels[i]] = labels[i+1]
	}
	return telemetry.Sample{Labels: l, Time: at, Value: v}
}

// only evaluates an expression that has one value.
func only(t *testing.T, s *Store, expr string, at time.Time) float64 {
	t.Helper()
	got, err := s.Query(t.Context(), expr, at)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 {
		t.Fatalf("%s has %d values: %v", expr, len(got), got)
	}
	return got[0].Value
}

func TestWhatIsAppendedIsFoundAlsoAfterARestart(t *testing.T) {
	dir := t.TempDir()
	s, stop := opened(t, Config{Dir: dir})
	now := time.Now()
	for i := range 5 {
		at := now.Add(time.Duration(i-5) * time.Second)
		if err := s.Append(t.Context(), uint64(i+1), []telemetry.Sample{sample("a_total", at, float64(10*i), "service", "web")}); err != nil {
			t.Fatal(err)
		}
	}
	if got := only(t, s, `a_total{service="web"}`, now); got != 40 {
		t.Errorf("a_total is %v", got)
	}
	stop()
	s, stop = opened(t, Config{Dir: dir})
	defer stop()
	if got := only(t, s, `increase(a_total[4s])`, now.Add(-time.Second)); math.Abs(got-40) > 1 {
		t.Errorf("increase is %v", got)
	}
}

func TestASeriesThatIsGoneEnds(t *testing.T) {
	s, stop := opened(t, Config{})
	defer stop()
	now := time.Now()
	_ = s.Append(t.Context(), 1, []telemetry.Sample{sample("up2", now.Add(-time.Second), 1, "instance", "a"), sample("up2", now.Add(-time.Second), 1, "instance", "b")})
	_ = s.Append(t.Context(), 2, []telemetry.Sample{sample("up2", now, 1, "instance", "b")})
	if got := only(t, s, "count(up2)", time.Now().Add(time.Second)); got != 1 {
		t.Errorf("%v series", got)
	}
}

// TestEndedSeriesLeaveMemory: with most series of a store ended, those go to the disk, where they are found as before. That is
// nothing to warn of, though what is written then lies side by side.
func TestEndedSeriesLeaveMemory(t *testing.T) {
	var warned bytes.Buffer
	s, stop := opened(t, Config{tidy: 20 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&warned, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	const instances = 2 * enoughEnded
	begin, batch := time.Now().Add(-instances*time.Second/2), uint64(0)
	for _, service := range []string{"api-", "web-"} {
		for i := range instances {
			at := begin.Add(time.Duration(i) * time.Second / 2)
			batch++
			round := []telemetry.Sample{sample("up", at, 1), sample("cpu_total", at, float64(i), "instance", fmt.Sprint(service, i))}
			if err := s.Append(t.Context(), batch, round); err != nil {
				t.Fatal(err)
			}
		}
		for deadline := time.Now().Add(20 * time.Second); s.db.Head().NumSeries() > enoughEnded+10; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d series are in memory, of which %d have ended", s.db.Head().NumSeries(), s.db.Head().NumStaleSeries())
			}
		}
	}
	if got := only(t, s, `cpu_total{instance="web-7"}`, begin.Add(3500*time.Millisecond)); got != 7 {
		t.Errorf("web-7 had %v", got)
	}
	if got := only(t, s, "count(count_over_time(cpu_total[10m]))", time.Now()); got != 2*instances {
		t.Errorf("%v instances are found, want %d", got, 2*instances)
	}
	if err := s.Append(t.Context(), batch+1, []telemetry.Sample{sample("up", time.Now(), 2), sample("cpu_total", time.Now(), 9, "instance", "web-7")}); err != nil {
		t.Fatal(err)
	}
	if got := only(t, s, `cpu_total{instance="web-7"}`, time.Now()); got != 9 {
		t.Errorf("web-7 is back and has %v", got)
	}
	stop()
	if warned.Len() > 0 {
		t.Errorf("it warned: %s", warned.String())
	}
}

func TestDistributions(t *testing.T) {
	s, stop := opened(t, Config{})
	defer stop()
	now := time.Now()
	d := &telemetry.Distribution{Counts: map[float64]uint64{0.010: 900, 0.100: 90, 1.0: 10}}
	one := sample("took_seconds", now, 0)
	one.Distribution, one.Created = d, now.Add(-10*time.Second)
	if err := s.Append(t.Context(), 1, []telemetry.Sample{one}); err != nil {
		t.Fatal(err)
	}
	for q, want := range map[string]float64{"0.5": 0.010, "0.95": 0.1, "0.999": 1} {
		if got := only(t, s, "histogram_quantile("+q+", took_seconds)", now); math.Abs(got-want) > 0.05*want {
			t.Errorf("quantile %s is %v, want %v", q, got, want)
		}
	}
	if got := only(t, s, "histogram_fraction(0, 0.05, increase(took_seconds[20s]))", now); math.Abs(got-0.9) > 0.01 {
		t.Errorf("fraction is %v: what came first is not seen", got)
	}
}

// TestTooManySeriesAreRefused: a program with ever new labels gets so many series and no more, and what Trellis measures has
// room beside it.
func TestTooManySeriesAreRefused(t *testing.T) {
	s, stop := opened(t, Config{MaxSeries: 100})
	defer stop()
	now := time.Now()
	app, refused := limiter{s, s.cfg.MaxSeries}.AppenderV2(t.Context()), 0
	for i := range 1000 {
		_, err := app.Append(0, labels.FromStrings("__name__", "bomb", "id", fmt.Sprint(i)), 0, now.UnixMilli(), 1, nil, nil, storage.AppendV2Options{})
		if errors.Is(err, errSeriesLimit) {
			refused++
		}
	}
	if err := app.Commit(); err != nil || refused != 900 {
		t.Errorf("%d refused, %v", refused, err)
	}
	var own []telemetry.Sample
	for i := range 30 {
		own = append(own, sample("measured", now, 1, "service", fmt.Sprint(i)))
	}
	if err := s.Append(t.Context(), 1, own); err != nil {
		t.Fatal(err)
	}
	if h := s.Health(); h.Lost[telemetry.LossLimit] != 900+10 || h.Accepted != 20 {
		t.Errorf("%+v", h)
	}
	if got := only(t, s, "count(bomb)", now); got != 100 {
		t.Errorf("%v series of the bomb", got)
	}
}

// TestWhatASeriesLimitCostsIsCounted: by whatever way samples come, those that are beyond the limit are seen to be lost, and so are those
// that were refused with them.
func TestWhatASeriesLimitCostsIsCounted(t *testing.T) {
	exposed := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "bomb{id=\"%d\"} 1\n", i)
		}
		return b.String()
	}
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, exposed(60)) }))
	defer target.Close()
	s, stop := opened(t, Config{MaxSeries: 50, Scrape: 100 * time.Millisecond})
	defer stop()
	s.SetTargets([]Target{{Service: "web", Instance: "web-1", Address: strings.TrimPrefix(target.URL, "http://"), Path: "/"}})
	deadline := time.Now().Add(10 * time.Second)
	for s.Health().Lost[telemetry.LossLimit] < 10 {
		if time.Now().After(deadline) {
			t.Fatalf("scraped: %+v", s.Health())
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.SetTargets(nil)

	// The scrapes end some time after that, and lose nothing more.
	before := s.Health().Lost[telemetry.LossLimit]
	for same := 0; same < 5; same++ {
		time.Sleep(200 * time.Millisecond)
		if now := s.Health().Lost[telemetry.LossLimit]; now != before {
			before, same = now, 0
		}
		if time.Now().After(deadline.Add(20 * time.Second)) {
			t.Fatal("the target is scraped still")
		}
	}
	app := limiter{s, s.cfg.MaxSeries}.AppenderV2(t.Context())
	at := time.Now().UnixMilli()
	for i, known := range []bool{true, true, false} {
		l := labels.FromStrings("__name__", "bomb", "id", fmt.Sprint(i), "instance", "web-1", "job", "web", "revision", "0", "service", "web")
		if !known {
			l = labels.FromStrings("__name__", "new")
		}
		if _, err := app.Append(0, l, 0, at, 1, nil, nil, storage.AppendV2Options{}); (err == nil) != known {
			t.Fatalf("series %d: %v", i, err)
		}
	}
	if err := app.Rollback(); err != nil {
		t.Fatal(err)
	}
	if got := s.Health().Lost[telemetry.LossLimit]; got != before+3 {
		t.Errorf("%d more were lost with the request, want 3", got-before)
	}
}

func TestTheAPIAnswers(t *testing.T) {
	s, stop := opened(t, Config{})
	defer stop()
	_ = s.Append(t.Context(), 1, []telemetry.Sample{
		sample("a_total", time.Now(), 7, "service", "web", "odd", "a\"b\n"), sample("http.calls", time.Now(), 8, "http.method", "GET"),
	})
	for path, want := range map[string]string{
		"/api/v1/query?query=a_total":                     `"7"`,
		"/api/v1/labels":                                  `"odd"`,
		"/api/v1/label/service/values":                    `"web"`,
		"/api/v1/series?match[]=a_total":                  `"a_total"`,
		"/api/v1/rules":                                   `"groups"`,
		"/api/v1/alerts":                                  `"alerts"`,
		"/api/v1/targets":                                 `"activeTargets"`,
		"/api/v1/metadata":                                `"success"`,
		"/api/v1/status/buildinfo":                        `"version"`,
		"/api/v1/status/tsdb":                             `"headStats"`,
		"/api/v1/format_query?query=sum(a)by(b)":          `sum by`,
		"/federate?match[]=" + url.QueryEscape("a_total"): `a_total{odd="a\"b\n",service="web"} 7 `,
		"/federate?match[]=" + url.QueryEscape(`{__name__=~"http.+"}`): "http_calls{http_method=\"GET\"} 8 ", // as every reader of the format knows names
	} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	for bad, want := range map[string]int{
		"/federate": 400, "/federate?match[]=((": 400, "/api/v1/query?query=sum(": 400, "/api/v1/openapi.yaml": 404,
	} {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, bad, nil))
		if w.Code != want {
			t.Errorf("%s: %d", bad, w.Code)
		}
	}
	a, err := s.Ask(t.Context(), "a_total * 2", time.Time{}, time.Now(), 0)
	if err != nil || a.Type != "vector" || !json.Valid(a.Result) || !bytes.Contains(a.Result, []byte(`"14"`)) {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err = s.Ask(t.Context(), "a_total", time.Now().Add(-time.Minute), time.Now(), 10*time.Second); err != nil || a.Type != "matrix" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := s.Ask(t.Context(), "sum(", time.Time{}, time.Now(), 0); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("%v", err)
	}
}

func TestTargetsAreScraped(t *testing.T) {
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprint(w, "# TYPE orders_total counter\norders_total{kind=\"a\"} 12\n")
	}))
	defer target.Close()
	s, stop := opened(t, Config{Scrape: time.Second})
	defer stop()
	s.SetTargets([]Target{{Service: "shop", Instance: "shop-1", Revision: 3, Address: strings.TrimPrefix(target.URL, "http://"), Path: "/metrics"}})
	deadline := time.Now().Add(60 * time.Second)
	for {
		got, err := s.Query(t.Context(), `orders_total{service="shop",instance="shop-1",revision="3"}`, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 1 && got[0].Value == 12 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing was scraped: %v", got)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestRulesFireAndResolve(t *testing.T) {
	told := make(chan telemetry.Alert, 100)
	s, stop := opened(t, Config{Evaluate: 200 * time.Millisecond, Notify: func(all []telemetry.Alert) {
		for _, a := range all {
			told <- a
		}
	}})
	defer stop()
	groups := []telemetry.RuleGroup{{Name: "g", Rules: []telemetry.Rule{{
		Alert: "Bad", Expr: "bad > 0", Labels: map[string]string{"severity": "page"}, Annotations: map[string]string{"summary": "it is {{ $value }}"},
	}}}}
	if err := s.SetRules("file", groups); err != nil {
		t.Fatal(err)
	}
	next := func(resolved bool) {
		t.Helper()
		deadline := time.After(60 * time.Second)
		for {
			select {
			case a := <-told:
				if a.Labels["alertname"] == "Bad" && a.ResolvedAt.IsZero() != resolved {
					if a.Annotations["summary"] != "it is 3" {
						t.Errorf("summary %q", a.Annotations["summary"])
					}
					if left := time.Until(a.ValidUntil); !resolved && (left < 3*resend || left > 4*resend) {
						t.Errorf("it counts as firing for %s", left)
					}
					return
				}
			case <-deadline:
				t.Fatalf("no alert, resolved %v", resolved)
			}
		}
	}
	_ = s.Append(t.Context(), 1, []telemetry.Sample{sample("bad", time.Now(), 3)})
	next(false)
	if all, err := s.Alerts(); err != nil || len(all) != 1 || all[0].FiredAt.IsZero() {
		t.Errorf("%v, %v", all, err)
	}
	_ = s.Append(t.Context(), 2, nil) // the series ends
	next(true)
	const head = "groups:\n- name: g\n  labels: {team: web}\n  rules:\n  - alert: Bad\n"
	if groups, err := ParseRules([]byte(head + "    expr: bad > 0\n    for: 5m\n")); err != nil || len(groups) != 1 || groups[0].Rules[0].For != 5*time.Minute || groups[0].Rules[0].Labels["team"] != "web" {
		t.Errorf("a rule file: %+v, %v", groups, err)
	}
	const whole = "groups:\n- name: g\n  interval: 7s\n  query_offset: 3s\n  limit: 9\n  rules:\n  - alert: Bad\n    expr: bad > 0\n    for: 1m\n    keep_firing_for: 2m\n"
	if groups, err := ParseRules([]byte(whole)); err != nil || s.SetRules("whole", groups) != nil {
		t.Fatal(err)
	}
	if read, errs := s.rules.Load("whole", false, model.UTF8Validation); len(errs) > 0 || len(read.Groups) != 1 {
		t.Errorf("%+v, %v", read, errs)
	} else if g, want := read.Groups[0], "7s 3s 9 1m 2m"; fmt.Sprint(g.Interval, *g.QueryOffset, g.Limit, g.Rules[0].For, g.Rules[0].KeepFiringFor) != want {
		t.Errorf("%+v, want %s", g, want)
	}
	for bad, line := range map[string]int{ // a duration's place is not told
		"    expr: sum(\n": 6, "    expr: a\n    sayso: b\n": 7, "    expr: a\n    for: soon\n": 0, "    expr: {\n": 6,
	} {
		_, err := ParseRules([]byte(head + bad))
		var wrong compose.Diagnostics
		if errdefs.ExitCode(err) != errdefs.ExitUsage || !errors.As(err, &wrong) || wrong[0].Line != line {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := s.SetRules("x", []telemetry.RuleGroup{{Name: "g", Rules: []telemetry.Rule{{Alert: "A", Expr: "sum("}}}}); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("a bad rule: %v", err)
	}
}

func BenchmarkAppend(b *testing.B) {
	s, stop := opened(b, Config{})
	defer stop()
	samples := make([]telemetry.Sample, 1000)
	at := time.Now().Add(-30 * time.Minute)
	for i := range samples {
		samples[i] = sample("bench_total", at, 0, "service", "s", "instance", fmt.Sprint(i))
	}
	round := uint64(0)
	for b.Loop() {
		round++
		at = at.Add(10 * time.Millisecond)
		for i := range samples {
			samples[i].Time, samples[i].Value = at, float64(round)
		}
		if err := s.Append(context.Background(), round, samples); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*float64(len(samples))/b.Elapsed().Seconds(), "samples/s")
}
