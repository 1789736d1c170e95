package proxy

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestEarlyAnswerLetsGoOfTheBody: an instance that answers before it has read the request over HTTP/2 does not see what the
// memory of the body holds afterwards; the race detector sees who still reads it.
func TestEarlyAnswerLetsGoOfTheBody(t *testing.T) {
	const secret = '!' // what is given back is overwritten with
	var foreign atomic.Int64
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if rand.IntN(2) == 0 {
			return
		}
		http.NewResponseController(w).EnableFullDuplex()
		http.NewResponseController(w).Flush()
		if p, _ := io.ReadAll(r.Body); bytes.IndexByte(p, secret) >= 0 {
			foreign.Add(1)
		}
	})
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}, HTTP2: []int{80}}}
	r.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	r.push()
	var wg sync.WaitGroup
	for _, c := range []*http.Client{client(t), client(t), h2client(t)} {
		wg.Go(func() {
			for range 100 {
				res, err := c.Post("http://"+addr+"/", "text/plain", strings.NewReader(strings.Repeat("mine", 500)))
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != 200 {
					t.Errorf("%d", res.StatusCode)
				}
			}
		})
	}
	wg.Wait()
	if n := foreign.Load(); n > 0 {
		t.Errorf("%d requests carried what was not theirs", n)
	}
}

// TestRetriedBodyKeepsTheConnection: a client's connection is kept after a request whose body a failed attempt had in hand,
// once it was read to its end.
func TestRetriedBodyKeepsTheConnection(t *testing.T) {
	t.Parallel()
	good := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	var calls atomic.Int64
	breaks := rawServer(t, func(c net.Conn) { // the first one off, in the middle of its body
		_, br := readHead(c)
		if calls.Add(1) == 1 {
			return
		}
		for line, err := "", error(nil); line != "0\r\n"; {
			if line, err = br.ReadString('\n'); err != nil {
				return
			}
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	r := newRig(t, Config{})
	r.snap.Services = []Service{
		{Name: "two", Instances: []Instance{instanceAt("two-1", reserve(t)), instanceAt("two-2", good.addr)}, HTTP2: []int{80}},
		{Name: "one", Instances: []Instance{instanceAt("one-1", breaks)}},
	}
	r.snap.Routes = []Route{
		{Path: "/two", Service: "two", Port: 80, Decision: Decision{Auth: "none"}}, {Path: "/one", Service: "one", Port: 80, Decision: Decision{Auth: "none"}},
	}
	addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	r.push()
	for service, pieces := range map[string][]string{
		"two": {"POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"},
		"one": {"PUT /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", "0\r\n\r\n"},
	} {
		t.Run(service, func(t *testing.T) {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			br := bufio.NewReader(conn)
			retries := func() uint64 { return r.proxy.Status().Counters[service].Retries }
			ask := func(pieces ...string) {
				t.Helper()
				for i, piece := range pieces {
					if i > 0 {
						eventually(t, "tried again", func() bool { return retries() > 0 })
					}
					io.WriteString(conn, piece)
				}
				res, err := http.ReadResponse(br, nil)
				if body(t, res, err); res.StatusCode != 200 || res.Close {
					t.Fatalf("%d, close %t", res.StatusCode, res.Close)
				}
			}
			for retries() == 0 {
				ask(pieces...)
			}
			time.Sleep(50 * time.Millisecond)
			ask("POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
		})
	}
}

// TestFailedAttemptKeepsTheBody: what a failed attempt was still reading of the client when the next one had begun is the
// next one's too, however much that is, and the failed one reads no further.
func TestFailedAttemptKeepsTheBody(t *testing.T) {
	src, client := io.Pipe()
	defer src.Close()
	b := &replay{src: src}
	sent := make([]byte, 2*replayLimit)
	for i := range sent {
		sent[i] = byte(i % 251)
	}
	const before, meanwhile = 40 << 10, 30 << 10
	go client.Write(sent[:before])
	first := b.reader()
	if _, err := io.ReadFull(first, make([]byte, before)); err != nil {
		t.Fatal(err)
	}
	reads := make(chan int)
	go func() {
		n, _ := first.Read(make([]byte, meanwhile))
		reads <- n
	}()
	eventually(t, "reading on", func() bool { // it holds mu
		free := b.mu.TryLock()
		if free {
			b.mu.Unlock()
		}
		return !free
	})
	if !b.rewind() {
		t.Fatal("no other attempt may begin")
	}
	second := b.reader()
	go func() {
		client.Write(sent[before:])
		client.Close()
	}()
	if n := <-reads; n != meanwhile {
		t.Fatalf("the first attempt got %d bytes", n)
	}
	if n, err := first.Read(make([]byte, 1)); n > 0 || err != io.ErrUnexpectedEOF {
		t.Errorf("the first attempt reads on: %d %v", n, err)
	}
	if got, err := io.ReadAll(second); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("the second attempt got %d of %d bytes: %v", len(got), len(sent), err)
	}
	if b.rewind() {
		t.Error("more was read than is kept, and another attempt may begin")
	}
}

// TestWhoHasGoneIsNotWorkedFor: an instance learns soon that the client went away who waits for its answer, however the request came.
func TestWhoHasGoneIsNotWorkedFor(t *testing.T) {
	t.Parallel()
	arrived, left := make(chan bool, 1), make(chan time.Duration, 1)
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		arrived <- true
		began := time.Now()
		select {
		case <-r.Context().Done():
		case <-time.After(5 * time.Second):
		}
		left <- time.Since(began)
	})
	r := newRig(t, Config{})
	addr := r.gateway(instanceAt("app-1", b.addr))
	for _, parts := range [][]string{
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", "whole"},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nwhole"},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nwhole"},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n"},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n", "0\r\n\r\n"},
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range parts {
			if i > 0 {
				time.Sleep(50 * time.Millisecond)
			}
			io.WriteString(conn, part)
		}
		<-arrived
		conn.Close()
		if took := <-left; took > 3*time.Second {
			t.Errorf("%q: it worked on for %v", parts, took)
		}
	}
}
