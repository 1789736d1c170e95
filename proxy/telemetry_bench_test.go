package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"trellis/cputime"
	"trellis/telemetry"
)

// BenchmarkTelemetryPrice is what counting, tracing and telling of requests costs the data plane: the same requests to a
// service that is counted and traced, to one that is not, and past the data plane, in turns. The price is of the processor
// time of the data plane alone: what client and instance use is taken out. of-target is the part of the 5 % it may be.
func BenchmarkTelemetryPrice(b *testing.B) {
	const target, rounds, each = 0.05, 40, 5_000
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024))
	up := rawServer(b, func(c net.Conn) {
		for br := bufio.NewReader(c); ; {
			line, err := br.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}
	})
	with, without := newRig(b, Config{}), newRig(b, Config{})
	seen, unseen := with.gateway(instanceAt("app-1", up)), without.gateway(instanceAt("app-1", up))
	without.snap.Services[0].Internal = true
	without.push()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go func() { _ = with.proxy.pushSpans(ctx, func([]telemetry.Span) error { return nil }) }()
	var more, bare []time.Duration // of the same moment: whatever else the machine does meets both
	for range b.N * rounds {
		counted, uncounted, direct := perRequest(b, seen, each), perRequest(b, unseen, each), perRequest(b, up, each)
		more, bare = append(more, counted-uncounted), append(bare, uncounted-direct)
		with.proxy.Calls() // as the control plane asks every five seconds
	}
	price := float64(middle(more)) / float64(middle(bare))
	b.ReportMetric(float64(middle(more).Nanoseconds()), "telemetry-ns/req")
	b.ReportMetric(float64(middle(bare).Nanoseconds()), "bare-ns/req")
	b.ReportMetric(100*price, "price-%")
	b.ReportMetric(price/target, "of-target")
	b.ReportMetric(0, "ns/op")
}

// perRequest returns the processor time of this process for each of n requests over 16 connections.
func perRequest(b *testing.B, addr string, n int) time.Duration {
	b.Helper()
	const connections = 16
	request := []byte("GET /api/courses/12 HTTP/1.1\r\nHost: evergreen.localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
	var all sync.WaitGroup
	before := cputime.Used(b)
	for range connections {
		all.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			br := bufio.NewReader(c)
			for range n / connections {
				if _, err := c.Write(request); err != nil {
					b.Error(err)
					return
				}
				for {
					line, err := br.ReadSlice('\n')
					if err != nil {
						b.Error(err)
						return
					}
					if len(line) == 2 {
						break
					}
				}
				if _, err := io.CopyN(io.Discard, br, 1024); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return (cputime.Used(b) - before) / time.Duration(n)
}

func middle(d []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(d))[len(d)/2]
}
