//go:build e2e && interop

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	neturl "net/url"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// BenchmarkMetricsBesidePrometheus writes the same million samples of 5,000 series to a project and to Debian's Prometheus
// by remote write, in turns, and asks both the same: what a sample costs to take in, what it takes in the log that comes before
// a block, and what an answer costs; all in the time of a processor, to which nothing is added by what else the machine does.
func BenchmarkMetricsBesidePrometheus(b *testing.B) {
	const series, rounds, step = 5000, 200, 15 * time.Second
	p := newProject(b, map[string]string{"compose.yaml": "name: shop\nservices:\n  sleeper: {" + sleeps + "}\n"})
	p.run("up", "-d", "--yes")
	s := p.ps()
	theirs, dir := freePort(b), b.TempDir()
	p.write("prometheus.yaml", "global: {scrape_interval: 15s}\n")
	cmd := exec.Command("prometheus", "--config.file="+filepath.Join(p.dir, "prometheus.yaml"), "--storage.tsdb.path="+dir, "--web.enable-remote-write-receiver",
		fmt.Sprintf("--web.listen-address=127.0.0.1:%d", theirs))
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	ends := []struct {
		name, address, dir string
		pid                int
	}{
		{"ours", *s.Prometheus, filepath.Join(p.dir, ".trellis", "shop", "telemetry", "metrics"), s.ControlPlane.PID},
		{"prometheus", url(theirs), dir, cmd.Process.Pid},
	}
	eventually(b, time.Minute, "Prometheus answers", func() string {
		resp, err := http.Get(ends[1].address + "/-/ready")
		if err != nil {
			return err.Error()
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return resp.Status
		}
		return ""
	})
	var used [2]time.Duration
	start := time.Now().Add(-rounds * step)
	for round := range rounds {
		body := snappy.Encode(nil, samples(b, series, round, start.Add(time.Duration(round)*step)))
		for i, end := range ends {
			before := cpu(b, end.pid)
			written(b, end.address+"/api/v1/write", body)
			used[i] += cpu(b, end.pid) - before
		}
	}
	for i, end := range ends {
		b.ReportMetric(series*rounds/used[i].Seconds(), end.name+"-samples/cpu-s")
		b.ReportMetric(float64(bytesIn(end.dir))/(series*rounds), end.name+"-B/sample")
	}
	ask := neturl.Values{
		"query": {`sum by (instance) (rate(bench_total{service="service-7"}[5m]))`}, "start": {fmt.Sprint(start.Unix())}, "end": {fmt.Sprint(start.Add(rounds * step).Unix())}, "step": {"15"},
	}
	var took [2][]time.Duration
	for range 3 {
		for i, end := range ends {
			before := cpu(b, end.pid)
			resp, err := http.Get(end.address + "/api/v1/query_range?" + ask.Encode())
			if err != nil {
				b.Fatal(err)
			}
			answer, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || len(answer) < 1000 {
				b.Fatalf("%s: %v: %s", end.name, err, answer)
			}
			took[i] = append(took[i], cpu(b, end.pid)-before)
		}
	}
	for i, end := range ends {
		b.ReportMetric(ms(median(took[i])), end.name+"-query-cpu-ms")
	}
	b.ReportMetric(float64(used[0])/float64(used[1]), "cpu-ratio")
	b.ReportMetric(0, "ns/op")
}

// samples is a request of remote write with one sample of each series.
func samples(b *testing.B, series, round int, at time.Time) []byte {
	b.Helper()
	req := prompb.WriteRequest{}
	for i := range series {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels: []prompb.Label{
				{Name: "__name__", Value: "bench_total"}, {Name: "instance", Value: fmt.Sprintf("web-%d", i)}, {Name: "service", Value: fmt.Sprintf("service-%d", i%20)},
			},
			Samples: []prompb.Sample{{Value: float64(round*(i%97) + i), Timestamp: at.UnixMilli()}},
		})
	}
	body, err := req.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	return body
}

func written(b *testing.B, address string, body []byte) {
	b.Helper()
	req, err := http.NewRequest(http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	if said, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 {
		b.Fatalf("%s: %s: %s", address, resp.Status, said)
	}
}

func bytesIn(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
