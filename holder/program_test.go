package holder

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the holder and its two programs.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "hold":
			times := defaultTiming()
			times.firstDelay, times.maxDelay, times.livedLong = 10*time.Millisecond, 50*time.Millisecond, time.Second
			times.ready, times.grace, times.look = 5*time.Second, 2*time.Second, 50*time.Millisecond
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			os.Exit(exitCode(hold(os.Args[2], times, log), log))
		case "control":
			os.Exit(controlProgram(os.Args[2]))
		case "data":
			os.Exit(dataProgram(os.Args[2], os.Args[3]))
		case "broken":
			fmt.Fprintln(os.Stderr, "broken on purpose")
			os.Exit(3)
		case "stubborn": // says hello and never ends by itself
			signal.Ignore(syscall.SIGTERM)
			select {}
		case "selfstop": // a control plane that stops its own holder
			os.Exit(selfStopProgram(os.Args[2]))
		}
	}
	// A process with the race detector waits a second at its end unless told otherwise.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}

func controlProgram(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := Dial(ctx, filepath.Join(dir, socketFile))
	if err == nil {
		err = c.Hello(ctx, RoleControlPlane)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "control:", err)
		return 1
	}
	select {
	case <-ctx.Done():
	case <-c.Done():
	}
	return 0
}

func selfStopProgram(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := Dial(ctx, filepath.Join(dir, socketFile))
	if err == nil {
		err = c.Stop(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "selfstop:", err)
		return 1
	}
	<-ctx.Done()
	return 0
}

// dataServer answers every line on every TCP socket with its generation and pid, every datagram likewise.
type dataServer struct {
	generation string
	mu         sync.Mutex
	open       map[string]interface{ Close() error }
	busy       sync.WaitGroup
}

func dataProgram(dir, generation string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s := &dataServer{generation: generation, open: map[string]interface{ Close() error }{}}
	c, err := Dial(ctx, filepath.Join(dir, socketFile))
	if err == nil {
		err = c.Hello(ctx, RoleDataPlane)
	}
	if err == nil {
		err = c.Follow(ctx, s.apply)
	}
	if ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "data:", err)
		return 1
	}
	s.mu.Lock()
	for _, l := range s.open {
		l.Close()
	}
	s.mu.Unlock()
	s.busy.Wait()
	return 0
}

func (s *dataServer) apply(e Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range e.Closed {
		s.open[name].Close()
		delete(s.open, name)
	}
	for name, f := range e.Sockets {
		if l, err := net.FileListener(f); err == nil {
			s.open[name] = l
			s.busy.Go(func() { s.accept(l) }) // what it has accepted is then waited for, too
		} else if p, err := net.FilePacketConn(f); err == nil {
			s.open[name] = p
			s.busy.Go(func() { s.echo(p) })
		} else {
			return err
		}
		f.Close()
	}
	return nil
}

func (s *dataServer) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.busy.Go(func() {
			defer conn.Close()
			if _, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
				fmt.Fprintf(conn, "%s %d\n", s.generation, os.Getpid())
			}
		})
	}
}

func (s *dataServer) echo(p net.PacketConn) {
	b := make([]byte, 100)
	for {
		_, from, err := p.ReadFrom(b)
		if err != nil {
			return
		}
		fmt.Fprintf(writerTo{p, from}, "%s %d\n", s.generation, os.Getpid())
	}
}

type writerTo struct {
	p  net.PacketConn
	to net.Addr
}

func (w writerTo) Write(b []byte) (int, error) { return w.p.WriteTo(b, w.to) }

// world is one running holder.
type world struct {
	t      *testing.T
	cfg    Config
	client *Client
}

func exe(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// start starts a holder with the two programs and ends all of it after the test.
func start(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "holder") // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, cfg: Config{
		Project: "p", Dir: filepath.Join(dir, "r"), Keep: []string{"project.json"}, Log: filepath.Join(dir, "log"), Env: []string{"GORACE=atexit_sleep_ms=0"},
		ControlPlane: []string{exe(t), "control", filepath.Join(dir, "r")},
		DataPlane:    []string{exe(t), "data", filepath.Join(dir, "r"), "first"},
	}}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(w.cfg.Log)
			t.Logf("log:\n%s", log)
		}
	})
	w.start()
	t.Cleanup(w.stop)
	return w
}

func (w *world) start() {
	w.t.Helper()
	c, err := Start(w.t.Context(), []string{exe(w.t)}, w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.client = c
}

func (w *world) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := w.client.Stop(ctx); err != nil {
		w.t.Errorf("stop: %v", err)
	}
}

func (w *world) info() Info {
	w.t.Helper()
	info, err := w.client.Info(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return info
}

// open opens sockets that have to open and returns their addresses in order.
func (w *world) open(sockets ...Socket) []string {
	w.t.Helper()
	opened, err := w.client.Open(w.t.Context(), sockets)
	if err != nil {
		w.t.Fatal(err)
	}
	var addresses []string
	for i, o := range opened {
		if o.Error != "" || o.Name != sockets[i].Name {
			w.t.Fatalf("open %v: %+v", sockets[i], o)
		}
		addresses = append(addresses, o.Address)
	}
	return addresses
}

func tcp(name string) Socket { return Socket{Name: name, Network: "tcp", Address: "127.0.0.1:0"} }

// until polls for up to 20 s.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not in 20 s: %s", what)
}

// alive says whether a process runs; a zombie does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	var state byte
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == ')' {
			state = b[i+2]
			break
		}
	}
	return state != 'Z' && state != 'X'
}

// ask connects, asks and returns the answering generation and pid.
func ask(network, address string) (generation string, pid int, err error) {
	conn, err := net.DialTimeout(network, address, 20*time.Second)
	if err != nil {
		return "", 0, fmt.Errorf("refused: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintln(conn, "hi"); err != nil {
		return "", 0, err
	}
	_, err = fmt.Fscan(conn, &generation, &pid)
	return generation, pid, err
}
