package kubernetes

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"trellis/errdefs"
)

// forwarder is the other end of a tunnel: what is sent to its ports comes back, except to refused, to which it takes no connection, and
// to mute, where it ends each without a word.
type forwarder struct {
	t  *testing.T
	mu sync.Mutex
	// failures are the streams by which it says what went wrong, by the number of their connection; it ends none of them by itself.
	failures map[string]httpstream.Stream
}

const (
	refused = 1
	mute    = 2
)

func (f *forwarder) take(s httpstream.Stream, replied <-chan struct{}) error {
	h := s.Headers()
	switch {
	case h.Get(corev1.StreamType) == corev1.StreamTypeError:
		f.mu.Lock()
		defer f.mu.Unlock()
		f.failures[h.Get(corev1.PortForwardRequestIDHeader)] = s
	case h.Get(corev1.PortHeader) == "1":
		return errors.New("refused")
	case h.Get(corev1.PortHeader) == "2":
		go func() {
			<-replied
			_ = s.Close()
		}()
	default:
		go func() {
			<-replied
			_, _ = io.Copy(s, s)
		}()
	}
	return nil
}

// complain says of a connection that something went wrong.
func (f *forwarder) complain(number, text string) {
	f.t.Helper()
	f.mu.Lock()
	s := f.failures[number]
	f.mu.Unlock()
	if s == nil {
		f.t.Fatalf("there is no connection %s", number)
	}
	if _, err := io.WriteString(s, text); err != nil {
		f.t.Error(err)
	}
	_ = s.Close()
}

// ending is a connection that tells when it is closed.
type ending struct {
	net.Conn

	once  sync.Once
	ended chan struct{}
}

func (e *ending) Close() error {
	e.once.Do(func() { close(e.ended) })
	return e.Conn.Close()
}

// staying is a connection that its own end does not close.
type staying struct{ net.Conn }

func (staying) Close() error { return nil }

// tunnelTo returns a tunnel that leads to f, and what is closed when the connection under it is.
func tunnelTo(t *testing.T, f *forwarder) (*Tunnel, <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	there, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	f.t, f.failures = t, map[string]httpstream.Stream{}
	server, err := spdy.NewServerConnection(staying{there}, f.take)
	if err != nil {
		t.Fatal(err)
	}
	own := &ending{Conn: here, ended: make(chan struct{})}
	conn, err := spdy.NewClientConnection(own)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = here.Close()
		_ = there.Close()
		_ = server.Close()
	})
	return &Tunnel{pod: "trellis", conn: conn}, own.ended
}

// echoes says whether what is sent over c comes back.
func echoes(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}

func dialed(t *testing.T, tunnel *Tunnel) net.Conn {
	t.Helper()
	c, err := tunnel.Dial(APIPort)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestALateComplaintBreaksNothing: what the other end says of a connection that was closed here says nothing of the tunnel, which others
// use; of one that is open it does.
func TestALateComplaintBreaksNothing(t *testing.T) {
	f := &forwarder{}
	tunnel, _ := tunnelTo(t, f)
	first, second := dialed(t, tunnel), dialed(t, tunnel)
	echoes(t, first)
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	f.complain("1", "error forwarding port 19001: write: connection reset by peer")
	for range 10 {
		echoes(t, second)
		time.Sleep(10 * time.Millisecond)
		if tunnel.Broken() {
			t.Fatal("a closed connection has broken the tunnel")
		}
	}
	third := dialed(t, tunnel)
	f.complain("3", "error forwarding port 19001: connect: connection refused")
	eventuallyTrue(t, "a connection that was refused leaves the tunnel as it is", tunnel.Broken)
	_ = third.Close()
}

// TestAConnectionThatEndsWithoutAWord: where the pod is gone connections end without an answer, and why may be said too late: the tunnel is
// broken then. One that ends here, had an answer, or was asked nothing says nothing of it.
func TestAConnectionThatEndsWithoutAWord(t *testing.T) {
	tunnel, _ := tunnelTo(t, &forwarder{})
	here := dialed(t, tunnel)
	_ = here.Close()
	if _, err := here.Read(make([]byte, 1)); err == nil || tunnel.Broken() {
		t.Errorf("closed here: %v, broken: %v", err, tunnel.Broken())
	}
	echoes(t, dialed(t, tunnel))
	for _, asks := range []bool{false, true} {
		c, err := tunnel.Dial(mute)
		if err != nil {
			t.Fatal(err)
		}
		if asks {
			_, _ = io.WriteString(c, "hello") // which may have ended by now
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || tunnel.Broken() != asks {
			t.Errorf("asked: %v: %d, %v, broken: %v", asks, n, err, tunnel.Broken())
		}
	}
}

// TestATunnelIsClosed: nothing that was opened in it holds it open, whatever the other end still has to say, also where only half of a
// connection came to be.
func TestATunnelIsClosed(t *testing.T) {
	tunnel, closed := tunnelTo(t, &forwarder{})
	_ = dialed(t, tunnel).Close()
	dialed(t, tunnel) // is left open
	if _, err := tunnel.Dial(refused); !errors.Is(err, errdefs.ErrUnavailable) || !tunnel.Broken() {
		t.Errorf("a stream that was refused: %v, broken: %v", err, tunnel.Broken())
	}
	if err := tunnel.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection under it is open")
	}
}

// TestATunnelThatIsNotOpened: whoever asks for one does not wait for longer than they want for an API server that says nothing.
func TestATunnelThatIsNotOpened(t *testing.T) {
	asked, silent := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(asked) }) // by another protocol it may be asked once more
	c := clientOf(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		first()
		<-silent
	}))
	defer close(silent)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := c.tunnelWithin(ctx, "control")
		ended <- err
	}()
	<-asked
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it is still waited for")
	}
}

func eventuallyTrue(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}
