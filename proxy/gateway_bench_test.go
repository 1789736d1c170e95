//go:build gateway

package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"trellis/identity"
	"trellis/identity/identitytest"
	"trellis/load"
)

// The gateway beside others, on the same instances, one after the other in every round: what a request costs the whole
// process tree, how many there are with 64 connections, over HTTP/1.1 and HTTP/2, with TLS and without, how late answers are
// at 2,000 a second, and the memory of 10,000 idle connections. Ours matches routes, balances, measures and writes its access
// log whole, and in one row asks for a token and counts each client's requests as well; the others only pass on.

// contender is a gateway to be measured.
type contender struct {
	name string
	cmd  func(p site) *exec.Cmd // nil: it is not installed

	site
	run *exec.Cmd
}

// site is where a gateway is to be, and what is behind it.
type site struct {
	dir       string
	ports     [3]int // by manner
	instances []string
	pair      string // file with a certificate and its key; the certificate alone has .crt behind it, the key .key
	keys      string // address of the token issuer's keys
}

func contenders() []*contender {
	ours := func(program string) func(p site) *exec.Cmd {
		return func(p site) *exec.Cmd {
			if program == "" {
				return nil
			}
			return child(program, "trellis", strconv.Itoa(p.ports[0]), strconv.Itoa(p.ports[1]), strconv.Itoa(p.ports[2]), strings.Join(p.instances, ","),
				filepath.Join(p.dir, "access-"+strconv.Itoa(p.ports[0])+".log"), p.pair, p.keys)
		}
	}
	return []*contender{
		{name: "nginx", cmd: nginx("off")},
		{name: "nginx with log", cmd: nginx("/dev/null combined buffer=64k")},
		{name: "haproxy", cmd: haproxy},
		{name: "caddy", cmd: caddy},
		{name: "trellis", cmd: ours(os.Args[0])},
		{name: "trellis before", cmd: ours(os.Getenv("BEFORE"))},
	}
}

// child is this program, or another build of it, as something else.
func child(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, "-test.run=^TestChild$", "-test.timeout=0")
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

func nginx(log string) func(site) *exec.Cmd {
	return func(p site) *exec.Cmd {
		return configured(p.dir, "nginx", "nginx-"+strconv.Itoa(p.ports[0])+".conf", fmt.Sprintf(`worker_processes 2; daemon off; pid %s/nginx-%d.pid; error_log stderr crit;
events { worker_connections 12000; }
http { access_log %s; keepalive_timeout 600s; keepalive_requests 100000000;
upstream app { server %s; server %s; keepalive 128; keepalive_requests 100000000; }
server { listen 127.0.0.1:%[6]d backlog=4096; listen 127.0.0.1:%[7]d ssl http2 backlog=4096; listen 127.0.0.1:%[9]d http2 backlog=4096;
ssl_certificate %[8]s.crt; ssl_certificate_key %[8]s.key; ssl_protocols TLSv1.3; location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Request-Id $request_id; } } }
`, p.dir, p.ports[0], log, p.instances[0], p.instances[1], p.ports[0], p.ports[1], p.pair, p.ports[2]), "-c")
	}
}

func haproxy(p site) *exec.Cmd {
	return configured(p.dir, "haproxy", "haproxy.cfg", fmt.Sprintf(`global
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
 bind 127.0.0.1:%d ssl crt %s ssl-min-ver TLSv1.3 alpn h2,http/1.1
 bind 127.0.0.1:%d proto h2
 default_backend app
backend app
 balance roundrobin
 option forwardfor
 server a %s
 server b %s
`, p.ports[0], p.ports[1], p.pair, p.ports[2], p.instances[0], p.instances[1]), "-db", "-f")
}

func caddy(p site) *exec.Cmd {
	return configured(p.dir, "caddy", "Caddyfile", fmt.Sprintf(`{
	admin off
	auto_https off
	servers {
		protocols h1 h2 h2c
	}
}
(app) {
	bind 127.0.0.1
	reverse_proxy %[5]s %[6]s
}
http://:%[1]d, http://:%[3]d {
	import app
}
https://:%[2]d {
	tls %[4]s.crt %[4]s.key
	import app
}
`, p.ports[0], p.ports[1], p.ports[2], p.pair, p.instances[0], p.instances[1]), "run", "--adapter", "caddyfile", "--config")
}

// TestChild is not a test: it is the gateway, or an instance, in a process of its own.
func TestChild(t *testing.T) {
	args := strings.Fields(os.Getenv("GATEWAY_CHILD"))
	if len(args) == 0 {
		t.Skip("only as a child")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if args[0] == "instance" {
		ln, err := net.Listen("tcp", "127.0.0.1:"+args[1])
		if err != nil {
			t.Fatal(err)
		}
		serveFixed(ln)
		return
	}
	sockets := map[string]*os.File{}
	for i, name := range []string{"gateway", "secure", "two"} {
		ln, err := net.Listen("tcp", "127.0.0.1:"+args[1+i])
		if err != nil {
			t.Fatal(err)
		}
		if sockets[name], err = ln.(*net.TCPListener).File(); err != nil {
			t.Fatal(err)
		}
		ln.Close()
	}
	out, err := os.Create(args[5])
	if err != nil {
		t.Fatal(err)
	}
	var instances []Instance
	for i, addr := range strings.Split(args[4], ",") {
		instances = append(instances, instanceAt("app-"+strconv.Itoa(i+1), addr))
	}
	open := Decision{Auth: "none"}
	closed := Decision{Auth: "learner", RateLimit: &RateLimit{Per: "client", Rate: 1e6, Burst: 1e6}}
	feed := fixedFeed{Update{Sockets: sockets, Snapshot: &Snapshot{
		Project: "bench", Epoch: 1, Version: 1, AccessLog: 1, Auth: learner("http://identity/keys.json"),
		Listeners: []Listener{
			{Name: "gateway", Protocol: HTTP1}, {Name: "two", Protocol: HTTP1},
			{Name: "secure", Protocol: HTTP1, TLS: true, Certificates: []Certificate{{Chain: args[6] + ".crt", Key: args[6] + ".key"}}},
		},
		Services: []Service{{Name: "app", Instances: instances}, {Name: "identity", Instances: []Instance{instanceAt("identity-1", args[7])}}},
		Routes: []Route{
			{Path: "/api/courses/{id}", Service: "app", Port: 80, Decision: open}, {Path: "/*", Service: "app", Port: 80, Decision: open},
			{Path: "/closed/{id}", Service: "app", Port: 80, Decision: closed},
		},
	}}}
	if err := New(Config{Feed: feed, AccessLog: out, MaxOpen: 12_000}).Run(ctx); err != nil {
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

// begin starts a program and waits until it listens. It ends with the test, or when stop is called.
func begin(t *testing.T, cmd *exec.Cmd, port int) (stop func()) {
	t.Helper()
	if c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
		c.Close()
		t.Fatalf("port %d is somebody else's", port)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); cmd.Wait() })
	t.Cleanup(stop)
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
			c.Close()
			return stop
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

// resident returns the proportional set size of a process group in MB.
func resident(group int) float64 {
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
	p := site{dir: t.TempDir()}
	if v := os.Getenv("GATEWAY_DIR"); v != "" {
		p.dir = v
	}
	port := 19000
	next := func() int { port++; return port }
	for range 2 {
		at := next()
		begin(t, child(os.Args[0], "instance", strconv.Itoa(at)), at)
		p.instances = append(p.instances, "127.0.0.1:"+strconv.Itoa(at))
	}
	p.pair = certificate(t, p.dir)
	issuer := identitytest.New(t)
	p.keys = serveFunc(t, func(w http.ResponseWriter, r *http.Request) { w.Write(issuer.KeySet()) }).addr
	var list []*contender
	for _, c := range contenders() {
		c.site = p
		if c.start(t, next) == nil {
			fmt.Printf("%s is not installed\n", c.name)
			continue
		}
		list = append(list, c)
	}
	rounds, token := number("ROUNDS", 3), issuer.Token("ES256", nil)
	manners := slices.DeleteFunc([]manner{overHTTP1, overTLS, overHTTP2, overBoth}, func(how manner) bool {
		want := os.Getenv("HOW")
		return want != "" && !strings.EqualFold(want, how.String())
	})
	for _, how := range manners {
		for _, size := range []int{100, 10 << 10} {
			compare(t, rows(list, how, size, token), rounds, number("REQUESTS", 20_000))
		}
	}
	if rate := number("RATE", 2000); rate > 0 {
		atRate(t, list, rate, rounds)
	}
	if idle := number("IDLE", 10_000); idle > 0 {
		for _, how := range manners {
			holdIdle(t, list, how, idle, next)
		}
	}
}

// start runs the contender on ports that are free; nil says that it is not installed.
func (c *contender) start(t *testing.T, next func() int) (stop func()) {
	t.Helper()
	c.ports = [3]int{next(), next(), next()}
	if c.run = c.cmd(c.site); c.run == nil {
		return nil
	}
	return begin(t, c.run, c.ports[0])
}

// certificate makes a certificate for localhost, and returns the file that it is in together with its key.
func certificate(t *testing.T, dir string) string {
	t.Helper()
	ca, err := identity.OpenAuthority(t.Context(), filepath.Join(dir, "ca"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	chain, key, err := ca.Issue([]string{"localhost"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair := filepath.Join(dir, "pair.pem")
	for file, content := range map[string][]byte{pair: slices.Concat(chain, key), pair + ".crt": chain, pair + ".key": key} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return pair
}

// row is a line of a table: a contender, and what it is asked.
type row struct {
	*contender
	name string
	question
}

// rows are the contenders that can be spoken to so, ours a second time for a route that asks for the token.
func rows(list []*contender, how manner, size int, token string) (all []row) {
	for _, c := range list {
		q := question{how: how, port: how.port(c.ports), path: "/api/courses/" + strconv.Itoa(size), size: size}
		all = append(all, row{c, c.name, q})
		if c.name == "trellis" && token != "" {
			q.path, q.token = "/closed/"+strconv.Itoa(size), token
			all = append(all, row{c, "trellis, token", q})
		}
	}
	return all
}

// compare measures saturated gateways.
func compare(t *testing.T, list []row, rounds, requests int) {
	speed, cost, ratio := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	how, size, base := list[0].how, list[0].size, "nginx"
	if how == overHTTP2 || how == overBoth {
		base = "haproxy"
	}
	for _, c := range list {
		saturate(t, c.question, requests/10) // connections to instances, caches
	}
	for round := range rounds {
		spent := map[string]float64{}
		for i := range list {
			c := list[(i+round)%len(list)]
			before := cpu(c.run.Process.Pid)
			speed[c.name] = append(speed[c.name], saturate(t, c.question, requests))
			spent[c.name] = (cpu(c.run.Process.Pid) - before) * 100_000 / float64(requests)
			cost[c.name] = append(cost[c.name], spent[c.name])
		}
		for name, s := range spent {
			ratio[name] = append(ratio[name], s/spent[base])
		}
	}
	fmt.Printf("\n%v, %d B answers, 64 connections, %d rounds of %d requests, medians\n%-16s %12s %14s %10s  %s\n", how, size, rounds, requests, "",
		"requests/s", "CPU s/100,000", "x "+base, "each round")
	for _, c := range list {
		fmt.Printf("%-16s %12.0f %14.2f %10.2f  %.2f\n", c.name, median(speed[c.name]), median(cost[c.name]), median(ratio[c.name]), ratio[c.name])
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
				URL: "http://127.0.0.1:" + strconv.Itoa(c.ports[0]) + "/api/courses/100", Rate: float64(rate), Duration: length, Connections: 64,
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

// holdIdle measures the memory that connections cost which have had an answer and wait, of gateways that have served no
// others: at once, and when they have waited for a while.
func holdIdle(t *testing.T, list []*contender, how manner, n int, next func() int) {
	const while = 10 * time.Second
	fmt.Printf("\n%d idle connections, %v\n%-16s %10s %10s %14s\n", n, how, "", "before MB", "with MB", while.String()+" later")
	for _, c := range list {
		stop := c.start(t, next)
		q := question{how: how, port: how.port(c.ports), path: "/api/courses/100", size: 100}
		before := resident(c.run.Process.Pid)
		conns := make([]net.Conn, 0, n)
		for range n {
			ask, conn, err := q.talk()
			if err == nil {
				conns = append(conns, conn)
				err = ask()
			}
			if err != nil {
				t.Errorf("%s: after %d: %v", c.name, len(conns), err)
				break
			}
		}
		with := resident(c.run.Process.Pid)
		time.Sleep(while)
		fmt.Printf("%-16s %10.1f %10.1f %14.1f\n", c.name, before, with, resident(c.run.Process.Pid))
		for _, conn := range conns {
			conn.Close()
		}
		stop()
	}
}
