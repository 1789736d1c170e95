//go:build gateway

package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// manner is how a gateway is spoken to.
type manner int

const (
	overHTTP1 manner = iota
	overTLS          // HTTP/1.1 over TLS 1.3
	overHTTP2        // without TLS
	overBoth         // HTTP/2 over TLS 1.3
)

func (m manner) String() string {
	return [...]string{"HTTP/1.1", "TLS 1.3", "HTTP/2", "HTTP/2, TLS 1.3"}[m]
}

// port is the one of a gateway's where it is spoken to so.
func (m manner) port(of [3]int) int {
	if m == overBoth {
		m = overTLS
	}
	return of[m]
}

// question is what is asked again and again.
type question struct {
	how   manner
	port  int
	path  string // its last part is the size of the answer
	size  int
	token string // "" for none
}

// talk makes a connection, and returns what asks over it once.
func (q question) talk() (ask func() error, conn net.Conn, err error) {
	conn, err = net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(q.port))
	if err != nil {
		return nil, nil, err
	}
	switch q.how {
	case overTLS:
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}})
	case overBoth:
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}})
		return q.talk2(conn), conn, nil
	case overHTTP2:
		return q.talk2(conn), conn, nil
	}
	head := "GET " + q.path + " HTTP/1.1\r\nHost: evergreen.localhost\r\nUser-Agent: bench/1\r\nAccept: */*\r\n"
	if q.token != "" {
		head += "Authorization: Bearer " + q.token + "\r\n"
	}
	head += "\r\n"
	br := bufio.NewReaderSize(conn, 32<<10)
	return func() error {
		if _, err := io.WriteString(conn, head); err != nil {
			return err
		}
		for first := true; ; first = false {
			line, err := br.ReadSlice('\n')
			if err != nil {
				return err
			}
			if first && !bytes.Contains(line, []byte(" 200 ")) {
				rest, _ := br.Peek(br.Buffered())
				return fmt.Errorf("answered with %s", bytes.Join([][]byte{line, rest}, nil))
			}
			if len(line) == 2 {
				break
			}
		}
		_, err := br.Discard(q.size)
		return err
	}, conn, nil
}

// talk2 is talk over HTTP/2, one request after the other.
func (q question) talk2(conn net.Conn) func() error {
	framer := http2.NewFramer(conn, bufio.NewReaderSize(conn, 32<<10))
	framer.SetReuseFrames()
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	fields := []string{":method", "GET", ":scheme", "http", ":authority", "evergreen.localhost", ":path", q.path, "user-agent", "bench/1", "accept", "*/*"}
	if q.token != "" {
		fields = append(fields, "authorization", "Bearer "+q.token)
	}
	stream, unacked := uint32(1), uint32(0)
	begun := false
	return func() error {
		if !begun {
			begun = true
			io.WriteString(conn, http2.ClientPreface)
			framer.WriteSettings()
		}
		block.Reset()
		for i := 0; i < len(fields); i += 2 {
			enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
			return err
		}
		for size, ended := 0, false; !ended; {
			frame, err := framer.ReadFrame()
			if err != nil {
				return err
			}
			switch f := frame.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					framer.WriteSettingsAck()
				}
			case *http2.MetaHeadersFrame:
				if status := f.PseudoValue("status"); status != "200" {
					return fmt.Errorf("answered with %s", status)
				}
				ended = f.StreamEnded()
			case *http2.DataFrame:
				size += len(f.Data())
				if unacked += f.Length; unacked > 16<<10 {
					framer.WriteWindowUpdate(0, unacked)
					unacked = 0
				}
				ended = f.StreamEnded()
			case *http2.RSTStreamFrame, *http2.GoAwayFrame:
				return fmt.Errorf("%v", f)
			}
			if ended && size != q.size {
				return fmt.Errorf("an answer of %d bytes", size)
			}
		}
		stream += 2
		return nil
	}
}

// saturate asks so often over 64 connections, each as soon as its last answer has come.
func saturate(t *testing.T, q question, requests int) (perSecond float64) {
	t.Helper()
	var left atomic.Int64
	left.Store(int64(requests))
	var wg sync.WaitGroup
	began := time.Now()
	for range 64 {
		wg.Go(func() {
			ask, conn, err := q.talk()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			for left.Add(-1) >= 0 {
				if err := ask(); err != nil {
					t.Errorf("%v, port %d: %v", q.how, q.port, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(requests) / time.Since(began).Seconds()
}
