package holder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Follow calls fn with everything there is and then with every change, until ctx is done, fn returns an error (which
// Follow returns), or the holder ends (ErrGone). Changes that come while fn runs are merged into one event. fn is
// called in this goroutine, never concurrently.
func (c *Client) Follow(ctx context.Context, fn func(Event) error) error {
	conn, _, err := c.ask(ctx, request{Op: opFollow}, nil)
	if err != nil {
		return wrap("follow the holder", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	r := &fileReader{conn: conn}
	defer r.closeFiles()
	for first := true; ; first = false {
		e, err := readEvent(r, conn)
		if err != nil {
			return wrap("follow the holder", c.gone(ctx, err))
		}
		if err := fn(e); err != nil {
			return err
		}
		if first {
			if err := c.Ready(ctx); err != nil {
				return err
			}
		}
	}
}

// readEvent reads the updates that make one event and acknowledges those with files.
func readEvent(r *fileReader, ack io.Writer) (Event, error) {
	e := Event{Sockets: map[string]*os.File{}}
	for {
		var u update
		snapshot, err := readMessage(r, &u)
		if err == nil {
			err = r.take(u.Names, e.Sockets)
		}
		if err != nil {
			closeAll(e.Sockets)
			return Event{}, err
		}
		e.Closed = append(e.Closed, u.Closed...)
		e.ControlPlaneAway = u.Away
		if len(u.Names) > 0 {
			if _, err := ack.Write([]byte{1}); err != nil {
				closeAll(e.Sockets)
				return Event{}, err
			}
		}
		if !u.More {
			e.Snapshot, e.Epoch, e.Version = snapshot, u.Epoch, u.Version
			return e, nil
		}
	}
}

func closeAll(files map[string]*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// fileReader reads a connection and keeps the descriptors that come with the bytes.
type fileReader struct {
	conn *net.UnixConn
	fds  []int
	oob  []byte
}

// Read implements io.Reader.
func (r *fileReader) Read(p []byte) (int, error) {
	if r.oob == nil {
		r.oob = make([]byte, syscall.CmsgSpace(4*(maxFiles+3)))
	}
	n, oobn, flags, _, err := r.conn.ReadMsgUnix(p, r.oob)
	if err != nil {
		return n, err
	}
	if n == 0 && oobn == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	if oobn > 0 {
		if err := r.keep(r.oob[:oobn]); err != nil {
			return n, err
		}
	}
	if flags&syscall.MSG_CTRUNC != 0 {
		return n, errors.New("descriptors were lost: this process may have too many files open")
	}
	return n, nil
}

func (r *fileReader) keep(oob []byte) error {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		r.fds = append(r.fds, fds...)
	}
	return nil
}

// take moves as many files as there are names into files.
func (r *fileReader) take(names []string, files map[string]*os.File) error {
	if len(names) > len(r.fds) {
		return fmt.Errorf("%w: %d files for %d names", ErrProtocol, len(r.fds), len(names))
	}
	for i, name := range names {
		if old := files[name]; old != nil {
			old.Close()
		}
		files[name] = os.NewFile(uintptr(r.fds[i]), name)
	}
	r.fds = r.fds[len(names):]
	return nil
}

func (r *fileReader) closeFiles() {
	for _, fd := range r.fds {
		syscall.Close(fd)
	}
}

// writeFiles writes an update with descriptors, which travel with its first bytes.
func writeFiles(conn *net.UnixConn, u update, payload []byte, fds []int) error {
	if len(fds) == 0 {
		return writeMessage(conn, u, payload)
	}
	b, err := encode(u, payload)
	if err != nil {
		return err
	}
	n, _, err := conn.WriteMsgUnix(b, syscall.UnixRights(fds...), nil)
	if err != nil {
		return err
	}
	if _, err := conn.Write(b[n:]); err != nil {
		return err
	}
	_, err = conn.Write(payload)
	return err
}
