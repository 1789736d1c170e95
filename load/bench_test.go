package load_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"trellis/load"
)

// The benchmarks of the instrument itself. They are not about time per operation: run each once or a few times,
//
//	go test ./load -run '^$' -bench 'Wrk|Stall|Pacing|Memory|Protocols' -benchtime 3x
//
// and read the metrics. The tool, its target and wrk are processes of their own, so that each one's CPU time is known.

const roleVariable = "LOAD_BENCH_ROLE"

// job is what the tool is asked to do.
type job struct {
	URL         string
	Rate        float64
	Duration    time.Duration
	Connections int
	Scenario    string // of visits
	Out         string // file for every result
	HTTP2       bool
}

// outcome is what the tool did.
type outcome struct {
	Report load.Report
	P95    float64
	cpu    time.Duration
	rss    int64 // KiB
}

// toolRole reads a job and writes its outcome.
func toolRole() int {
	var j job
	if err := json.NewDecoder(os.Stdin).Decode(&j); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cfg := load.Config{URL: j.URL, Rate: j.Rate, Duration: j.Duration, Connections: j.Connections, HTTP2: j.HTTP2, Drain: time.Second}
	var err error
	if j.Scenario != "" {
		cfg.Scenario, err = load.ParseScenario("scenario.yaml", []byte(j.Scenario))
	}
	if j.Out != "" && err == nil {
		cfg.Record, err = load.CreateRecord(j.Out)
	}
	var report load.Report
	if err == nil {
		report, err = load.Run(context.Background(), cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	o := outcome{Report: report}
	if p := report.Latency.Percentile(95); p != nil {
		o.P95 = *p
	}
	if err := json.NewEncoder(os.Stdout).Encode(o); err != nil {
		return 1
	}
	return 0
}

// serverRole serves until its standard input ends, and first says where.
func serverRole() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		l.Close()
	}()
	s := http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chat" {
			chat(w, r)
			return
		}
		_, _ = io.WriteString(w, "ok")
	})}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	_ = s.Serve(l)
	return 0
}

func (j job) run(b *testing.B) outcome {
	b.Helper()
	tool := exec.Command(os.Args[0])
	tool.Env = append(os.Environ(), roleVariable+"=tool")
	input, err := json.Marshal(j)
	if err != nil {
		b.Fatal(err)
	}
	tool.Stdin, tool.Stderr = bytes.NewReader(input), os.Stderr
	output, err := tool.Output()
	if err != nil {
		b.Fatal(err)
	}
	var o outcome
	if err := json.Unmarshal(output, &o); err != nil {
		b.Fatal(err)
	}
	o.cpu = tool.ProcessState.UserTime() + tool.ProcessState.SystemTime()
	if usage, ok := tool.ProcessState.SysUsage().(*syscall.Rusage); ok {
		o.rss = int64(usage.Maxrss)
	}
	return o
}

// startServer starts this binary as a server.
func startServer(b *testing.B) (url string, process *os.Process) {
	b.Helper()
	server := exec.Command(os.Args[0])
	server.Env, server.Stderr = append(os.Environ(), roleVariable+"=server"), os.Stderr
	stdin, err := server.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := server.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { stdin.Close(); _ = server.Wait() })
	line := make([]byte, 64)
	n, err := stdout.Read(line)
	if err != nil {
		b.Fatal(err)
	}
	return "http://" + strings.TrimSpace(string(line[:n])) + "/", server.Process
}

// startNginx starts an nginx of one worker that answers with 100 bytes.
func startNginx(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir := b.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	err = os.WriteFile(config, fmt.Appendf(nil, `worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log; daemon off; events {}
http { access_log off; keepalive_requests 1000000000; server { listen %[2]s; location / { return 200 "%0100d"; } } }
`, dir, address, 0), 0o600)
	if err != nil {
		b.Fatal(err)
	}
	nginx := exec.Command(program(b, "nginx"), "-c", config)
	if err := nginx.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = nginx.Process.Signal(syscall.SIGTERM); _ = nginx.Wait() })
	for range 200 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return "http://" + address + "/"
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.Fatal("nginx does not answer")
	return ""
}

func program(b *testing.B, name string) string {
	b.Helper()
	for _, candidate := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	b.Fatalf("%s is not installed: apt-get install %s", name, name)
	return ""
}

var wrkRequests = regexp.MustCompile(`([0-9]+) requests in`)

func wrk(b *testing.B, url string, length time.Duration) float64 {
	b.Helper()
	tool := exec.Command(program(b, "wrk"), "-t1", "-c64", "-d"+strconv.Itoa(int(length.Seconds()))+"s", url)
	output, err := tool.Output()
	if err != nil {
		b.Fatal(err)
	}
	found := wrkRequests.FindSubmatch(output)
	if found == nil {
		b.Fatalf("wrk said %q", output)
	}
	n, _ := strconv.ParseFloat(string(found[1]), 64)
	return n / (tool.ProcessState.UserTime() + tool.ProcessState.SystemTime()).Seconds()
}

// BenchmarkAgainstWrk drives an nginx to saturation with 64 connections, in turn by this package and by wrk, and reports
// requests per second of the tool's own CPU. The goal is a ratio of at least 0.65.
func BenchmarkAgainstWrk(b *testing.B) {
	url := startNginx(b)
	const length = 3 * time.Second
	var ours, theirs, ratios []float64
	var rss int64
	for b.Loop() {
		o := job{URL: url, Rate: 200_000, Duration: length, Connections: 64}.run(b)
		if o.Report.Failed != 0 {
			b.Fatalf("failed: %+v", o.Report)
		}
		own := float64(o.Report.Completed) / o.cpu.Seconds()
		other := wrk(b, url, length)
		ours, theirs, ratios = append(ours, own), append(theirs, other), append(ratios, own/other)
		rss = max(rss, o.rss)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(ours), "req/cpu-s")
	b.ReportMetric(median(theirs), "wrk-req/cpu-s")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(float64(rss)/1024, "MB-rss")
}

// BenchmarkStall sends 2,000/s for 5 s with 64 connections to a server that is stopped for 500 ms in the middle. The
// truth is p95 250 ms, p99 450 ms and 10,000 requests sent; the goal p95 225-285, p99 430-480, nothing missed or lost.
func BenchmarkStall(b *testing.B) {
	var p95, p99, longest []float64
	unsent := 0
	for b.Loop() {
		url, server := startServer(b)
		stopped := make(chan error, 1)
		go func() {
			time.Sleep(2 * time.Second)
			err := server.Signal(syscall.SIGSTOP)
			time.Sleep(500 * time.Millisecond)
			if again := server.Signal(syscall.SIGCONT); err == nil {
				err = again
			}
			stopped <- err
		}()
		o := job{URL: url, Rate: 2000, Duration: 5 * time.Second, Connections: 64}.run(b)
		if err := <-stopped; err != nil {
			b.Fatal(err)
		}
		p95, p99 = append(p95, o.P95), append(p99, *o.Report.Latency.P99)
		longest = append(longest, *o.Report.Latency.Max)
		unsent = max(unsent, 10_000-o.Report.Completed, o.Report.Lost())
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(p95), "p95-ms")
	b.ReportMetric(median(p99), "p99-ms")
	b.ReportMetric(median(longest), "max-ms")
	b.ReportMetric(float64(unsent), "lost")
}

// BenchmarkPacing sends 2,000/s to an nginx that has nothing else to do: the median latency is then mostly how late the
// starts are, and the CPU time is what keeping the pace costs.
func BenchmarkPacing(b *testing.B) {
	url := startNginx(b)
	var p50, p99, cpu []float64
	for b.Loop() {
		o := job{URL: url, Rate: 2000, Duration: 3 * time.Second, Connections: 64}.run(b)
		if o.Report.Lost() != 0 {
			b.Fatalf("lost: %+v", o.Report)
		}
		p50, p99 = append(p50, *o.Report.Latency.P50*1000), append(p99, *o.Report.Latency.P99*1000)
		cpu = append(cpu, float64(o.cpu.Microseconds())/float64(o.Report.Completed))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(p50), "p50-us")
	b.ReportMetric(median(p99), "p99-us")
	b.ReportMetric(median(cpu), "cpu-us/req")
}

// BenchmarkMemory records every result of a saturated run and of one of visits, short and eight times as long: the memory
// in use is the same, whatever the number of requests. The goal is a ratio of 1.
func BenchmarkMemory(b *testing.B) {
	url := startNginx(b)
	for name, j := range map[string]job{
		"requests": {URL: url, Rate: 200_000, Connections: 64},
		"visits": {URL: url, Rate: 1000, Connections: 64,
			Scenario: "steps: [{path: '/{random}', save: {body: {regexp: '0+'}}}, {path: '/{body}', think: 100ms}]"},
	} {
		b.Run(name, func(b *testing.B) {
			var short, long, requests []float64
			for b.Loop() {
				j.Out = filepath.Join(b.TempDir(), "results.csv")
				j.Duration = time.Second
				short = append(short, float64(j.run(b).rss)/1024)
				j.Duration = 8 * time.Second
				o := j.run(b)
				long, requests = append(long, float64(o.rss)/1024), append(requests, float64(o.Report.Completed))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(long), "MB-rss")
			b.ReportMetric(median(long)/median(short), "ratio")
			b.ReportMetric(median(requests), "requests")
		})
	}
}

// BenchmarkProtocols drives a server of net/http to saturation by each protocol in turn, and reports what a request costs
// in CPU time of the tool, beside HTTP/1.1.
func BenchmarkProtocols(b *testing.B) {
	url, _ := startServer(b)
	jobs := map[string]job{
		"http1":     {URL: url, Connections: 64},
		"http2":     {URL: url, Connections: 4, HTTP2: true},
		"websocket": {URL: "ws" + strings.TrimPrefix(url, "http") + "chat", Connections: 64},
		"visit":     {URL: url, Connections: 64, Scenario: "steps: [{path: '/{random}', save: {ok: {regexp: ok}}}, {path: '/{ok}', contains: ok}]"},
	}
	costs := map[string][]float64{}
	for b.Loop() {
		for name, j := range jobs {
			j.Rate, j.Duration = 100_000, 2*time.Second
			o := j.run(b)
			if o.Report.Failed != 0 {
				b.Fatalf("%s: %+v", name, o.Report)
			}
			costs[name] = append(costs[name], float64(o.cpu.Microseconds())/float64(o.Report.Completed))
		}
	}
	b.ReportMetric(0, "ns/op")
	for name := range jobs {
		b.ReportMetric(median(costs[name]), name+"-us/req")
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
