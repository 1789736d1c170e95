package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
)

// rawServer serves each connection with handle and closes it then.
func rawServer(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				handle(c)
				c.Close()
				mu.Lock()
				defer mu.Unlock()
				delete(open, c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// readHead reads a request's head, and its body when it has a Content-Length of less than 100.
func readHead(c net.Conn) (string, *bufio.Reader) {
	br := bufio.NewReader(c)
	var head strings.Builder
	for {
		line, err := br.ReadString('\n')
		head.WriteString(line)
		if err != nil || strings.TrimSpace(line) == "" {
			break
		}
	}
	if i := strings.Index(head.String(), "Content-Length: 1\r\n"); i >= 0 {
		br.ReadByte()
	}
	return head.String(), br
}

// h2client speaks HTTP/2 with prior knowledge.
func h2client(t testing.TB) *http.Client {
	tr := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// breaker breaks every answer off.
type breaker struct {
	addr string
	seen atomic.Int64
}

func newBreaker(t testing.TB) *breaker {
	b := &breaker{}
	b.addr = rawServer(t, func(c net.Conn) {
		readHead(c)
		b.seen.Add(1)
	})
	return b
}

// readStatus asks a status socket.
func readStatus(t testing.TB, path string) Status {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr}).Get("http://status/status")
	var st Status
	if err := json.Unmarshal([]byte(body(t, res, err)), &st); err != nil {
		t.Fatal(err)
	}
	return st
}
