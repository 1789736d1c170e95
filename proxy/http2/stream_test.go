package http2

import (
	"testing"
	"time"

	"trellis/proxy/http1"
)

// meanwhile is a link during whose writes something happens.
type meanwhile func()

func (f meanwhile) Write(b []byte) (int, error) { f(); return len(b), nil }
func (meanwhile) Await(Wait)                    {}
func (meanwhile) Came() bool                    { return true }
func (meanwhile) Quiet() bool                   { return true }
func (meanwhile) Cut()                          {}

// TestWhatComesDuringAWriteIsRead: who is about to wait for a body first writes what there is for the client, and may have
// to look again then.
func TestWhatComesDuringAWriteIsRead(t *testing.T) {
	for name, tc := range map[string]struct {
		happens func(c *Conn) error
		want    string
	}{
		"a part":  {func(c *Conn) error { return c.data(frame{length: 5, kind: frameData, stream: 1}, []byte("first")) }, "first"},
		"the end": {func(c *Conn) error { return c.data(frame{kind: frameData, flags: flagEndStream, stream: 1}, nil) }, "EOF"},
		"a reset": {func(c *Conn) error { return c.reset(frame{length: 4, kind: frameReset, stream: 1}) }, ErrReset.Error()},
	} {
		var c *Conn
		c = New(&Config{}, meanwhile(func() {
			if err := tc.happens(c); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}), new(http1.Reader))
		s := new(Stream)
		s.begin(nil)
		s.c, s.id, s.Length, s.recv, s.Stall = c, 1, -1, streamWindow, 10*time.Second
		c.streams, c.last, c.open = map[uint32]*Stream{1: s}, 1, 1
		out := c.buffer()
		out.b = append(out.b, "the head of an answer"...)
		p := make([]byte, 10)
		n, err := s.Read(p)
		got := string(p[:n])
		if err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%s: read %q, want %q", name, got, tc.want)
		}
	}
}
