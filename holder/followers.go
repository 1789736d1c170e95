package holder

import (
	"fmt"
	"io"
	"maps"
	"net"
	"slices"

	"golang.org/x/sys/unix"
)

// follower is what one follower was told. It is compared with what there is, so that one that is slow gets fewer and
// larger updates, and nothing is kept for it.
type follower struct {
	sockets        map[string]uint64 // name to serial
	epoch, version uint64
	snapshot       bool // it has one
	away           bool
	told           bool
}

// follow tells one follower of every change until its connection ends.
func (h *holder) follow(conn *net.UnixConn) {
	if err := writeMessage(conn, response{Protocol: Protocol}, nil); err != nil {
		return
	}
	acks := make(chan struct{})
	gone := make(chan struct{})
	left := make(chan struct{})
	defer close(left)
	go func() {
		defer close(gone)
		for b := make([]byte, 1); ; {
			if _, err := conn.Read(b); err != nil {
				return
			}
			select {
			case acks <- struct{}{}:
			case <-left:
				return
			}
		}
	}()
	f := &follower{sockets: map[string]uint64{}}
	for {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		if err := h.tell(conn, f, acks, gone); err != nil {
			return
		}
		select {
		case <-changed:
		case <-gone:
			return
		}
	}
}

// tell writes the updates that bring the follower up to date, none if it is.
func (h *holder) tell(conn *net.UnixConn, f *follower, acks, gone <-chan struct{}) error {
	closed, opened := h.sockets.since(f.sockets)
	h.mu.Lock()
	u := update{Closed: closed, Away: h.controls == 0, Epoch: h.epoch, Version: h.version}
	var snapshot []byte
	if h.snapshot != nil && (!f.snapshot || f.epoch != h.epoch || f.version != h.version) {
		snapshot = h.snapshot
	}
	h.mu.Unlock()
	if f.told && len(closed) == 0 && len(opened) == 0 && snapshot == nil && u.Away == f.away {
		return nil
	}
	for ; len(opened) > maxFiles; opened = opened[maxFiles:] {
		if err := h.send(conn, f, update{Closed: u.Closed, Away: u.Away, More: true}, nil, opened[:maxFiles], acks, gone); err != nil {
			return err
		}
		u.Closed = nil
	}
	if err := h.send(conn, f, u, snapshot, opened, acks, gone); err != nil {
		return err
	}
	f.told, f.away = true, u.Away
	if snapshot != nil {
		f.snapshot, f.epoch, f.version = true, u.Epoch, u.Version
	}
	return nil
}

// send writes one update with at most maxFiles sockets, and waits until the follower has taken them.
func (h *holder) send(conn *net.UnixConn, f *follower, u update, snapshot []byte, names []string, acks, gone <-chan struct{}) error {
	for _, name := range u.Closed {
		delete(f.sockets, name)
	}
	serials, fds, err := h.sockets.copies(names)
	if err != nil {
		h.log.Error("sockets could not be handed over", "err", err)
		return err
	}
	u.Names = slices.Sorted(maps.Keys(serials))
	ordered := make([]int, len(u.Names))
	for i, name := range u.Names {
		ordered[i] = fds[name]
	}
	err = writeFiles(conn, u, snapshot, ordered)
	for _, fd := range ordered {
		_ = unix.Close(fd)
	}
	if err != nil {
		return err
	}
	maps.Copy(f.sockets, serials)
	if len(u.Names) == 0 {
		return nil
	}
	select {
	case <-acks:
		return nil
	case <-gone:
		return io.EOF
	}
}

// since returns the names that a follower has and that are gone or opened anew, and those that it does not have.
func (s *sockets) since(has map[string]uint64) (closed, opened []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, serial := range has {
		if k := s.byName[name]; k == nil || k.serial != serial {
			closed = append(closed, name)
		}
	}
	for name, k := range s.byName {
		if serial, ok := has[name]; !ok || serial != k.serial {
			opened = append(opened, name)
		}
	}
	slices.Sort(closed)
	slices.Sort(opened)
	return closed, opened
}

// copies returns copies of the descriptors of those that are still open, so that closing one never meets a number that
// was given anew meanwhile.
func (s *sockets) copies(names []string) (serials map[string]uint64, fds map[string]int, err error) {
	serials, fds = map[string]uint64{}, map[string]int{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		k := s.byName[name]
		if k == nil {
			continue
		}
		fd, err := unix.FcntlInt(uintptr(k.fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
			return nil, nil, fmt.Errorf("copy the descriptor of %s: %w", name, err)
		}
		serials[name], fds[name] = k.serial, fd
	}
	return serials, fds, nil
}
