package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// BenchmarkForward compares, in one run, the same request sent straight to the instance, through the data plane with a
// routing decision, and through a bare httputil.ReverseProxy. Client and instance are raw sockets that do next to
// nothing, so that the difference is the proxy.
func BenchmarkForward(b *testing.B) {
	for _, size := range []int{100, 10 << 10} {
		answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + itoa(size) + "\r\n\r\n" + strings.Repeat("x", size))
		up := rawServer(b, func(c net.Conn) {
			br := bufio.NewReader(c)
			for {
				line, err := br.ReadSlice('\n')
				if err != nil {
					return
				}
				if len(line) == 2 {
					c.Write(answer)
				}
			}
		})
		r := newRig(b, Config{})
		ours := r.gateway(instanceAt("app-1", up))
		target, err := url.Parse("http://" + up)
		if err != nil {
			b.Fatal(err)
		}
		tr := &http.Transport{MaxIdleConnsPerHost: 100}
		defer tr.CloseIdleConnections()
		theirs := serve(b, "127.0.0.1:0", &httputil.ReverseProxy{Transport: tr, Rewrite: func(pr *httputil.ProxyRequest) { pr.SetURL(target); pr.SetXForwarded() }})
		for _, c := range []struct{ name, addr string }{{"direct", up}, {"trellis", ours}, {"reverseproxy", theirs.addr}} {
			b.Run(itoa(size)+"/"+c.name, func(b *testing.B) { hammer(b, c.addr) })
		}
		b.Run(itoa(size)+"/trellis, HTTP/2", func(b *testing.B) { hammer2(b, ours) })
	}
}

func itoa(n int) string {
	return string(bytes.TrimLeft([]byte{byte('0' + n/10000%10), byte('0' + n/1000%10), byte('0' + n/100%10), byte('0' + n/10%10), byte('0' + n%10)}, "0"))
}

// hammer2 is hammer over HTTP/2, one request at a time on each connection.
func hammer2(b *testing.B, addr string) {
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		var out, block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		enc.SetMaxDynamicTableSize(0)
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "evergreen.localhost"}, {":path", "/api/courses/12"}, {"user-agent", "bench"}, {"accept", "*/*"}} {
			enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		framer := http2.NewFramer(&out, nil)
		out.WriteString(http2.ClientPreface)
		framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		framer.WriteSettingsAck()
		framer.WriteWindowUpdate(0, 1<<30)
		br := bufio.NewReaderSize(conn, 32<<10)
		for stream, unused := uint32(1), 1<<30; pb.Next(); stream += 2 {
			framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
			if _, err := conn.Write(out.Bytes()); err != nil {
				b.Error(err)
				return
			}
			out.Reset()
			for ended := false; !ended; {
				head, err := br.Peek(9)
				if err != nil {
					b.Error(err)
					return
				}
				length := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
				ended = (head[3] == byte(http2.FrameData) || head[3] == byte(http2.FrameHeaders)) && head[4]&1 != 0
				if head[3] == byte(http2.FrameData) {
					unused -= length
				}
				br.Discard(9 + length)
			}
			if unused < 1<<29 {
				framer.WriteWindowUpdate(0, 1<<29)
				unused += 1 << 29
			}
		}
	})
}

// hammer sends requests over 16 connections per processor and reads the answers.
func hammer(b *testing.B, addr string) {
	request := []byte("GET /api/courses/12 HTTP/1.1\r\nHost: evergreen.localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		br := bufio.NewReaderSize(conn, 32<<10)
		for pb.Next() {
			if _, err := conn.Write(request); err != nil {
				b.Error(err)
				return
			}
			length := 0
			for {
				line, err := br.ReadSlice('\n')
				if err != nil {
					b.Error(err)
					return
				}
				if len(line) == 2 {
					break
				}
				if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
					for _, d := range bytes.TrimSpace(v) {
						length = length*10 + int(d-'0')
					}
				}
			}
			if n, err := io.CopyN(io.Discard, br, int64(length)); err != nil || n == 0 {
				b.Error(n, err)
				return
			}
		}
	})
}

// BenchmarkApply is the cost of one more snapshot of 200 services with 5 instances each and 200 routes.
func BenchmarkApply(b *testing.B) {
	r := newRig(b, Config{})
	s := Snapshot{Epoch: 2}
	for i := range 200 {
		svc := Service{Name: "s" + itoa(i+1)}
		for j := range 5 {
			svc.Instances = append(svc.Instances, Instance{ID: svc.Name + "-" + itoa(j+1), Host: "127.0.0.1", Ready: true})
		}
		s.Services = append(s.Services, svc)
		s.Routes = append(s.Routes, Route{Path: "/api/" + svc.Name + "/*", Service: svc.Name, Port: 80})
	}
	b.ReportAllocs()
	for b.Loop() {
		s.Version++
		next := s
		r.feed.ch <- Update{Snapshot: &next}
	}
}
