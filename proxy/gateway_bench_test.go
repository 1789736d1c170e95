//go:build gateway

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"trellis/load"
)

// The gateway beside others, on the same instances, one after the other in every round: what a request costs the whole
// process tree, how many there are with 64 connections, how late answers are at 2,000 a second, and the memory of 10,000
// idle connections. Ours matches routes, balances, measures and writes its access log whole; the others only pass on.

// contender is a gateway to be measured.
type contender struct {
	name string
	cmd  func(dir string, port int, instances []string) *exec.Cmd // nil: it is not installed

	port int
	run  *exec.Cmd
}

func contenders() []*contender {
	return []*contender{
		{name: "nginx", cmd: nginx("off")},
		{name: "nginx with log", cmd: nginx("/dev/null combined buffer=64k")},
		{name: "haproxy", cmd: haproxy},
		{name: "caddy", cmd: caddy},
		{name: "trellis", cmd: func(dir string, port int, instances []string) *exec.Cmd {
			return child("trellis", strconv.Itoa(port), strings.Join(instances, ","), filepath.Join(dir, "access.log"))
		}},
	}
}

// child is this program again, as something else.
func child(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.timeout=0")
	cmd.Env = append(os.Environ(), "GATEWAY_CHILD="+strings.Join(args, " "))
	return cmd
}

func configured(dir, program, name, text string, args ...string) *exec.Cmd {
	path, err := exec.LookPath(program)
	if err != nil {
		return nil
	}
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil
	}
	return exec.Command(path, append(args, file)...)
}

func nginx(log string) func(string, int, []string) *exec.Cmd {
	return func(dir string, port int, instances []string) *exec.Cmd {
		return configured(dir, "nginx", "nginx-"+strconv.Itoa(port)+".conf", fmt.Sprintf(`worker_processes 2; daemon off; pid %s/nginx-%d.pid; error_log stderr crit;
events { worker_connections 12000; }
http { access_log %s; keepalive_timeout 600s; keepalive_requests 100000000;
upstream app { server %s; server %s; keepalive 128; keepalive_requests 100000000; }
server { listen 127.0.0.1:%d backlog=4096; location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Request-Id $request_id; } } }
`, dir, port, log, instances[0], instances[1], port), "-c")
	}
}

func haproxy(dir string, port int, instances []string) *exec.Cmd {
	return configured(dir, "haproxy", "haproxy.cfg", fmt.Sprintf(`global
 nbthread 2
 maxconn 12000
 no strict-limits
defaults
 mode http
 timeout client 600s
 timeout server 600s
 timeout connect 5s
 timeout http-keep-alive 600s
 http-reuse always
frontend f
 bind 127.0.0.1:%d
 default_backend app
backend app
 balance roundrobin
 option forwardfor
 server a %s
 server b %s
`, port, instances[0], instances[1]), "-db", "-f")
}

func caddy(dir string, port int, instances []string) *exec.Cmd {
	return configured(dir, "caddy", "Caddyfile", fmt.Sprintf("{\nadmin off\nauto_https off\n}\nhttp://127.0.0.1:%d {\nreverse_proxy %s %s\n}\n", port, instances[0], instances[1]),
		"run", "--adapter", "caddyfile", "--config")
}

// TestChild is not a test: it is the gateway, or an instance, in a process of its own.
func TestChild(t *testing.T) {
	args := strings.Fields(os.Getenv("GATEWAY_CHILD"))
	if len(args) == 0 {
		t.Skip("only as a child")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ln, err := net.Listen("tcp", "127.0.0.1:"+args[1])
	if err != nil {
		t.Fatal(err)
	}
	if args[0] == "instance" {
		serveFixed(ln)
		return
	}
	out, err := os.Create(args[3])
	if err != nil {
		t.Fatal(err)
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	var instances []Instance
	for i, addr := range strings.Split(args[2], ",") {
		instances = append(instances, instanceAt("app-"+strconv.Itoa(i+1), addr))
	}
	feed := fixedFeed{Update{Sockets: map[string]*os.File{"gateway": f}, Snapshot: &Snapshot{
		Project: "bench", Epoch: 1, Version: 1, AccessLog: 1,
		Listeners: []Listener{{Name: "gateway", Protocol: HTTP1}},
		Services:  []Service{{Name: "app", Instances: instances}},
		Routes:    []Route{{Path: "/api/courses/{id}", Service: "app", Port: 80}, {Path: "/*", Service: "app", Port: 80}},
	}}}
	if err := New(Config{Feed: feed, AccessLog: out}).Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// serveFixed answers every request with as many bytes as its path says.
func serveFixed(ln net.Listener) {
	answers := map[string][]byte{}
	for _, size := range []int{100, 10 << 10} {
		answers[strconv.Itoa(size)] = []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: " +
			strconv.Itoa(size) + "\r\n\r\n" + strings.Repeat("x", size))
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			buf, n := make([]byte, 8<<10), 0
			for {
				m, err := c.Read(buf[n:])
				if err != nil || n+m == len(buf) {
					return
				}
				if n += m; !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
					continue
				}
				line, _, _ := bytes.Cut(buf[:n], []byte(" HTTP/"))
				if _, err := c.Write(answers[string(line[bytes.LastIndexByte(line, '/')+1:])]); err != nil {
					return
				}
				n = 0
			}
		}()
	}
}

// begin starts a program and waits until it listens.
func begin(t *testing.T, cmd *exec.Cmd, port int) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); cmd.Wait() })
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
			c.Close()
			return
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// tree adds up what a function says of every process of a group.
func tree(group int, of func(pid string, stat []string) float64) (sum float64) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		stat := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // from the third field on
		if stat[2] == strconv.Itoa(group) {
			sum += of(filepath.Base(filepath.Dir(file)), stat)
		}
	}
	return sum
}

// cpu returns the CPU seconds that a process group has used.
func cpu(group int) float64 {
	return tree(group, func(_ string, stat []string) float64 {
		user, _ := strconv.ParseFloat(stat[11], 64)
		system, _ := strconv.ParseFloat(stat[12], 64)
		return (user + system) / 100
	})
}

// memory returns the proportional set size of a process group in MB.
func memory(group int) float64 {
	return tree(group, func(pid string, _ []string) float64 {
		b, _ := os.ReadFile("/proc/" + pid + "/smaps_rollup")
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "Pss:"); ok {
				kb, _ := strconv.ParseFloat(strings.Fields(v)[0], 64)
				return kb / 1024
			}
		}
		return 0
	})
}

// saturate sends so many requests over 64 connections, each as soon as its predecessor is answered.
func saturate(t *testing.T, port, size, requests int) (perSecond float64) {
	t.Helper()
	head := []byte("GET /api/courses/" + strconv.Itoa(size) + " HTTP/1.1\r\nHost: evergreen.localhost\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n")
	var left atomic.Int64
	left.Store(int64(requests))
	var wg sync.WaitGroup
	began := time.Now()
	for range 64 {
		wg.Go(func() {
			c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			br := bufio.NewReaderSize(c, 32<<10)
			for left.Add(-1) >= 0 {
				if _, err := c.Write(head); err != nil {
					t.Error(err)
					return
				}
				for first := true; ; first = false {
					line, err := br.ReadSlice('\n')
					if err != nil || first && !bytes.Contains(line, []byte(" 200 ")) {
						t.Errorf("%q %v", line, err)
						return
					}
					if len(line) == 2 {
						break
					}
				}
				if _, err := br.Discard(size); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(requests) / time.Since(began).Seconds()
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

func TestGateways(t *testing.T) {
	dir := t.TempDir()
	if v := os.Getenv("GATEWAY_DIR"); v != "" {
		dir = v
	}
	port := 19000
	next := func() int { port++; return port }
	var instances []string
	for range 2 {
		p := next()
		begin(t, child("instance", strconv.Itoa(p)), p)
		instances = append(instances, "127.0.0.1:"+strconv.Itoa(p))
	}
	var list []*contender
	for _, c := range contenders() {
		c.port = next()
		if c.run = c.cmd(dir, c.port, instances); c.run == nil {
			fmt.Printf("%s is not installed\n", c.name)
			continue
		}
		begin(t, c.run, c.port)
		list = append(list, c)
	}
	for _, size := range []int{100, 10 << 10} {
		compare(t, list, size, number("ROUNDS", 3), number("REQUESTS", 20_000))
	}
	if rate := number("RATE", 2000); rate > 0 {
		atRate(t, list, rate, number("ROUNDS", 3))
	}
	if idle := number("IDLE", 10_000); idle > 0 {
		holdIdle(t, list, idle)
	}
}

// compare measures a saturated gateway.
func compare(t *testing.T, list []*contender, size, rounds, requests int) {
	speed, cost, ratio := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	for _, c := range list {
		saturate(t, c.port, size, requests/10) // connections to instances, caches
	}
	for round := range rounds {
		spent := map[string]float64{}
		for i := range list {
			c := list[(i+round)%len(list)]
			before := cpu(c.run.Process.Pid)
			speed[c.name] = append(speed[c.name], saturate(t, c.port, size, requests))
			spent[c.name] = (cpu(c.run.Process.Pid) - before) * 100_000 / float64(requests)
			cost[c.name] = append(cost[c.name], spent[c.name])
		}
		for name, s := range spent {
			ratio[name] = append(ratio[name], s/spent["nginx"])
		}
	}
	fmt.Printf("\n%d B answers, 64 connections, %d rounds of %d requests, medians\n%-16s %12s %14s %8s  %s\n", size, rounds, requests, "", "requests/s", "CPU s/100,000", "x nginx", "each round")
	for _, c := range list {
		fmt.Printf("%-16s %12.0f %14.2f %8.2f  %.2f\n", c.name, median(speed[c.name]), median(cost[c.name]), median(ratio[c.name]), ratio[c.name])
	}
}

// atRate measures latency from the intended start.
func atRate(t *testing.T, list []*contender, rate, rounds int) {
	p50, p99, cost := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	const length = 3 * time.Second
	for round := range rounds {
		for i := range list {
			c := list[(i+round)%len(list)]
			before := cpu(c.run.Process.Pid)
			var times []time.Duration
			report, err := load.Run(context.Background(), load.Config{
				URL: "http://127.0.0.1:" + strconv.Itoa(c.port) + "/api/courses/100", Rate: float64(rate), Duration: length, Connections: 64,
				OnResult: func(r *load.Result) { times = append(times, r.Latency()) },
			})
			if err != nil || report.Completed == 0 || report.Failed > 0 {
				t.Errorf("%s: %+v %v", c.name, report, err)
				continue
			}
			slices.Sort(times)
			p50[c.name] = append(p50[c.name], float64(times[len(times)/2].Microseconds()))
			p99[c.name] = append(p99[c.name], float64(times[len(times)*99/100].Microseconds()))
			cost[c.name] = append(cost[c.name], (cpu(c.run.Process.Pid)-before)*100_000/float64(report.Completed))
		}
	}
	fmt.Printf("\n%d requests a second, %d rounds of %v, medians\n%-16s %8s %8s %14s\n", rate, rounds, length, "", "p50 µs", "p99 µs", "CPU s/100,000")
	for _, c := range list {
		fmt.Printf("%-16s %8.0f %8.0f %14.2f\n", c.name, median(p50[c.name]), median(p99[c.name]), median(cost[c.name]))
	}
}

// holdIdle measures the memory that connections cost which have had an answer and wait.
func holdIdle(t *testing.T, list []*contender, n int) {
	fmt.Printf("\n%d idle connections\n%-16s %10s %10s\n", n, "", "before MB", "with MB")
	for _, c := range list {
		before := memory(c.run.Process.Pid)
		conns := make([]net.Conn, 0, n)
		buf := make([]byte, 1024)
		for range n {
			conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(c.port))
			if err != nil {
				t.Errorf("%s: after %d: %v", c.name, len(conns), err)
				break
			}
			conns = append(conns, conn)
			io.WriteString(conn, "GET /api/courses/100 HTTP/1.1\r\nHost: a\r\n\r\n")
			if _, err := io.ReadAtLeast(conn, buf, 150); err != nil {
				t.Errorf("%s: after %d: %v", c.name, len(conns), err)
				break
			}
		}
		fmt.Printf("%-16s %10.1f %10.1f\n", c.name, before, memory(c.run.Process.Pid))
		for _, conn := range conns {
			conn.Close()
		}
	}
}
