package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	udpIdle     = 60 * time.Second // a session without a datagram ends
	maxSessions = 4096             // of one listener; datagrams of further clients are dropped
	maxDatagram = 64 << 10
)

// udpSession is what one client exchanges with one instance.
type udpSession struct {
	seat
	up   *net.UDPConn
	last atomic.Int64 // unix nanoseconds of the client's last datagram
}

// serveUDP passes datagrams on until ctx is done; the answers of sessions that are open then still go back until the
// sessions are idle or the data plane ends.
func (p *Proxy) serveUDP(ctx context.Context, l *listener) {
	var mu sync.Mutex
	sessions := map[netip.AddrPort]*udpSession{}
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := l.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // an ICMP error of an earlier answer
		}
		mu.Lock()
		s := sessions[from]
		if s == nil && len(sessions) < maxSessions {
			if s = p.openSession(l, from.Addr()); s != nil {
				sessions[from] = s
				p.wg.Go(func() {
					p.answerUDP(l, s, from)
					mu.Lock()
					defer mu.Unlock()
					delete(sessions, from)
				})
			}
		}
		mu.Unlock()
		if s != nil {
			s.last.Store(time.Now().UnixNano())
			s.up.Write(buf[:n])
		}
	}
}

// openSession connects to an instance, nil when none is ready: a datagram is not held.
func (p *Proxy) openSession(l *listener, client netip.Addr) *udpSession {
	conf := l.conf.Load()
	if conf == nil {
		return nil
	}
	t := p.table.Load()
	s := t.services[conf.Service]
	if s == nil {
		return nil
	}
	to := s.lane(conf.Port).acquire(nil)
	if to == nil {
		s.count.failed.Add(1)
		return nil
	}
	at := to.inst.seat(way{caller: t.from(conf, client)})
	to.abandoned() // a datagram socket proves nothing
	if to.inst.remote() {
		p.unproven(s, errLinkedUDP)
		s.count.failed.Add(1)
		at.leave()
		return nil
	}
	conn, err := net.Dial("udp", to.inst.address(conf.Port))
	if err != nil {
		at.leave()
		return nil
	}
	s.count.connections.Add(1)
	return &udpSession{seat: at, up: conn.(*net.UDPConn)}
}

// answerUDP passes the instance's datagrams back until the session is idle or the instance's drain time is over.
func (p *Proxy) answerUDP(l *listener, s *udpSession, client netip.AddrPort) {
	defer s.leave()
	defer s.up.Close()
	st := s.inst.track(func() { s.up.Close() }, false)
	st.datagrams = true
	p.streams.add(st)
	defer s.inst.untrack(st)
	defer p.streams.remove(st)
	buf := make([]byte, maxDatagram)
	for {
		s.up.SetReadDeadline(time.Now().Add(udpIdle))
		n, err := s.up.Read(buf)
		switch {
		case err == nil:
			if _, err := l.udp.WriteToUDPAddrPort(buf[:n], client); errors.Is(err, net.ErrClosed) {
				return
			}
		case errors.Is(err, os.ErrDeadlineExceeded):
			if time.Since(time.Unix(0, s.last.Load())) >= udpIdle {
				return
			}
		default: // refused, or closed
			return
		}
	}
}
