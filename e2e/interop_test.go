//go:build e2e && interop

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"trellis/telemetry"
)

// answered asks a Prometheus, whoever's, for the one number of an expression; -1 there is none.
func answered(t *testing.T, address, expr string) float64 {
	t.Helper()
	var body struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	resp, err := http.Get(address + "/api/v1/query?query=" + neturl.QueryEscape(expr))
	if err != nil {
		return -1
	}
	defer resp.Body.Close()
	if json.NewDecoder(resp.Body).Decode(&body) != nil || len(body.Data.Result) != 1 {
		return -1
	}
	v, err := strconv.ParseFloat(fmt.Sprint(body.Data.Result[0].Value[1]), 64)
	if err != nil {
		return -1
	}
	return v
}

// TestInteropWithPrometheus: Debian's Prometheus scrapes a project's federation, writes what it has to it and is written to by
// it; a project scrapes a Prometheus; promtool asks.
func TestInteropWithPrometheus(t *testing.T) {
	port, theirs := freePort(t), freePort(t)
	prometheus := fmt.Sprintf("http://127.0.0.1:%d", theirs)
	p := newProject(t, map[string]string{
		"scraped.yaml": "global: {scrape_interval: 5s}\n",
		"compose.yaml": fmt.Sprintf(`name: shop
x-trellis: {forward: {remote_write: {url: "%s/api/v1/write"}}}
configs:
  scraped: {file: scraped.yaml}
services:
%s  scraped:
    configs: [{source: scraped, target: /etc/scraped.yaml}]
    x-trellis:
      process: {command: [prometheus, "--config.file=/etc/scraped.yaml", "--storage.tsdb.path=/tmp/scraped", "--web.listen-address=:9090"]}
      metrics: {port: 9090}
`, prometheus, testService("web", port, "")),
	})
	p.run("up", "-d", "--yes")
	ours := *p.ps().Prometheus
	config := fmt.Sprintf(`global: {scrape_interval: 2s, external_labels: {of: debian}}
scrape_configs:
- job_name: federated
  metrics_path: /federate
  honor_labels: true
  params: {"match[]": ['{__name__=~"trellis_replicas_.+"}']}
  static_configs: [{targets: ["%s"]}]
- job_name: itself
  static_configs: [{targets: ["127.0.0.1:%d"]}]
remote_write:
- {url: "%s/api/v1/write", write_relabel_configs: [{source_labels: [job], regex: itself, action: keep}]}
`, strings.TrimPrefix(ours, "http://"), theirs, ours)
	p.write("prometheus.yaml", config)
	cmd := exec.Command("prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path="+t.TempDir(), "--web.enable-remote-write-receiver",
		"--enable-feature=native-histograms", fmt.Sprintf("--web.listen-address=127.0.0.1:%d", theirs))
	cmd.Dir = p.dir
	log, err := os.Create(filepath.Join(p.dir, "prometheus.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if said, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("prometheus: %s", said[max(0, len(said)-3000):])
		}
	}()
	defer visits(url(port), 5)()
	for what, count := range map[string]struct{ address, expr string }{
		"federated":                       {prometheus, `count({__name__=~"trellis_replicas_.+", job="federated"})`},
		"written to it":                   {prometheus, `count({__name__=~"trellis_.+", job=""})`},
		"native histograms written to it": {prometheus, `histogram_count(sum(trellis_request_duration_seconds{service="web"}))`},
		"written by it":                   {ours, `count({job="itself", of="debian"})`},
		"scraped by us":                   {ours, `count({job="scraped"})`},
		"scraped, and written on":         {prometheus, `count({job="scraped", __name__=~"prometheus_.+"})`},
	} {
		var n float64
		eventually(t, 90*time.Second, what, func() string {
			if n = answered(t, count.address, count.expr); n < 1 {
				return fmt.Sprintf("%s: %v", count.expr, n)
			}
			return ""
		})
		t.Logf("%-32s %4.0f", what, n)
	}
	// What was written both ways is the same there and here.
	for _, expr := range []string{`count(count by (__name__) ({job="itself"}))`} {
		eventually(t, 60*time.Second, expr, func() string {
			if a, b := answered(t, prometheus, expr), answered(t, ours, expr); a != b {
				return fmt.Sprintf("%v there, %v here", a, b)
			}
			return ""
		})
	}
	promtool(t, ours)
}

// promtool asks every question that promtool has for a server.
func promtool(t *testing.T, ours string) {
	t.Helper()
	now := time.Now()
	for _, args := range [][]string{
		{"query", "instant", ours, "sum(trellis_replicas_ready)"},
		{"query", "range", "--start", fmt.Sprint(now.Add(-time.Minute).Unix()), "--end", fmt.Sprint(now.Unix()), ours, "sum(rate(trellis_requests_total[30s]))"},
		{"query", "series", "--match", "trellis_replicas_ready", ours},
		{"query", "labels", ours, "service"},
	} {
		out, err := exec.Command("promtool", args...).CombinedOutput()
		if err != nil || len(strings.TrimSpace(string(out))) == 0 {
			t.Errorf("promtool %v: %v: %s", args, err, out)
		} else {
			t.Logf("promtool %s: %d lines", strings.Join(args[:2], " "), strings.Count(string(out), "\n"))
		}
	}
}

// TestInteropWithTelemetrygen: everything that OpenTelemetry's own generator sends, over gRPC and over HTTP, is there, counted.
func TestInteropWithTelemetrygen(t *testing.T) {
	const each = 400
	p := newProject(t, map[string]string{"compose.yaml": "name: shop\nservices:\n  sleeper: {" + sleeps + "}\n"})
	p.run("up", "-d", "--yes")
	s := p.ps()
	ours := *s.Prometheus
	generate := func(kind, service string, more ...string) {
		t.Helper()
		args := append([]string{kind, "--otlp-insecure", "--service", service, "--" + kind, fmt.Sprint(each), "--rate", "0"}, more...)
		if out, err := exec.Command(os.Getenv("TELEMETRYGEN"), args...).CombinedOutput(); err != nil {
			t.Fatalf("telemetrygen %v: %v\n%s", args, err, out)
		}
	}
	for way, flags := range map[string][]string{
		"grpc": {"--otlp-endpoint", *s.OTLP.GRPC}, "http": {"--otlp-http", "--otlp-endpoint", strings.TrimPrefix(*s.OTLP.HTTP, "http://")},
	} {
		for _, kind := range []string{"traces", "logs", "metrics"} {
			more := flags
			if kind == "metrics" { // each a series of its own: samples of one moment would be one
				more = append(slices.Clone(flags), "--unique-timeseries", "--unique-timeseries-duration", "10m")
			}
			generate(kind, kind+"-"+way, more...)
		}
		counted := func(what string, want int, count func() int) {
			t.Helper()
			eventually(t, 30*time.Second, what+" over "+way, func() string {
				if n := count(); n != want {
					return fmt.Sprintf("%d of %d", n, want)
				}
				return ""
			})
			t.Logf("%-8s over %s: %d of %d", what, way, want, want)
		}
		counted("spans", 2*each, func() int { // each trace has two
			var found []telemetry.TraceSummary
			p.json(&found, "traces", "--service", "traces-"+way, "--limit", "1000")
			n := 0
			for _, one := range found {
				n += one.Spans
			}
			return n
		})
		counted("logs", each, func() int {
			out, err := exec.Command(p.trellis, "-f", filepath.Join(p.dir, "compose.yaml"), "logs", "--grep", ".", "--format", "json", "--tail", "100000").Output()
			if err != nil {
				return -1
			}
			return strings.Count(string(out), `"service":"logs-`+way+`"`)
		})
		counted("metrics", each, func() int {
			return int(answered(t, ours, `count({job="metrics-`+way+`", __name__!="target_info"})`))
		})
	}
}
