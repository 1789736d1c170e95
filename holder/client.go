package holder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Client speaks to a holder. Every call is a connection of its own, so a call that is cancelled disturbs no other and
// a Client outlives a holder that is started again at the same path. All methods are safe for concurrent use. Their
// errors are those of this package, of ctx, or ErrGone where nobody answers.
type Client struct {
	path string
	done chan struct{}

	mu    sync.Mutex
	hello net.Conn
}

// Event is a change that a follower is told of. Closed comes before Sockets: a name in both has a new socket.
type Event struct {
	// Sockets are the listening sockets that are new, by name. The follower owns them and closes them; use
	// net.FileListener or net.FilePacketConn.
	Sockets map[string]*os.File
	// Closed are the names that are gone. Their sockets listen no more, whoever still has them.
	Closed []string
	// Snapshot is the newest one if it is new to this follower, with its Epoch and Version.
	Snapshot       []byte
	Epoch, Version uint64
	// ControlPlaneAway says that no control plane is connected now.
	ControlPlaneAway bool
}

// Dial returns a client of the holder that listens at path, which has to answer. Nobody there: ErrGone.
func Dial(ctx context.Context, path string) (*Client, error) {
	c := &Client{path: path, done: make(chan struct{})}
	if _, err := c.Info(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Close ends the connection that Hello keeps. Calls under way go on.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hello != nil {
		c.hello.Close()
	}
	return nil
}

// Done is closed when the holder that Hello was said to has ended, or after Close.
func (c *Client) Done() <-chan struct{} { return c.done }

// Hello tells the holder that this process is its control plane or data plane (RoleControlPlane, RoleDataPlane) for
// as long as it lives or until Close. Say it once per Client. A holder that did not start this process answers
// ErrStranger: the one that did was killed before it could be told hello, and the new one has programs of its own.
func (c *Client) Hello(ctx context.Context, role string) error {
	return c.sayHello(ctx, role, os.Getppid())
}

func (c *Client) sayHello(ctx context.Context, role string, parent int) error {
	conn, _, err := c.ask(ctx, request{Op: opHello, Role: role, Parent: parent}, nil)
	if err != nil {
		return fmt.Errorf("say hello as %s: %w", role, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hello != nil {
		conn.Close()
		return fmt.Errorf("say hello as %s: it was said already", role)
	}
	c.hello = conn
	go func() {
		_, _ = conn.Read(make([]byte, 1)) // the holder says nothing more: this ends with the connection
		conn.Close()
		close(c.done)
	}()
	return nil
}

// Ready says that this process, started by a Replace, serves. Follow says it by itself when fn has returned from the
// first event.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.call(ctx, request{Op: opReady}, nil)
	return wrap("say ready", err)
}

// Info returns what the holder says of itself.
func (c *Client) Info(ctx context.Context) (Info, error) {
	resp, err := c.call(ctx, request{Op: opInfo}, nil)
	if err != nil {
		return Info{}, wrap("ask the holder", err)
	}
	if resp.Info == nil {
		return Info{}, fmt.Errorf("ask the holder: %w: no info in the answer", ErrProtocol)
	}
	return *resp.Info, nil
}

// Open opens sockets and returns one answer for each, in order. It is idempotent by Name: a socket that is open with
// the same Network, Address and namespace is kept; with others it is closed and opened anew. An IPv4 or IPv6 address
// listens on that alone, an address without a host on both. One that fails does not keep the others from being opened;
// a name that fails to be opened anew is closed.
func (c *Client) Open(ctx context.Context, sockets []Socket) ([]Opened, error) {
	resp, err := c.call(ctx, request{Op: opOpen, Sockets: sockets}, nil)
	if err != nil {
		return nil, wrap("open sockets", err)
	}
	if len(resp.Opened) != len(sockets) {
		return nil, fmt.Errorf("open sockets: %w: %d answers for %d", ErrProtocol, len(resp.Opened), len(sockets))
	}
	return resp.Opened, nil
}

// Lend lets another holder of the same user open a, within a second, although this one listens on the same port: on all
// addresses where a is for one, or the other way round. An error where this one has that address itself.
func (c *Client) Lend(ctx context.Context, a Socket) error {
	_, err := c.call(ctx, request{Op: opLend, Sockets: []Socket{a}}, nil)
	return wrap("lend "+a.Address, err)
}

// CloseSockets closes sockets; they stop listening at once, in data planes too. Unknown names are no error.
func (c *Client) CloseSockets(ctx context.Context, names ...string) error {
	_, err := c.call(ctx, request{Op: opClose, Names: names}, nil)
	return wrap("close sockets", err)
}

// Publish makes snapshot the one that followers get. One that is older than the last: ErrStale. The same one again: nil.
func (c *Client) Publish(ctx context.Context, snapshot []byte, epoch, version uint64) error {
	_, err := c.call(ctx, request{Op: opPublish, Epoch: epoch, Version: version}, snapshot)
	return wrap("publish snapshot", err)
}

// Replace makes command the control plane's or data plane's command line and replaces the running process by a new one
// of it. The control plane is stopped before the new one starts. The new data plane is started and awaited until it is
// ready (30 s at most), and only then the old one is told to drain, with SIGTERM. One that is down at the moment is
// started by the new command without further waiting. On error the old command stays.
func (c *Client) Replace(ctx context.Context, role string, command []string) error {
	_, err := c.call(ctx, request{Op: opReplace, Role: role, Command: command}, nil)
	return wrap("replace "+role, err)
}

// Stop ends control plane, data plane and holder and blocks until they are gone. Cancelling ctx ends the wait, not the
// stop. Nobody there: nil.
func (c *Client) Stop(ctx context.Context) error {
	conn, _, err := c.ask(ctx, request{Op: opStop}, nil)
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return wrap("stop the holder", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	if _, err := conn.Read(make([]byte, 1)); err != nil && ctx.Err() != nil {
		return wrap("stop the holder", ctx.Err())
	}
	return nil
}

func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", op, err)
}

// call asks one thing and closes the connection.
func (c *Client) call(ctx context.Context, req request, payload []byte) (response, error) {
	conn, resp, err := c.ask(ctx, req, payload)
	if err != nil {
		return response{}, err
	}
	return resp, conn.Close()
}

// ask asks one thing and returns the connection it was answered on.
func (c *Client) ask(ctx context.Context, req request, payload []byte) (*net.UnixConn, response, error) {
	req.Protocol = Protocol
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "unix", c.path)
	if err != nil {
		return nil, response{}, c.gone(ctx, err)
	}
	conn := raw.(*net.UnixConn)
	var resp response
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	err = writeMessage(conn, req, payload)
	// A holder that refuses what it is being told may close before all of it is said: its answer counts.
	if _, readErr := readMessage(conn, &resp); readErr == nil {
		err = resp.err()
	} else if err == nil {
		err = readErr
	}
	if !stop() && err == nil { // cancelled at the last moment: the connection cannot be used
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, response{}, c.gone(ctx, err)
	}
	return conn, resp, nil
}

// gone gives an error of the connection its kind.
func (c *Client) gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, os.ErrNotExist, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return fmt.Errorf("%w: nobody answers at %s (%w)", ErrGone, c.path, err)
		}
	}
	return err
}
