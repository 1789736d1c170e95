package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"trellis/errdefs"
)

// listener is one socket of ours, and what the current snapshot says about it.
type listener struct {
	name string
	tcp  *net.TCPListener
	udp  *net.UDPConn
	conf atomic.Pointer[Listener] // nil while no snapshot names it: nothing is accepted

	slots   chan struct{} // one for each connection that may be open
	cancel  context.CancelFunc
	stopped chan struct{}
}

// newListener takes a socket over. It closes f in any case.
func newListener(name string, f *os.File, maxConns int) (*listener, error) {
	defer f.Close()
	l := &listener{name: name, slots: make(chan struct{}, maxConns)}
	if ln, err := net.FileListener(f); err == nil {
		tcp, ok := ln.(*net.TCPListener)
		if !ok {
			ln.Close()
			return nil, fmt.Errorf("take socket %s: %w: not TCP", name, errdefs.ErrInvalid)
		}
		l.tcp = tcp
		return l, nil
	}
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("take socket %s: %w", name, err)
	}
	udp, ok := pc.(*net.UDPConn)
	if !ok {
		pc.Close()
		return nil, fmt.Errorf("take socket %s: %w: not UDP", name, errdefs.ErrInvalid)
	}
	l.udp = udp
	return l, nil
}

// use makes conf what the listener does; nil stops it. What it has accepted goes on.
func (p *Proxy) use(l *listener, conf *Listener) {
	l.conf.Store(conf)
	running := l.cancel != nil
	switch {
	case conf != nil && !running:
		ctx, cancel := context.WithCancel(p.life)
		l.cancel, l.stopped = cancel, make(chan struct{})
		l.setDeadline(time.Time{})
		p.wg.Go(func() {
			defer close(l.stopped)
			if l.udp != nil {
				p.serveUDP(ctx, l)
			} else {
				p.accept(ctx, l)
			}
		})
	case conf == nil && running:
		l.stop()
	}
}

// stop ends accepting and returns when it has ended.
func (l *listener) stop() {
	if l.cancel == nil {
		return
	}
	l.cancel()
	l.setDeadline(time.Unix(1, 0))
	<-l.stopped
	l.cancel = nil
}

// close stops and closes our copy of the socket.
func (l *listener) close() {
	l.stop()
	if l.tcp != nil {
		l.tcp.Close()
	} else {
		l.udp.Close()
	}
}

func (l *listener) setDeadline(t time.Time) {
	if l.tcp != nil {
		l.tcp.SetDeadline(t)
	} else {
		l.udp.SetReadDeadline(t)
	}
}

// accept takes connections until ctx is done. At its limit it leaves them in the kernel's queue, where a successor can
// take them.
func (p *Proxy) accept(ctx context.Context, l *listener) {
	pause := time.Duration(0)
	for {
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := l.tcp.AcceptTCP()
		if err != nil {
			<-l.slots
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			if errors.Is(err, unix.EINVAL) { // the holder has ended the socket, and a snapshot will say so
				<-ctx.Done()
				return
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second) // out of files, as a rule
			p.log.Warn("accept failed", "listener", l.name, "err", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
			continue
		}
		pause = 0
		c := newClientConn(conn, l)
		counted := p.makeRoom(ctx)
		c.closed = func() {
			p.pulse.remove(c)
			<-l.slots
			if counted {
				<-p.open
			}
		}
		p.pulse.add(c)
		p.wg.Go(func() { p.serveKnown(c, p.serveConn(p.life, c)) })
	}
}

// spareFiles are the files that a data plane opens for other things than clients and instances: listeners, snapshots,
// those who ask for its status.
const spareFiles = 128

// openLimit is how many clients' connections the limit of open files allows.
func openLimit() int {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return defaultMaxConns
	}
	return int(max(min(files.Cur, 1<<20), spareFiles+32)-spareFiles) / 2
}

// makeRoom waits until one more connection may be open, and has those closed meanwhile that wait for a request. It says
// whether there is room; there is none when ctx ends.
func (p *Proxy) makeRoom(ctx context.Context) bool {
	select {
	case p.open <- struct{}{}:
		return true
	default:
	}
	again := time.NewTicker(beat)
	defer again.Stop()
	for {
		p.pulse.closeIdlest()
		select {
		case p.open <- struct{}{}:
			return true
		case <-ctx.Done():
			return false
		case <-again.C:
		}
	}
}
