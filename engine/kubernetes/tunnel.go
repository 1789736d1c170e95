package kubernetes

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"trellis/errdefs"
)

// Tunnel leads to ports of one pod's own loopback, through the API server: whoever may forward ports of pods there comes in. Its
// methods are safe for concurrent use.
type Tunnel struct {
	pod    string
	conn   httpstream.Connection
	broken atomic.Bool // a connection could not be opened at the other end: the pod may be gone
	mu     sync.Mutex
	number int
}

// Broken says whether the tunnel does not lead, or may not lead, to where it led.
func (t *Tunnel) Broken() bool {
	select {
	case <-t.conn.CloseChan():
		return true
	default:
		return t.broken.Load()
	}
}

// ReachControl opens a tunnel to the control plane of a project. There is to be none: ErrUnsupported. It does not serve at the
// moment: ErrUnavailable, with why.
func (e *Engine) ReachControl(ctx context.Context) (*Tunnel, error) {
	pod, err := e.controlPod(ctx)
	if err != nil {
		return nil, fmt.Errorf("reach the control plane of %s: %w", e.project, err)
	}
	t, err := e.client.tunnelWithin(ctx, pod)
	if err != nil {
		return nil, fmt.Errorf("reach the control plane of %s: %w", e.project, e.client.explain(err))
	}
	return t, nil
}

// tunnelWithin is tunnel for as long as ctx lasts, and no longer than for what the API server says at once. client-go waits for its answer
// whatever becomes of who asked.
func (c *Client) tunnelWithin(ctx context.Context, pod string) (*Tunnel, error) {
	ctx, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	type opened struct {
		tunnel *Tunnel
		err    error
	}
	answer := make(chan opened, 1)
	go func() {
		t, err := c.tunnel(pod)
		answer <- opened{t, err}
	}()
	select {
	case a := <-answer:
		return a.tunnel, a.err
	case <-ctx.Done():
	}
	go func() {
		if a := <-answer; a.err == nil {
			_ = a.tunnel.Close() // nobody waits for it any more
		}
	}()
	return nil, ctx.Err()
}

// controlPod returns the name of the control plane's pod, which serves.
func (e *Engine) controlPod(ctx context.Context) (string, error) {
	all, err := e.client.podsOf(ctx, e.project, controlPlane)
	if err != nil {
		return "", err
	}
	why := "it is about to be started"
	for _, pod := range all {
		if pod.DeletionTimestamp != nil {
			continue
		}
		if _, ready := readySince(pod); ready {
			return pod.Name, nil
		}
		why = "its pod " + pod.Name + " is not ready"
		if trouble := ownTrouble(pod); trouble != "" {
			why += ": " + trouble
		}
	}
	image, err := e.planeImage(ctx)
	switch {
	case err != nil:
		return "", err
	case image == "":
		return "", fmt.Errorf("%w: there is none in the cluster: name a registry that it pulls from (--registry), or an image of trellis in TRELLIS_IMAGE, and deploy again with 'trellis up'", errdefs.ErrUnsupported)
	case len(all) == 0:
		return "", fmt.Errorf("%w: there is none in the cluster: deploy again with 'trellis up'", errdefs.ErrUnavailable)
	}
	return "", fmt.Errorf("%w: %s", errdefs.ErrUnavailable, why)
}

// ownTrouble says why a pod of Trellis' own does not serve.
func ownTrouble(pod corev1.Pod) string {
	why, _ := trouble(pod)
	for _, c := range pod.Status.ContainerStatuses {
		if end := c.LastTerminationState.Terminated; end != nil && end.Message != "" {
			lines := strings.Split(strings.TrimSpace(end.Message), "\n")
			why = strings.TrimPrefix(why+": "+lines[len(lines)-1], ": ")
		}
	}
	return why
}

// tunnel opens a tunnel to a pod: by web socket, and by SPDY to clusters before 1.31.
func (c *Client) tunnel(pod string) (*Tunnel, error) {
	url := c.api.Post().AbsPath("/api/v1/namespaces", c.Namespace, "pods", pod, "portforward").URL()
	sockets, err := portforward.NewSPDYOverWebsocketDialerForStreamingWithLogger(logr.FromSlogHandler(slog.DiscardHandler), url, c.settings)
	if err != nil {
		return nil, err
	}
	transport, upgrader, err := spdy.RoundTripperFor(c.settings)
	if err != nil {
		return nil, err
	}
	older := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	dialer := portforward.NewFallbackDialerForStreaming(sockets, older, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	conn, protocol, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	if protocol != portforward.PortForwardProtocolV1Name {
		_ = conn.Close()
		return nil, fmt.Errorf("%w: the API server forwards ports by %q", errdefs.ErrUnsupported, protocol)
	}
	return &Tunnel{pod: pod, conn: conn}, nil
}

// Close ends the tunnel and all that goes through it.
func (t *Tunnel) Close() error { return t.conn.Close() }

// Dial opens a connection to a port of the pod's loopback. Where nobody listens there, reading from it fails.
func (t *Tunnel) Dial(port int) (net.Conn, error) {
	t.mu.Lock()
	t.number++
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, strconv.Itoa(t.number))
	t.mu.Unlock()
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	failures, err := t.conn.CreateStream(headers)
	if err != nil {
		t.broken.Store(true)
		return nil, fmt.Errorf("forward port %d of %s: %w: %w", port, t.pod, errdefs.ErrUnavailable, err)
	}
	_ = failures.Close() // only read from
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := t.conn.CreateStream(headers)
	if err != nil {
		t.broken.Store(true)
		t.end(failures)
		return nil, fmt.Errorf("forward port %d of %s: %w: %w", port, t.pod, errdefs.ErrUnavailable, err)
	}
	c := &forwarded{Stream: data, tunnel: t, failures: failures, failed: make(chan error, 1), to: fmt.Sprintf("%s:%d", t.pod, port)}
	go func() {
		said, _ := io.ReadAll(failures)
		if len(said) > 0 && !c.closed.Load() { // of one that is closed it says that it could not end it well
			t.broken.Store(true)
			c.failed <- fmt.Errorf("%w: %s", errdefs.ErrUnavailable, strings.TrimSpace(string(said)))
		}
		close(c.failed)
	}()
	return c, nil
}

// end puts an end to streams on this side: the connection that they are of is not closed as long as one of them is there. What comes
// for them later is dropped.
func (t *Tunnel) end(streams ...httpstream.Stream) {
	for _, s := range streams {
		_ = s.Reset() // what waits to be sent would hold up the others
	}
	t.conn.RemoveStreams(streams...)
}

// forwarded is one connection of a tunnel.
type forwarded struct {
	httpstream.Stream
	tunnel   *Tunnel
	failures httpstream.Stream
	failed   chan error
	to       string
	closed   atomic.Bool
	asked    atomic.Bool // something was sent to the other end
	answered atomic.Bool // something has come from there
}

var _ net.Conn = (*forwarded)(nil)

// suspect has the tunnel taken for broken if the connection ended at its other end, by err, with something sent there and nothing come
// back: so it does where the pod is gone, and the word that says so may come too late. One that was never used says nothing: a server
// closes those when their time is over.
func (f *forwarded) suspect(err error) {
	if err != nil && f.asked.Load() && !f.answered.Load() && !f.closed.Load() {
		f.tunnel.broken.Store(true)
	}
}

// Write implements net.Conn.
func (f *forwarded) Write(b []byte) (int, error) {
	f.asked.Store(true)
	n, err := f.Stream.Write(b)
	f.suspect(err)
	return n, err
}

// Read implements net.Conn. A connection that was refused at its other end fails with why.
func (f *forwarded) Read(b []byte) (int, error) {
	n, err := f.Stream.Read(b)
	if n > 0 {
		f.answered.Store(true)
	}
	f.suspect(err)
	if n == 0 && err != nil {
		select {
		case why := <-f.failed:
			if why != nil {
				return 0, fmt.Errorf("%s: %w", f.to, why)
			}
		default:
		}
	}
	return n, err
}

// Close implements net.Conn.
func (f *forwarded) Close() error {
	if !f.closed.Swap(true) {
		f.tunnel.end(f.Stream, f.failures)
	}
	return nil
}

// LocalAddr implements net.Conn.
func (f *forwarded) LocalAddr() net.Addr { return tunnelAddr("") }

// RemoteAddr implements net.Conn.
func (f *forwarded) RemoteAddr() net.Addr { return tunnelAddr(f.to) }

// SetDeadline implements net.Conn. A tunnel has no deadlines: what waits ends when the connection is closed.
func (f *forwarded) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn, as SetDeadline does.
func (f *forwarded) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn, as SetDeadline does.
func (f *forwarded) SetWriteDeadline(time.Time) error { return nil }

type tunnelAddr string

func (tunnelAddr) Network() string  { return "tunnel" }
func (a tunnelAddr) String() string { return string(a) }
