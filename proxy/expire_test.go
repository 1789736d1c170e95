package proxy

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slowKernel takes its time for each question about a connection, and answers that it is open and quiet, or not.
type slowKernel struct {
	c     *upstream
	pause time.Duration
	dead  bool
	asked *atomic.Int32
}

func (s slowKernel) Control(func(uintptr)) error {
	s.asked.Add(1)
	time.Sleep(s.pause)
	s.c.quiet = !s.dead
	return nil
}
func (slowKernel) Read(func(uintptr) bool) error  { return nil }
func (slowKernel) Write(func(uintptr) bool) error { return nil }

// idles puts n idle connections to nobody into k; every third is dead if dead is set.
func idles(k *conns, n int, pause time.Duration, dead bool) (all []*upstream, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	for i := range n {
		c := newUpstream(&net.TCPConn{})
		c.keep = time.Minute
		c.raw = slowKernel{c, pause, dead && i%3 == 0, asked}
		k.put(c, time.Now())
		all = append(all, c)
	}
	return all, asked
}

// TestExpiryLetsRequestsBy: while the kernel is asked about the idle connections, they can be taken and given back.
func TestExpiryLetsRequestsBy(t *testing.T) {
	t.Parallel()
	var had []int32
	for range 5 { // a look during which the test itself is held up shows nothing
		k := &conns{pool: &pool{}, freed: make(chan *upstream)}
		_, asked := idles(k, maxIdle, time.Millisecond, false)
		var looking sync.WaitGroup
		looking.Go(func() { k.expire(time.Now()) })
		for asked.Load() == 0 {
			time.Sleep(100 * time.Microsecond)
		}
		c := k.pop()
		n := asked.Load()
		k.put(c, time.Now())
		looking.Wait()
		if n := len(k.idle); n != maxIdle {
			t.Errorf("%d idle connections, want %d", n, maxIdle)
		}
		if n <= maxIdle/4 {
			return
		}
		had = append(had, n)
	}
	t.Errorf("of %d connections, one could be had after %d were asked about", maxIdle, had)
}

// TestExpiryTakesTheDeadAlone: of any number the dead ones go, and the others stay in their order.
func TestExpiryTakesTheDeadAlone(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, expireAtOnce - 1, expireAtOnce, expireAtOnce + 1, 3*expireAtOnce + 5, maxIdle} {
		k := &conns{pool: &pool{}, freed: make(chan *upstream)}
		all, asked := idles(k, n, 0, true)
		k.expire(time.Now())
		i := 0
		want := slices.DeleteFunc(all, func(*upstream) bool { i++; return (i-1)%3 == 0 })
		if !slices.Equal(k.idle, want) || int(asked.Load()) != n {
			t.Errorf("of %d: %d are left, want %d; %d were asked about", n, len(k.idle), len(want), asked.Load())
		}
		k.expire(time.Now().Add(time.Hour))
		if len(k.idle) != 0 {
			t.Errorf("of %d: %d are left when their time is over", n, len(k.idle))
		}
	}
}

// BenchmarkExpiry is a look at all the idle connections of one port of an instance.
func BenchmarkExpiry(b *testing.B) {
	s := serveFunc(b, func(http.ResponseWriter, *http.Request) {})
	in := newInstance(newService("app", time.Now()), &Instance{ID: "app-1"})
	defer in.retire()
	inst := instanceAt("app-1", s.addr)
	in.host = inst.Host
	in.update(&inst, time.Now())
	k := &in.pool(80).plain
	for range maxIdle {
		c, err := k.open(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		k.put(c, time.Now())
	}
	defer in.dropIdle()
	for b.Loop() {
		in.expire(time.Now())
	}
	if n := len(k.idle); n != maxIdle {
		b.Errorf("%d are left", n)
	}
}
