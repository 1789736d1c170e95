package proxy

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"trellis/identity"
)

// accepted is the end of a link at the host of the instance.
type accepted struct {
	*secured
	caller, service string
	stranger        bool // the certificate is neither a service's nor a gateway's
	to              *instance
	said            *delivery // what comes from the instance, once there is a connection

	mu sync.Mutex // one frame at a time
}

// mayCall says whether the service that a data plane calls for may call another one.
func (m *Mesh) mayCall(caller, service string) bool {
	return caller == "" || caller == service || m.Calls == nil || slices.Contains(m.Calls[caller], service)
}

// serveLink serves a connection of another host's data plane.
func (p *Proxy) serveLink(ctx context.Context, c *clientConn) {
	defer c.Close()
	c.waiting.Store(false)
	giveUpAfter(c.raw, linkSilence)
	c.raw.SetDeadline(time.Now().Add(handshakeTime))
	l, hello, err := p.acceptLink(c)
	if err != nil {
		if p.reasons.due("link", time.Now()) {
			p.log.Warn("a link is refused", "from", c.client, "err", err)
		}
		return
	}
	tcp := p.connectLink(ctx, l, hello)
	if tcp == nil {
		return
	}
	defer l.to.release()
	c.raw.SetDeadline(time.Time{})
	l.said = &delivery{TCPConn: tcp, one: hello[0] == linkOne, writing: make(chan struct{}, 1)}
	p.links.add(l)
	defer p.links.remove(l)
	if !p.table.Load().mesh.lets(l) { // since it was asked
		l.cut()
	} else if p.draining.Load() {
		l.goAway()
	}
	l.to.svc.count.connections.Add(1)
	p.through(l.to, &tunnel{client: end{conn: l}, server: end{conn: l.said}, linked: true})
}

// acceptLink does the handshake, and reads which instance is meant.
func (p *Proxy) acceptLink(c *clientConn) (*accepted, []byte, error) {
	t := p.table.Load()
	m := t.mesh
	if m == nil {
		return nil, nil, errors.New("no snapshot says who this host is")
	}
	l := &accepted{}
	conn := tls.Server(c.raw, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		service, ok := strings.CutSuffix(hello.ServerName, linkName)
		if s := t.services[service]; !ok || s == nil {
			return nil, fmt.Errorf("no service %q", hello.ServerName)
		}
		svid, err := p.known.get(filepath.Join(m.Identities, filepath.FromSlash(identity.ServicePath(service))), time.Now())
		if err != nil {
			return nil, err
		}
		l.service = service
		conf := svid.Server(time.Now, nil)
		conf.MinVersion, conf.NextProtos, conf.SessionTicketsDisabled = tls.VersionTLS13, []string{linkProtocol}, true
		return conf, nil
	}})
	l.secured = &secured{Conn: conn, below: c.raw}
	c.tls.Store(l.secured)
	if err := conn.Handshake(); err != nil {
		return nil, nil, err
	}
	st := conn.ConnectionState()
	if st.NegotiatedProtocol != linkProtocol {
		return nil, nil, errors.New("it is no data plane")
	}
	caller, known := identity.CallerOf(m.Domain, st.PeerCertificates[0].URIs[0].String())
	l.caller, l.stranger = caller, !known
	hello := make([]byte, linkHello)
	if _, err := io.ReadFull(conn, hello); err != nil {
		return nil, nil, err
	}
	n := int(binary.BigEndian.Uint16(hello[3:]))
	if n == 0 || n > maxLinkID {
		return nil, nil, fmt.Errorf("an instance's ID of %d bytes", n)
	}
	hello = append(hello, make([]byte, n)...)
	_, err := io.ReadFull(conn, hello[linkHello:])
	return l, hello, err
}

// connectLink connects to the instance that is meant, counted as in use, and answers; nil: there will be nothing to pass
// on.
func (p *Proxy) connectLink(ctx context.Context, l *accepted, hello []byte) *net.TCPConn {
	answer := byte(linkNobody)
	var tcp *net.TCPConn
	t := p.table.Load()
	switch s := t.services[l.service]; {
	case !t.mesh.lets(l):
		if answer = linkDenied; !l.stranger {
			p.refused(&Listener{Caller: l.caller, Service: l.service})
		}
	case s != nil:
		if l.to = s.here(string(hello[linkHello:])); l.to == nil {
			break
		}
		var err error
		if tcp, err = l.to.pool(int(binary.BigEndian.Uint16(hello[1:]))).dial(ctx); err != nil {
			answer = linkRefused
			l.to.release()
			break
		}
		answer = linkTaken
	}
	if _, err := l.secured.Write([]byte{answer}); err != nil && tcp != nil {
		tcp.Close()
		l.to.release()
		return nil
	}
	return tcp
}

// lets says whether a link may be.
func (m *Mesh) lets(l *accepted) bool {
	return m != nil && !l.stranger && m.mayCall(l.caller, l.service)
}

// here returns an instance of this host that takes something new, counted as in use; nil: there is none with this ID.
func (s *service) here(id string) *instance {
	s.mu.Lock()
	inst := s.instances[id]
	s.mu.Unlock()
	if inst == nil || inst.remote() {
		return nil
	}
	if inst.inUse.Add(1); !inst.takes.Load() {
		inst.release()
		return nil
	}
	return inst
}

// Write passes on what the instance said.
func (l *accepted) Write(b []byte) (int, error) {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	done := 0
	for done < len(b) {
		n := min(len(b)-done, linkFrame)
		binary.BigEndian.PutUint16(*buf, uint16(n))
		copy((*buf)[2:], b[done:done+n])
		if err := l.write((*buf)[:2+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func (l *accepted) write(frame []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.secured.Write(frame)
	return err
}

// CloseWrite says that the instance has ended, and whether it got what was sent last.
func (l *accepted) CloseWrite() error {
	frame := []byte{0, linkEnd, 0}
	if l.said.unused() {
		frame[2] = 1
	}
	if err := l.write(frame); err != nil {
		return err
	}
	return l.secured.CloseWrite()
}

// goAway has nothing new sent over the link.
func (l *accepted) goAway() {
	var frame [2]byte
	binary.BigEndian.PutUint16(frame[:], linkGoAway)
	l.write(frame[:])
}

// cut ends the link at once.
func (l *accepted) cut() {
	l.SetLinger(0)
	l.Close()
}

// cutRefused ends the links of those who may not call any more.
func (p *Proxy) cutRefused(m *Mesh) {
	for _, l := range p.links.list() {
		if !m.lets(l) {
			l.cut()
		}
	}
}

// delivery is a connection to an instance that knows whether the instance got what was written last.
//
// Where one request goes at a time and the instance closes between two, the next one may be on its way. It is not passed on
// then, or the kernel says that it came too late: either way whoever sent it may send it again.
type delivery struct {
	*net.TCPConn
	one     bool
	writing chan struct{} // capacity 1: somebody writes

	mu      sync.Mutex
	open    bool  // something was written since the instance last said something
	written int64 // bytes
	before  int64 // written when the instance last said something
	missed  bool  // it got nothing of what came since
}

// lastWrite is how long an instance that has ended may leave unread what is being written to it.
const lastWrite = 100 * time.Millisecond

func (d *delivery) Write(b []byte) (int, error) {
	d.writing <- struct{}{}
	defer func() { <-d.writing }()
	d.mu.Lock()
	missed := d.missed
	d.open = true
	d.mu.Unlock()
	if missed {
		return len(b), nil
	}
	n, err := d.TCPConn.Write(b)
	d.mu.Lock()
	d.written += int64(n)
	d.mu.Unlock()
	if err != nil && d.one {
		return len(b), nil // the kernel knows that the instance has ended: how it did is what is read next, and decides
	}
	return n, err
}

func (d *delivery) Read(b []byte) (int, error) {
	n, err := d.TCPConn.Read(b)
	if !d.one {
		return n, err
	}
	if err == io.EOF { // what is written from now on is not passed on, and what is being written has come too late or not
		select {
		case d.writing <- struct{}{}:
			defer func() { <-d.writing }()
		case <-time.After(lastWrite):
			return n, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if n > 0 {
		d.open, d.before = false, d.written
	}
	if err == io.EOF {
		d.missed = !d.open || neverArrived(d.TCPConn, d.before)
	}
	return n, err
}

func (d *delivery) unused() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.missed
}

// ReadFrom and WriteTo keep io.Copy from going round Write and Read.
func (d *delivery) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{d}, r)
}

func (d *delivery) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{d})
}
