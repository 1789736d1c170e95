package holder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxConnections bounds what one project's programs may have open at once.
const maxConnections = 512

// holder is a running one.
type holder struct {
	log     *slog.Logger
	started time.Time
	sockets *sockets
	control *child
	data    *child

	mu       sync.Mutex
	snapshot []byte
	epoch    uint64
	version  uint64
	controls int           // connections of control planes
	changed  chan struct{} // closed and replaced by each change that followers see

	stopOnce sync.Once
	stopping chan struct{} // closed: end
	stopped  chan struct{} // closed: nothing is left but this process
}

func newHolder(cfg Config, times timing, output *os.File, log *slog.Logger) *holder {
	return &holder{
		log: log, started: time.Now(), sockets: newSockets(), changed: make(chan struct{}),
		stopping: make(chan struct{}), stopped: make(chan struct{}),
		control: newChild(RoleControlPlane, cfg.ControlPlane, cfg.Env, times, output, log),
		data:    newChild(RoleDataPlane, cfg.DataPlane, cfg.Env, times, output, log),
	}
}

// accept serves connections until the listener is closed.
func (h *holder) accept(l *net.UnixListener) {
	slots := make(chan struct{}, maxConnections)
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-h.stopping:
				return
			case <-time.After(100 * time.Millisecond): // out of descriptors, most likely: others close theirs
				continue
			}
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			h.serve(conn)
		}()
	}
}

// serve answers one connection. What a client sends can end its own connection and nothing else.
func (h *holder) serve(conn *net.UnixConn) {
	defer conn.Close()
	defer func() {
		if p := recover(); p != nil {
			h.log.Error("request failed", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	pid, uid, err := peerOf(conn)
	if err != nil || uid != os.Geteuid() && uid != 0 {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))
	req, payload, err := readRequest(conn)
	if err != nil {
		_ = writeMessage(conn, errorResponse(err), nil)
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	if h.isStopping() && req.Op != opStop {
		_ = writeMessage(conn, errorResponse(ErrStopping), nil)
		return
	}
	switch req.Op {
	case opHello:
		h.hello(conn, req.Role, req.Parent)
	case opFollow:
		h.follow(conn)
	case opStop:
		h.stop()
		if h.control.runs(pid) || h.data.runs(pid) { // it ends itself by this: nobody is left to wait
			_ = writeMessage(conn, response{Protocol: Protocol}, nil)
			return
		}
		<-h.stopped
		_ = writeMessage(conn, response{Protocol: Protocol}, nil)
		// The connection ends with the process: that is how the client sees its end.
		select {}
	default:
		_ = writeMessage(conn, h.answer(req, payload, pid), nil)
	}
}

func (h *holder) isStopping() bool {
	select {
	case <-h.stopping:
		return true
	default:
		return false
	}
}

// answer carries out a request that ends with its answer.
func (h *holder) answer(req request, payload []byte, pid int) response {
	resp := response{Protocol: Protocol}
	var err error
	switch req.Op {
	case opInfo:
		resp.Info = h.info()
	case opReady:
		h.control.isReady(pid)
		h.data.isReady(pid)
	case opOpen:
		var changed bool
		if resp.Opened, changed = h.sockets.open(req.Sockets); changed {
			h.wake()
		}
	case opClose:
		if h.sockets.close(req.Names) {
			h.wake()
		}
	case opPublish:
		err = h.publish(payload, req.Epoch, req.Version)
	case opLend:
		err = h.lend(req.Sockets)
	case opReplace:
		err = h.replace(req.Role, req.Command)
	default:
		err = fmt.Errorf("%w: there is no operation %q", ErrProtocol, req.Op)
	}
	if err != nil {
		return errorResponse(err)
	}
	return resp
}

func (h *holder) info() *Info {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.sockets.all()
	slices.SortFunc(all, func(a, b Opened) int { return strings.Compare(a.Name, b.Name) })
	return &Info{
		PID: os.Getpid(), Started: h.started, Protocol: Protocol, Sockets: all, Epoch: h.epoch, Version: h.version,
		ControlPlane: h.control.describe(), DataPlane: h.data.describe(),
	}
}

func (h *holder) publish(snapshot []byte, epoch, version uint64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if epoch == h.epoch && version == h.version && bytes.Equal(snapshot, h.snapshot) && h.snapshot != nil {
		return nil
	}
	newer := epoch > h.epoch || epoch == h.epoch && version > h.version || h.snapshot == nil
	if !newer {
		return fmt.Errorf("%w: %d.%d is published, %d.%d came", ErrStale, h.epoch, h.version, epoch, version)
	}
	if snapshot == nil {
		snapshot = []byte{}
	}
	h.snapshot, h.epoch, h.version = snapshot, epoch, version
	h.wakeLocked()
	return nil
}

func (h *holder) lend(wanted []Socket) error {
	for _, a := range wanted {
		ended, err := h.sockets.lend(a)
		if err != nil {
			return err
		}
		go ended()
	}
	return nil
}

func (h *holder) replace(role string, command []string) error {
	switch role {
	case RoleControlPlane:
		return h.control.ask(command)
	case RoleDataPlane:
		return h.data.ask(command)
	}
	return fmt.Errorf("%w: there is no role %q", ErrProtocol, role)
}

// hello counts the client as connected until its connection ends.
func (h *holder) hello(conn *net.UnixConn, role string, parent int) {
	var err error
	switch {
	case role != RoleControlPlane && role != RoleDataPlane:
		err = fmt.Errorf("%w: there is no role %q", ErrProtocol, role)
	case parent != 0 && parent != os.Getpid():
		err = fmt.Errorf("%w: process %d started it, this is %d", ErrStranger, parent, os.Getpid())
	}
	if err != nil {
		_ = writeMessage(conn, errorResponse(err), nil)
		return
	}
	count := func(n int) {
		if role == RoleControlPlane {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.controls += n
			h.wakeLocked()
		}
	}
	count(1)
	defer count(-1)
	if err := writeMessage(conn, response{Protocol: Protocol}, nil); err == nil {
		_, _ = io.Copy(io.Discard, conn)
	}
}

func (h *holder) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakeLocked()
}

func (h *holder) wakeLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}
