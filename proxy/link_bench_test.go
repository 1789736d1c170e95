package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"
)

// BenchmarkMesh measures what a call of a service takes longer by way of the mesh, one call at a time, interleaved: straight
// to the instance; by the data plane of its host; by the data planes of two hosts, and TLS between them.
func BenchmarkMesh(b *testing.B) {
	h := newHosts(b)
	up := rawServer(b, func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			line, err := br.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
		}
	})
	inst := instanceAt("app-1", up)
	h.serves(Service{Name: "app", Instances: []Instance{inst}})
	h.snap.Services = append(h.snap.Services, Service{Name: "web", Instances: []Instance{inst}})
	names := []string{"direct", "host", "hosts"}
	addrs := []string{
		up,
		h.listen(Listener{Name: "near", Protocol: Detect, Service: "web", Port: 80, Caller: "api"}),
		h.listen(Listener{Name: "far", Protocol: Detect, Service: "app", Port: 80, Caller: "api"}),
	}
	h.publish()
	conns := make([]net.Conn, len(addrs))
	readers := make([]*bufio.Reader, len(addrs))
	took := make([][]time.Duration, len(addrs))
	for i, addr := range addrs {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		conns[i], readers[i] = conn, bufio.NewReader(conn)
	}
	for b.Loop() {
		for i, conn := range conns {
			began := time.Now()
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: app\r\n\r\n")
			res, err := http.ReadResponse(readers[i], nil)
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			took[i] = append(took[i], time.Since(began))
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	p50 := func(i int) float64 { return float64(took[i][len(took[i])/2].Nanoseconds()) / 1000 }
	for i, name := range names {
		b.ReportMetric(p50(i), name+"-p50-µs")
	}
	b.ReportMetric(p50(1)-p50(0), "added-by-host-µs")
	b.ReportMetric(p50(2)-p50(1), "added-by-other-host-µs")
}
