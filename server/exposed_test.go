package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/util/teststorage"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"trellis/compose"
	"trellis/engine"
	"trellis/engine/kubernetes"
	"trellis/proxy"
	"trellis/telemetry"
	"trellis/telemetry/alerts"
	"trellis/telemetry/metrics"
)

// clustered is a project as a cluster with the Prometheus Operator has it.
func clustered(t *testing.T) (compose.Project, []kubernetes.Object) {
	t.Helper()
	p, _, err := compose.Load(t.Context(), compose.Options{Files: []string{"../engine/kubernetes/testdata/foreign/compose.yaml"}})
	if err != nil {
		t.Fatal(err)
	}
	contents, err := compose.Contents(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := kubernetes.Render(p, nil, kubernetes.Options{
		Namespace: "shop-live", Revision: 1, Image: "registry.example.org/trellis:1", Contents: contents, Key: "told", Monitoring: compose.PrometheusOperator,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p, objects
}

// foreign returns the object of that kind and name.
func foreign(t *testing.T, objects []kubernetes.Object, kind, name string) map[string]any {
	t.Helper()
	for _, o := range objects {
		if u, ok := o.(*unstructured.Unstructured); ok && u.GetKind() == kind && u.GetName() == name {
			return u.Object
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

// scraped returns the series that a Prometheus has of a pod which answers with handler, by the configuration that the operator makes of its
// PodMonitor: relabelings come after the labels that the operator gives to all pods.
func scraped(t *testing.T, monitor map[string]any, pod map[string]string, handler http.Handler) []telemetry.Sample {
	t.Helper()
	answers := httptest.NewServer(handler)
	t.Cleanup(answers.Close)
	endpoints, _, _ := unstructured.NestedSlice(monitor, "spec", "podMetricsEndpoints")
	e := endpoints[0].(map[string]any)
	one := map[string]any{
		"job_name": "podMonitor", "metrics_path": e["path"], "scrape_interval": "100ms", "scrape_timeout": "100ms", "relabel_configs": []any{
			map[string]any{"source_labels": []any{"__meta_kubernetes_namespace"}, "target_label": "namespace"},
			map[string]any{"source_labels": []any{"__meta_kubernetes_pod_container_name"}, "target_label": "container"},
			map[string]any{"source_labels": []any{"__meta_kubernetes_pod_name"}, "target_label": "pod"},
			map[string]any{"target_label": "job", "replacement": "shop-live/monitor"}, map[string]any{"target_label": "endpoint", "replacement": e["port"]},
		},
	}
	steps := func(key string) (out []any) {
		list, _ := e[key].([]any)
		for _, s := range list {
			to := map[string]any{}
			for from, name := range map[string]string{
				"action": "action", "sourceLabels": "source_labels", "regex": "regex", "targetLabel": "target_label", "replacement": "replacement",
			} {
				if v, set := s.(map[string]any)[from]; set {
					to[name] = v
				}
			}
			out = append(out, to)
		}
		return out
	}
	one["relabel_configs"] = append(one["relabel_configs"].([]any), steps("relabelings")...)
	one["metric_relabel_configs"] = steps("metricRelabelings")
	if honor, _ := e["honorLabels"].(bool); honor {
		one["honor_labels"] = true
	}
	if all, set, _ := unstructured.NestedStringSlice(monitor, "spec", "scrapeProtocols"); set {
		one["scrape_protocols"] = all
	}
	if native, _, _ := unstructured.NestedBool(monitor, "spec", "scrapeNativeHistograms"); native {
		one["scrape_native_histograms"] = true
	}
	if _, keyed := e["authorization"]; keyed {
		one["authorization"] = map[string]any{"credentials": kubernetes.ScrapeKey("told")}
	}
	text, err := yaml.Marshal(map[string]any{"scrape_configs": []any{one}})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(string(text), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	into := teststorage.NewAppendable()
	m, err := scrape.NewManager(&scrape.Options{DiscoveryReloadInterval: model.Duration(10 * time.Millisecond), DiscoveryReloadOnStartup: true},
		slog.New(slog.DiscardHandler), nil, nil, into, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.ApplyConfig(cfg); err != nil {
		t.Fatal(err)
	}
	sets := make(chan map[string][]*targetgroup.Group)
	go func() { _ = m.Run(sets) }()
	labels := model.LabelSet{}
	for name, value := range pod {
		labels["__meta_kubernetes_"+model.LabelName(name)] = model.LabelValue(value)
	}
	sets <- map[string][]*targetgroup.Group{"podMonitor": {{
		Source: "pod", Labels: labels, Targets: []model.LabelSet{{model.AddressLabel: model.LabelValue(strings.TrimPrefix(answers.URL, "http://"))}},
	}}}
	deadline := time.Now().Add(20 * time.Second)
	for len(into.ResultSamples()) == 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	m.Stop()
	all := map[string]telemetry.Sample{}
	for _, s := range into.ResultSamples() {
		l := s.L.Map()
		if strings.HasPrefix(l["__name__"], "scrape_") {
			continue
		}
		one := telemetry.Sample{Labels: l, Value: s.V}
		if s.H != nil {
			one.Distribution = &telemetry.Distribution{}
		}
		all[fmt.Sprint(l)] = one
	}
	var out []telemetry.Sample
	for _, s := range all {
		out = append(out, s)
	}
	return out
}

// theCalls are what a data plane has counted.
func theCalls() proxy.Calls {
	return proxy.Calls{
		Boot: "0123456789", Services: map[string]proxy.Counters{"web": {}},
		Calls: []proxy.Call{
			{Service: "web", Instance: "web-1", Revision: 3, Route: "/*", Status: [6]uint64{2: 90, 5: 10}, Failed: 10, Latency: proxy.Histogram{100: 90, 300: 10}},
			{Service: "web", Route: "/*", Status: [6]uint64{5: 1}, Failed: 1, Latency: proxy.Histogram{100: 1}},
		},
	}
}

// TestScrapedAsWrittenDown: a Prometheus that the operator has configured has the same series as Trellis' own store, with the project beside
// them: under the same names, with the same labels, and what has no instance gets none.
func TestScrapedAsWrittenDown(t *testing.T) {
	_, objects := clustered(t)
	own := &gathering{}
	own.plane(theCalls(), func(proxy.Call) *telemetry.Exemplar { return nil })
	key := func() string { return kubernetes.ScrapeKey("told") }
	found := scraped(t, foreign(t, objects, "PodMonitor", "trellis-shop-data-plane"),
		map[string]string{"namespace": "shop-live", "pod_name": "trellis-shop-data-plane-x", "pod_container_name": "data-plane"}, keyed(key, exposeCalls(theCalls)))
	var want, got []string
	for _, s := range own.samples {
		s.Labels["namespace"], s.Labels["trellis_project"], s.Labels["job"] = "shop-live", "shop", "shop-live/monitor"
		want = append(want, fmt.Sprint(s.Labels, s.Distribution != nil))
	}
	for _, s := range found {
		if s.Labels["__name__"] != "up" {
			got = append(got, fmt.Sprint(s.Labels, s.Distribution != nil))
		} else if s.Value != 1 || s.Labels["pod"] == "" {
			t.Errorf("up: %v %v", s.Value, s.Labels)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("scraped:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestScrapesTakeTheKey of a scrape, and no other: who has it is told nothing else.
func TestScrapesTakeTheKey(t *testing.T) {
	key := "told"
	f := &clusterFeed{log: slog.New(slog.DiscardHandler)}
	f.key.Store(&key)
	metrics := keyed(func() string { return kubernetes.ScrapeKey(f.planeKey()) }, exposeCalls(theCalls))
	rest := keyed(f.planeKey, http.NotFoundHandler())
	for _, c := range []struct {
		of     http.Handler
		bearer string
		want   int
	}{{metrics, kubernetes.ScrapeKey("told"), 200}, {metrics, "told", 401}, {metrics, "", 401}, {rest, kubernetes.ScrapeKey("told"), 401}, {rest, "told", 404}} {
		r, w := httptest.NewRequest(http.MethodGet, "/metrics", nil), httptest.NewRecorder()
		r.Header.Set("Authorization", "Bearer "+c.bearer)
		if c.of.ServeHTTP(w, r); w.Code != c.want {
			t.Errorf("asked with %q: %d, want %d", c.bearer, w.Code, c.want)
		}
	}
	if kubernetes.ScrapeKey("") != "" {
		t.Error("no key makes one")
	}
}

// TestToldIsOfNow: the control plane answers a scrape with its newest round, and with nothing once that is too old.
func TestToldIsOfNow(t *testing.T) {
	s := &sight{}
	ask := func() (int, string) {
		w := httptest.NewRecorder()
		s.exposeTold(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return w.Code, w.Body.String()
	}
	if code, _ := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("before the first round: %d", code)
	}
	g := &gathering{at: time.Now()}
	g.add("trellis_replicas_ready", 2, "service", "web")
	s.told.Store(g)
	if code, body := ask(); code != http.StatusOK || !strings.Contains(body, `trellis_replicas_ready{service="web",instance=""} 2`) {
		t.Errorf("%d %s", code, body)
	}
	g.at = time.Now().Add(-4 * collectPause)
	if code, _ := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("long after the last round: %d", code)
	}
}

// TestRulesOfTheCluster evaluates the rules that the operator is given over what it has scraped: all of them can be, an objective that is
// missed burns, and another project's calls, with the same names, are nothing to it.
func TestRulesOfTheCluster(t *testing.T) {
	p, objects := clustered(t)
	key := func() string { return kubernetes.ScrapeKey("told") }
	pod := func(name string) map[string]string {
		return map[string]string{"namespace": "shop-live", "pod_name": name, "pod_container_name": "c", "pod_annotation_trellis_dev_revision": "3"}
	}
	told := &gathering{at: time.Now()}
	var services []engine.Service
	for _, name := range p.ServiceNames() {
		services = append(services, engine.Service{
			Name: name, State: engine.ServiceHealthy, Want: 1, Ready: 1, Instances: []engine.Instance{{ID: engine.InstanceID(name + "-1"), Ready: true}},
		})
	}
	told.state(engine.State{Services: services})
	s := &sight{}
	s.told.Store(told)
	series := slices.Concat(
		scraped(t, foreign(t, objects, "PodMonitor", "trellis-shop-data-plane"), pod("trellis-shop-data-plane-x"), keyed(key, exposeCalls(theCalls))),
		scraped(t, foreign(t, objects, "PodMonitor", "trellis-shop-control-plane"), pod("trellis-shop-control-plane-x"), keyed(key, http.HandlerFunc(s.exposeTold))),
		scraped(t, foreign(t, objects, "PodMonitor", "catalog"), pod("catalog-1"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; version=0.0.4")
			_, _ = w.Write([]byte("# TYPE orders_total counter\norders_total{kind=\"book\"} 7\n"))
		})))
	for _, c := range []struct {
		name       string
		ours, slow bool // what is wrong is wrong with this project; it is slow, and not failing
		want       []string
	}{
		{"failing", true, false, []string{"ErrorRate", "ObjectiveBurning availability 99.9% page", "ObjectiveBurning availability 99.9% ticket", "service:orders:rate1m"}},
		{"slow", true, true, []string{"ObjectiveBurning p99 250ms page", "ObjectiveBurning p99 250ms ticket", "service:orders:rate1m"}},
		{"another project", false, false, []string{"service:orders:rate1m"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := inRules(t, objects, series, c.ours, c.slow); !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// inRules has a store be given an hour of series, and returns the rules whose expression has a value then.
func inRules(t *testing.T, objects []kubernetes.Object, series []telemetry.Sample, ours, slow bool) []string {
	t.Helper()
	store := metrics.New(metrics.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	defer func() {
		cancel()
		<-done
	}()
	<-store.Opened()
	const every, last = 15 * time.Second, 240
	start := time.Now().Add(-last * every)
	for n := 0; n <= last; n++ {
		var round []telemetry.Sample
		for _, of := range []string{"shop", "other"} {
			wrong := (of == "shop") == ours
			for _, one := range series {
				l := map[string]string{}
				for k, v := range one.Labels {
					l[k] = v
				}
				l["trellis_project"] = of
				s := telemetry.Sample{Labels: l, Time: start.Add(time.Duration(n) * every), Value: one.Value}
				counts := uint64(100 * n)
				switch name := l["__name__"]; {
				case name == "trellis_request_failures_total" && (!wrong || slow), strings.HasPrefix(l["code"], "5") && (!wrong || slow):
					s.Value = 0
				case name == "trellis_request_failures_total", strings.HasPrefix(l["code"], "5"):
					s.Value = float64(counts / 5)
				case one.Distribution != nil:
					took := 0.02
					if wrong && slow {
						took = 0.4
					}
					s.Distribution = &telemetry.Distribution{Counts: map[float64]uint64{took: counts}}
				case strings.HasSuffix(name, "_total") && name != "trellis_instance_restarts_total" && !strings.Contains(name, "held") && !strings.Contains(name, "faults"):
					s.Value = float64(counts)
				}
				round = append(round, s)
			}
		}
		if err := store.Append(ctx, 1, round); err != nil {
			t.Fatal(err)
		}
	}
	var all []string
	groups, _, _ := unstructured.NestedSlice(foreign(t, objects, "PrometheusRule", "trellis-shop"), "spec", "groups")
	for _, g := range groups {
		for _, r := range g.(map[string]any)["rules"].([]any) {
			rule := r.(map[string]any)
			found, err := store.Query(ctx, rule["expr"].(string), start.Add(last*every))
			if err != nil {
				t.Errorf("%v: %v", rule, err)
			}
			if len(found) == 0 {
				continue
			}
			labels := rule["labels"].(map[string]any)
			name, _ := rule["alert"].(string)
			if name == "" {
				name = rule["record"].(string)
			}
			if name == alerts.RecordedShare { // alerts rest on it
				recorded := telemetry.Sample{Labels: map[string]string{"__name__": name}, Time: start.Add(last * every), Value: found[0].Value}
				for k, v := range labels {
					recorded.Labels[k] = v.(string)
				}
				if err := store.Append(ctx, 1, []telemetry.Sample{recorded}); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if objective, set := labels["objective"]; set {
				name += fmt.Sprintf(" %s %s", objective, labels["severity"])
			}
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}
