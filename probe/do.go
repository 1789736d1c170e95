package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// The time limits of a Spec that names none. Exec's is Compose's own; the others are Kubernetes' for a probe.
const (
	DefaultTimeout     = time.Second
	DefaultExecTimeout = 30 * time.Second
)

const maxMessage = 1024

// Do asks once and returns what was answered. Host is the address of the instance and port the one it really listens on;
// s.Port is not looked at. Exec is used by the kind Exec alone and may be nil for the others.
//
// Do blocks until there is an answer, s.Timeout has passed or ctx ends, whatever the other side does. Every probe has a
// connection of its own, closed before Do returns. It does not retry, and does not panic on odd answers.
func Do(ctx context.Context, s Spec, host string, port int, exec Executor) Result {
	start := time.Now()
	limit := s.limit()
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ready, message := s.ask(within, host, port, exec)
	if !ready && ctx.Err() != nil {
		message = "the probe was cancelled before there was an answer"
	}
	return Result{Ready: ready, Message: sentence(message), Took: time.Since(start), Time: start}
}

func (s Spec) limit() time.Duration {
	switch {
	case s.Timeout > 0:
		return s.Timeout
	case s.Kind == Exec:
		return DefaultExecTimeout
	}
	return DefaultTimeout
}

func (s Spec) ask(ctx context.Context, host string, port int, exec Executor) (bool, string) {
	switch s.Kind {
	case None:
		return true, "no probe: ready while it runs"
	case Exec:
		return s.askExec(ctx, exec)
	case HTTP, TCP, GRPC:
	default:
		return false, fmt.Sprintf("unknown kind of probe %q", s.Kind)
	}
	if host == "" || port < 1 || port > 65535 {
		return false, fmt.Sprintf("%s probe: no address to ask: host %q, port %d", s.Kind, host, port)
	}
	address := net.JoinHostPort(host, strconv.Itoa(port))
	conn, err := dial(ctx, address)
	if err != nil {
		return false, "connect " + address + ": " + s.cause(err)
	}
	defer conn.Close()
	// Closing is what wakes a read when ctx ends, by its deadline or early: it needs no second timer.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	switch s.Kind {
	case HTTP:
		return s.askHTTP(ctx, conn, address)
	case GRPC:
		return s.askGRPC(ctx, conn, address)
	}
	return true, "connect " + address + ": accepted"
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1} // the connection lives for one probe
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return conn, err
}

func (s Spec) askExec(ctx context.Context, exec Executor) (bool, string) {
	if exec == nil || len(s.Command) == 0 {
		return false, "exec probe: no command that can be run here"
	}
	type outcome struct {
		code   int
		output string
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		code, output, err := exec(ctx, s.Command)
		done <- outcome{code, output, err}
	}()
	// The arguments are left out of every message: passwords stand in them.
	name := "exec " + s.Command[0]
	select {
	case <-ctx.Done():
		return false, name + ": " + s.cause(ctx.Err())
	case o := <-done:
		switch {
		case o.err != nil:
			return false, name + ": " + s.cause(o.err)
		case o.code == 0:
			return true, name + ": exit code 0"
		case firstLine(o.output) == "":
			return false, fmt.Sprintf("%s: exit code %d", name, o.code)
		}
		return false, fmt.Sprintf("%s: exit code %d: %s", name, o.code, firstLine(o.output))
	}
}

// cause says in a few words why err happened, without the addresses and operations that net puts in front.
func (s Spec) cause(err error) string {
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return "not finished"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return "no answer within " + s.limit().String()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed before the answer was whole"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

// maxLine is how much of an answer's text a message holds, in characters: it goes into events and reasons.
const maxLine = 200

// firstLine returns the first line of text that is not blank, cut to maxLine characters.
func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimLeftFunc(text, unicode.IsSpace), "\n")
	n := 0
	for at := range line {
		if n++; n > maxLine {
			return line[:at] + "…"
		}
	}
	return strings.TrimSpace(line)
}

// sentence makes one line of at most maxMessage bytes of valid UTF-8 that is safe to print on a terminal.
func sentence(message string) string {
	var b strings.Builder
	gap := false
	for _, r := range message {
		switch {
		case unicode.IsSpace(r):
			gap = b.Len() > 0
			continue
		case !unicode.IsPrint(r):
			r = utf8.RuneError
		}
		size := utf8.RuneLen(r)
		if gap {
			size++
		}
		if b.Len()+size > maxMessage {
			break
		}
		if gap {
			b.WriteByte(' ')
			gap = false
		}
		b.WriteRune(r)
	}
	return b.String()
}
