package api

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"trellis/driver"
	"trellis/errdefs"
)

// An exec is an HTTP/1.1 upgrade to this protocol: frames of one byte kind, four bytes length (big endian) and payload.
const execProtocol = "trellis-exec/1"

const (
	frameStart    = 'S' // client: execStart as JSON, first
	frameStdin    = 'i' // client
	frameStdinEnd = 'e' // client
	frameResize   = 'w' // client: driver.WindowSize as JSON
	frameTaken    = 't' // server: one frameStdin has reached the program
	frameStdout   = 'o' // server
	frameStderr   = 'r' // server
	frameExit     = 'x' // server: execExit as JSON, last
)

const (
	// maxFrame bounds one frame's payload.
	maxFrame = 1 << 20
	// window is how many frames of input may be under way: a program that does not read its input must not keep the
	// frames behind it, a new size of the terminal for one, from arriving.
	window = 16
)

type execStart struct {
	Target ExecRequest `json:"target"`
	Args   []string    `json:"args"`
	Env    []string    `json:"env,omitempty"`
	Dir    string      `json:"dir,omitempty"`
	User   string      `json:"user,omitempty"`
	TTY    bool        `json:"tty,omitempty"`
	Stdin  bool        `json:"stdin,omitempty"`
}

type execExit struct {
	Code  int        `json:"code"`
	Error *wireError `json:"error,omitempty"`
}

// frames reads and writes frames on one connection. Writes are safe for concurrent use.
type frames struct {
	r  *bufio.Reader
	mu sync.Mutex
	w  io.Writer
}

func (f *frames) write(kind byte, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := [5]byte{kind}
	binary.BigEndian.PutUint32(head[1:], uint32(len(payload)))
	if _, err := f.w.Write(head[:]); err != nil {
		return err
	}
	_, err := f.w.Write(payload)
	return err
}

func (f *frames) writeJSON(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.write(kind, b)
}

func (f *frames) read() (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes: %w", n, errdefs.ErrInvalid)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(f.r, payload)
	return head[0], payload, err
}

// frameWriter is an io.Writer of one kind of frame.
type frameWriter struct {
	f    *frames
	kind byte
}

func (w frameWriter) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		n := min(len(p)-sent, maxFrame)
		if err := w.f.write(w.kind, p[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

func (h handler) exec(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != execProtocol {
		writeError(w, fmt.Errorf("exec: %w: needs Upgrade: %s", errdefs.ErrInvalid, execProtocol))
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		writeError(w, fmt.Errorf("exec: %w", err))
		return
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+execProtocol+"\r\n\r\n")
	if err != nil {
		return
	}
	// The request's context does not outlive the hijack.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	f := &frames{r: rw.Reader, w: conn}
	code, err := h.serveExec(ctx, cancel, f)
	exit := execExit{Code: code}
	if err != nil {
		exit.Error = toWire(err)
	}
	if err := f.writeJSON(frameExit, exit); err != nil {
		h.log.Warn("exec ended unseen", "err", err)
	}
}

// serveExec runs the command; a client that goes away cancels it.
func (h handler) serveExec(ctx context.Context, cancel func(), f *frames) (int, error) {
	kind, payload, err := f.read()
	var start execStart
	if err != nil || kind != frameStart || json.Unmarshal(payload, &start) != nil {
		return 0, fmt.Errorf("exec: %w: malformed start", errdefs.ErrInvalid)
	}
	stdin, feed := io.Pipe()
	defer stdin.Close()
	input, resize := make(chan []byte, window), make(chan driver.WindowSize, 1)
	go func() {
		defer feed.Close()
		for payload := range input {
			_, _ = feed.Write(payload) // a program that closed its input just stops reading
			if f.write(frameTaken, nil) != nil {
				return
			}
		}
	}()
	go func() {
		defer cancel()
		f.demux(input, resize)
	}()
	cmd := driver.Command{
		Args: start.Args, Env: start.Env, Dir: start.Dir, User: start.User, TTY: start.TTY, Resize: resize,
		Stdout: frameWriter{f, frameStdout}, Stderr: frameWriter{f, frameStderr},
	}
	if start.Stdin {
		cmd.Stdin = stdin
	}
	return h.control.Exec(ctx, start.Target, cmd)
}

// demux hands the client's frames on until the connection ends, or the client sends more than it may.
func (f *frames) demux(input chan<- []byte, resize chan<- driver.WindowSize) {
	defer close(resize)
	ended := false
	end := func() {
		if !ended {
			ended = true
			close(input)
		}
	}
	defer end()
	for {
		kind, payload, err := f.read()
		if err != nil {
			return
		}
		switch kind {
		case frameStdin:
			if ended {
				return
			}
			select {
			case input <- payload:
			default:
				return
			}
		case frameStdinEnd:
			end()
		case frameResize:
			var size driver.WindowSize
			if json.Unmarshal(payload, &size) == nil {
				select {
				case resize <- size:
				default: // a later size follows
				}
			}
		}
	}
}

// Exec implements Operator.
func (c *Client) Exec(ctx context.Context, req ExecRequest, cmd driver.Command) (int, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return 0, c.unreachable(ctx, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	f, err := upgrade(conn)
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	err = f.writeJSON(frameStart, execStart{
		Target: req, Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir, User: cmd.User, TTY: cmd.TTY, Stdin: cmd.Stdin != nil,
	})
	if err != nil {
		return 0, c.unreachable(ctx, err)
	}
	taken, over := make(chan struct{}, window), make(chan struct{})
	defer close(over)
	if cmd.Stdin != nil {
		// Reading a terminal cannot be interrupted: this goroutine may outlive the call until its next key.
		go sendInput(f, cmd.Stdin, taken, over)
	}
	if cmd.Resize != nil {
		done := make(chan struct{})
		defer close(done)
		go forwardResize(f, cmd.Resize, done)
	}
	return c.receiveExec(ctx, f, cmd, taken)
}

// sendInput sends what it reads, never more than window frames ahead of the program.
func sendInput(f *frames, stdin io.Reader, taken, over <-chan struct{}) {
	buf := make([]byte, 32<<10)
	for ahead := 0; ; {
		n, err := stdin.Read(buf)
		if n > 0 {
			if ahead == window {
				select {
				case <-taken:
					ahead--
				case <-over:
					return
				}
			}
			ahead++
			if f.write(frameStdin, buf[:n]) != nil {
				return
			}
		}
		if err != nil {
			_ = f.write(frameStdinEnd, nil)
			return
		}
	}
}

func forwardResize(f *frames, sizes <-chan driver.WindowSize, done <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok || f.writeJSON(frameResize, size) != nil {
				return
			}
		case <-done:
			return
		}
	}
}

func upgrade(conn net.Conn) (*frames, error) {
	_, err := io.WriteString(conn, "POST /v1/exec HTTP/1.1\r\nHost: trellis\r\nConnection: Upgrade\r\nUpgrade: "+execProtocol+"\r\n\r\n")
	if err != nil {
		return nil, err
	}
	f := &frames{r: bufio.NewReader(conn), w: conn}
	resp, err := http.ReadResponse(f.r, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return f, nil
}

func (c *Client) receiveExec(ctx context.Context, f *frames, cmd driver.Command, taken chan<- struct{}) (int, error) {
	write := func(w io.Writer, p []byte) {
		if w != nil {
			_, _ = w.Write(p)
		}
	}
	for {
		kind, payload, err := f.read()
		if err != nil {
			return 0, c.unreachable(ctx, err)
		}
		switch kind {
		case frameTaken:
			select {
			case taken <- struct{}{}:
			default: // more than was sent: not for us to mend
			}
		case frameStdout:
			write(cmd.Stdout, payload)
		case frameStderr:
			write(cmd.Stderr, payload)
		case frameExit:
			var exit execExit
			if err := json.Unmarshal(payload, &exit); err != nil {
				return 0, fmt.Errorf("exec: %w", err)
			}
			if exit.Error != nil {
				return 0, exit.Error.err()
			}
			return exit.Code, nil
		}
	}
}
