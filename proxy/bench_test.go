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
	}
}

func itoa(n int) string {
	return string(bytes.TrimLeft([]byte{byte('0' + n/10000%10), byte('0' + n/1000%10), byte('0' + n/100%10), byte('0' + n/10%10), byte('0' + n%10)}, "0"))
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
