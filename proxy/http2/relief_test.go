package http2

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"trellis/proxy/http1"
)

// tcp is a client's connection, as its server sees it.
type tcp struct {
	*net.TCPConn
	quiet bool
}

func (t *tcp) Await(Wait)  {}
func (t *tcp) Came() bool  { return true }
func (t *tcp) Quiet() bool { return t.quiet }
func (t *tcp) Cut()        { t.SetReadDeadline(time.Unix(1, 0)) }

// dialog is a client's connection to a server with a relief, and what Serve has returned there.
type dialog struct {
	net.Conn
	*http2.Framer
	served chan error
}

func newDialog(t *testing.T, quiet bool, answer func(*Stream)) *dialog {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	client.SetDeadline(time.Now().Add(30 * time.Second))
	ctx, cancel := context.WithCancel(context.Background())
	d := &dialog{Conn: client, Framer: http2.NewFramer(client, client), served: make(chan error, 1)}
	r := NewRelief()
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	wg.Go(func() {
		defer server.Close()
		in := new(http1.Reader)
		in.Init(server, http1.SmallBuffer)
		link := &tcp{server.(*net.TCPConn), quiet}
		d.served <- New(&Config{Streams: 10, Head: 4 << 10, Relief: r, Serve: answer}, link, in).Serve()
		in.Close()
	})
	t.Cleanup(func() {
		client.Close()
		cancel()
		wg.Wait()
	})
	io.WriteString(client, Preface)
	d.WriteSettings()
	return d
}

// ask sends a request without a body.
func (d *dialog) ask(stream uint32, path string) { d.begin(stream, path, true) }

// begin sends a request's head, which the static table knows but for the path, and its end if that is all.
func (d *dialog) begin(stream uint32, path string, end bool) {
	block := []byte{0x82, 0x86, 0x04, byte(len(path))} // GET, http, :path
	block = append(block, path...)
	d.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: append(block, 0x41, 1, 'a'), EndStream: end, EndHeaders: true})
}

// ended returns the next n streams whose answers are whole, or that were reset.
func (d *dialog) ended(t *testing.T, n int) (list []uint32) {
	t.Helper()
	for len(list) < n {
		f, err := d.ReadFrame()
		if err != nil {
			t.Fatalf("after %d: %v", list, err)
		}
		switch f.(type) {
		case *http2.HeadersFrame, *http2.DataFrame, *http2.RSTStreamFrame:
			if h := f.Header(); h.Type == http2.FrameRSTStream || h.Flags.Has(http2.FlagDataEndStream) {
				list = append(list, h.StreamID)
			}
		}
	}
	return list
}

// TestWhoReadsServes: requests that come one after the other are served by the goroutine that reads.
func TestWhoReadsServes(t *testing.T) {
	nested := make(chan bool, 100)
	d := newDialog(t, true, func(s *Stream) {
		s.c.mu.Lock()
		nested <- s.c.lent
		s.c.mu.Unlock()
		s.Head(200, nil, true)
		s.Release()
	})
	for i := range uint32(100) {
		d.ask(2*i+1, "/")
		if got := d.ended(t, 1); got[0] != 2*i+1 {
			t.Fatalf("stream %d has ended", got[0])
		}
	}
	lent := 0
	for range 100 {
		if <-nested {
			lent++
		}
	}
	if lent < 50 { // a request may be late by itself, and those after it are then served apart
		t.Errorf("%d of 100 only", lent)
	}
}

// TestRequestsWaitForNone: what comes while a request is served by who reads is read all the same: because something has
// come, or because the request takes long. The connection ends once, whoever reads then.
func TestRequestsWaitForNone(t *testing.T) {
	for name, quiet := range map[string]bool{"something came": false, "it takes long": true} {
		t.Run(name, func(t *testing.T) {
			free := make(chan struct{})
			d := newDialog(t, quiet, func(s *Stream) {
				if s.Path == "/slow" {
					<-free
				}
				s.Head(200, nil, true)
				s.Release()
			})
			for i := uint32(0); i < 40; i += 4 {
				d.ask(4*i+1, "/slow")
				time.Sleep(time.Millisecond)
				d.ask(4*i+3, "/")
				d.ask(4*i+5, "/")
				if got := d.ended(t, 2); slices.Contains(got, 4*i+1) {
					t.Fatalf("%d have ended", got)
				}
				free <- struct{}{}
				if got := d.ended(t, 1); got[0] != 4*i+1 {
					t.Fatalf("stream %d has ended", got[0])
				}
			}
			d.Close()
			if err := <-d.served; err == nil || errors.As(err, new(*Error)) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// TestBrokenOffWhileWhoReadsServes: the client's reset reaches a request that is served by who reads.
func TestBrokenOffWhileWhoReadsServes(t *testing.T) {
	gone := make(chan error, 1)
	d := newDialog(t, false, func(s *Stream) {
		<-s.Context().Done()
		gone <- s.Flush()
	})
	d.ask(1, "/")
	d.WriteRSTStream(1, http2.ErrCodeCancel)
	d.ask(3, "/")
	d.WriteRSTStream(3, http2.ErrCodeCancel)
	time.Sleep(5 * time.Millisecond)
	d.ask(5, "/")
	time.Sleep(5 * time.Millisecond)
	d.WriteRSTStream(5, http2.ErrCodeCancel)
	if err := <-gone; err != ErrReset {
		t.Errorf("%v", err)
	}
}

// TestWindowsWhileWhoReadsServes: an answer that waits for the client's window is not waited for by who would read of it.
func TestWindowsWhileWhoReadsServes(t *testing.T) {
	d := newDialog(t, true, func(s *Stream) {
		s.Stall = 10 * time.Second
		if s.Head(200, nil, false) == nil {
			s.Write(make([]byte, 3*firstWindow), true)
		}
	})
	d.ask(1, "/")
	for taken := 0; taken < 3*firstWindow; {
		f, err := d.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f, ok := f.(*http2.DataFrame); ok && len(f.Data()) > 0 {
			taken += len(f.Data())
			d.WriteWindowUpdate(0, uint32(len(f.Data())))
			d.WriteWindowUpdate(1, uint32(len(f.Data())))
		}
	}
}

// TestBrokenOffInOneBreath: nobody hears of a request that came together with its reset, and what it took of the connection's
// window is given back.
func TestBrokenOffInOneBreath(t *testing.T) {
	paths, window := make(chan string, 10), make(chan int, 10)
	d := newDialog(t, true, func(s *Stream) {
		paths <- s.Path
		s.c.mu.Lock()
		window <- s.c.recv + s.c.unacked
		s.c.mu.Unlock()
		s.Head(200, nil, true)
	})
	var all writes
	both := &dialog{Framer: http2.NewFramer(&all, nil)}
	for i := range uint32(9) {
		both.begin(2*i+1, "/broken", i%2 == 0)
		if i%2 == 1 {
			both.WriteDataPadded(2*i+1, false, []byte("a part of a body"), make([]byte, 10))
		}
		both.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
	}
	both.ask(19, "/whole")
	d.Write(all)
	if got := d.ended(t, 1); got[0] != 19 || len(paths) != 1 || <-paths != "/whole" {
		t.Errorf("%d has ended, beside %d", got, len(paths))
	}
	if got := <-window; got != connWindow {
		t.Errorf("%d bytes of the connection's window are lost", connWindow-got)
	}
}

type writes []byte

func (w *writes) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}
