package proxy

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"trellis/identity"
)

// A link is a connection to an instance on another host, by way of the data plane there: TLS 1.3 in which the one end
// proves to be who calls and the other to be the service. The host's data plane is told which instance is meant, connects
// to it, says what came of that, and from then on passes on what comes. So whoever makes a link knows as much of the
// instance as if it were on its own host: whether it accepted, and what it said.
const (
	linkProtocol = "trellis-link/1" // of ALPN
	linkName     = ".service"       // follows the service in the server name, which may not look like an address

	linkHello  = 5     // bytes before the instance's ID: what follows (below), port, length of the ID
	linkStream = 0     // anything
	linkOne    = 1     // HTTP/1.1: one request at a time
	maxLinkID  = 1024  // bytes of an instance's ID
	linkFrame  = 16376 // most of what the instance said in a frame: one record of TLS holds it

	// lengths of frames that are none
	linkEnd    = 0
	linkGoAway = 0xffff
)

// What a host's data plane answers.
const (
	linkTaken   = iota + 1 // the instance has accepted a connection
	linkDenied             // who calls may not call the service
	linkNobody             // the instance is not here, or takes nothing new
	linkRefused            // the instance can't be connected to
)

const (
	// linkTime bounds the handshake and the answer. A connect to the instance is part of it.
	linkTime = 4 * time.Second
	// linkSilence is how long the other host may acknowledge nothing of what was sent to it before the network counts as gone.
	linkSilence = 5 * time.Second
)

// errUnused is the end of a link over which the instance got nothing of what was written since it last said something.
var errUnused = errors.New("the instance had closed the connection before")

var errLinkedUDP = errors.New("datagrams do not go to instances of other hosts, to which everything goes over TLS")

// givenUp says whether an error is the kernel's, which waited for the other host long enough. Where a router has told it
// why there is no answer, it says that instead.
func givenUp(err error) bool {
	return errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

// link makes a link of c's connection, over which nothing went yet. one: it carries one HTTP request at a time.
func (k *conns) link(ctx context.Context, c *upstream, svid *identity.SVID, one bool) error {
	p := k.pool
	s := p.inst.svc
	m := s.mesh.Load()
	if m == nil {
		p.abandoned()
		return &identityError{err: fmt.Errorf("%s is on another host, and nothing says who this one is", p.inst.id)}
	}
	conf := svid.Client(identity.ServiceID(m.Domain, s.name), time.Now, linkProtocol)
	conf.MinVersion, conf.ServerName = tls.VersionTLS13, s.name+linkName
	giveUpAfter(c.tcp, linkSilence)
	conn := tls.Client(c.conn, conf)
	limited, cancel := context.WithTimeout(ctx, linkTime)
	defer cancel()
	err := conn.HandshakeContext(limited)
	var answer byte
	if err == nil {
		stop := context.AfterFunc(limited, func() { c.tcp.SetDeadline(time.Unix(1, 0)) })
		answer, err = askLink(conn, p.inst.id, p.port, one)
		if !stop() && err == nil {
			err = limited.Err()
		}
	}
	if err != nil {
		return p.linkFailed(ctx, err)
	}
	switch answer {
	case linkTaken:
	case linkDenied:
		p.abandoned()
		return &identityError{err: fmt.Errorf("the data plane of %s does not let %q call %s", p.inst.plane, k.caller, s.name)}
	case linkNobody, linkRefused:
		p.unreachable()
		return &connectError{fmt.Errorf("%s at %s: %w", p.inst.id, p.inst.plane, syscall.ECONNREFUSED)}
	default:
		return p.linkFailed(ctx, fmt.Errorf("%s answered %d, which is no answer", p.inst.plane, answer))
	}
	p.connected()
	now := time.Now()
	c.proven = earlier(c.proven, svid.Until(conn.ConnectionState(), identity.ServiceID(m.Domain, s.name), now))
	c.conn = &linked{secured: &secured{Conn: conn, below: c.conn}, from: k}
	return nil
}

// askLink asks for an instance and returns the answer.
func askLink(conn *tls.Conn, id string, port int, one bool) (byte, error) {
	b := make([]byte, linkHello, linkHello+len(id))
	if one {
		b[0] = linkOne
	}
	binary.BigEndian.PutUint16(b[1:], uint16(port))
	binary.BigEndian.PutUint16(b[3:], uint16(len(id)))
	if _, err := conn.Write(append(b, id...)); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(conn, b[:1])
	return b[0], err
}

// linkFailed classifies an error before the answer: nothing was sent to the instance.
func (p *pool) linkFailed(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		p.abandoned()
		return ctx.Err()
	case errors.Is(err, identity.ErrRefused):
		p.abandoned()
		return &identityError{err: fmt.Errorf("the data plane of %s is not believed: %w", p.inst.plane, err), other: true}
	case disbelieved(err):
		p.abandoned()
		return &identityError{err: fmt.Errorf("the data plane of %s refused the handshake: %w", p.inst.plane, err), other: true}
	}
	p.unanswered()
	return &connectError{fmt.Errorf("%s by %s: %w", p.inst.id, p.inst.plane, err)}
}

// linked is the calling end of a link. What the instance says comes in frames: two bytes of length, and as many.
type linked struct {
	*secured
	from *conns
	head [3]byte
	have int   // bytes of head
	left int   // of the frame
	end  error // what reading ends with
}

func (l *linked) Read(b []byte) (int, error) {
	for l.left == 0 {
		if l.end != nil {
			return 0, l.end
		}
		if err := l.next(); err != nil {
			return 0, err
		}
	}
	n, err := l.secured.Read(b[:min(len(b), l.left)])
	l.left -= n
	return n, cutOff(err)
}

// next reads the head of a frame. After an error that passes, such as a time limit, it goes on where it was.
func (l *linked) next() error {
	if err := l.fill(2); err != nil {
		return err
	}
	switch length := binary.BigEndian.Uint16(l.head[:]); length {
	case linkEnd:
		if err := l.fill(3); err != nil {
			return err
		}
		if l.end = io.EOF; l.head[2] != 0 {
			l.end = errUnused
		}
	case linkGoAway: // another data plane takes new ones at the same address
		l.from.drop()
	default:
		l.left = int(length)
	}
	l.have = 0
	return nil
}

func (l *linked) fill(n int) error {
	for l.have < n {
		m, err := l.secured.Read(l.head[l.have:n])
		if l.have += m; err != nil && l.have < n {
			return cutOff(err)
		}
	}
	return nil
}

// broken says of a connection that has ended that it is a link, and that it was not the instance that ended it.
func broken(up duplex) bool {
	l, ok := up.(*linked)
	return ok && l.end == nil
}

// cutOff makes an end of TLS that is none of the link a broken connection.
func cutOff(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// validPlane says whether text is a host and a port.
func validPlane(text string) bool {
	host, port, err := net.SplitHostPort(text)
	return err == nil && host != "" && port != ""
}
