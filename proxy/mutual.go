package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"trellis/errdefs"
	"trellis/identity"
)

// identityError says that a connection over mutual TLS was not made because somebody did not prove who they are. Nothing
// of a request was sent, or nobody has read it.
type identityError struct {
	err   error
	other bool // it was the instance, or what the instance thinks of us
}

func (e *identityError) Error() string { return e.err.Error() }
func (e *identityError) Unwrap() error { return e.err }

// mutual says whether a port of the service is called over mutual TLS.
func (s *service) mutual(port int) bool {
	m := s.conf.Load().Mutual
	switch {
	case m == nil:
		return false
	case len(m.Ports) > 0:
		return slices.Contains(m.Ports, port)
	}
	return !slices.Contains(m.Plain, port)
}

// identities are what callers show, by folder, read anew when their files were replaced.
type identities struct {
	lookAgain time.Duration

	mu  sync.Mutex
	all map[string]*known
}

type known struct {
	looked  time.Time
	version string
	svid    *identity.SVID
	err     error
}

// get returns what is in a folder, as it was lookAgain ago at most. Files that can't be read change nothing until those
// before have expired.
func (i *identities) get(dir string, now time.Time) (*identity.SVID, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	k := i.all[dir]
	if k == nil {
		if i.all == nil {
			i.all = map[string]*known{}
		}
		k = &known{}
		i.all[dir] = k
	}
	if k.svid == nil || now.Sub(k.looked) >= i.lookAgain || now.Before(k.looked) {
		k.look(dir, now)
	}
	switch {
	case k.svid == nil:
		return nil, k.err
	case !now.Before(k.svid.Expires):
		return nil, fmt.Errorf("%w: %s has expired at %s", identity.ErrRefused, k.svid.ID, k.svid.Expires.Format(time.RFC3339))
	}
	return k.svid, nil
}

func (k *known) look(dir string, now time.Time) {
	k.looked = now
	version := identity.Version(dir)
	if k.svid != nil && version == k.version {
		return
	}
	files, err := identity.ReadFiles(dir)
	var svid *identity.SVID
	if err == nil {
		svid, err = identity.ParseSVID(files, now)
	}
	if k.err = err; err == nil {
		k.version, k.svid = version, svid
	}
}

// shownIDs are what connections show: to the instance, and to the data plane of its host.
type shownIDs struct{ instance, plane *identity.SVID }

// until is when the first of them ends.
func (s shownIDs) until(t time.Time) time.Time {
	for _, one := range []*identity.SVID{s.instance, s.plane} {
		if one != nil {
			t = earlier(t, one.Expires)
		}
	}
	return t
}

// identities returns what the connections show now. When that is something else than before, no connection that has shown
// what was before is used for anything new.
func (k *conns) identities(now time.Time) (ids shownIDs, err error) {
	s := k.pool.inst.svc
	if conf := s.conf.Load(); k.secure && conf.TLS == nil {
		m := conf.Mutual
		if m == nil {
			return ids, &identityError{err: errors.New("the port speaks mutual TLS no more")}
		}
		if ids.instance, err = k.identity(m.Identities, now); err != nil {
			return ids, err
		}
	}
	if k.linked {
		m := s.mesh.Load()
		if m == nil {
			return ids, &identityError{err: fmt.Errorf("%s is on another host, and nothing says who this one is", k.pool.inst.id)}
		}
		if ids.plane, err = k.identity(m.Identities, now); err != nil {
			return ids, err
		}
	}
	k.mu.Lock()
	changed := k.shown != ids && k.shown != shownIDs{}
	k.shown = ids
	k.mu.Unlock()
	if changed {
		k.drop()
	}
	return ids, nil
}

// identity returns what the caller shows, of a folder of identities.
func (k *conns) identity(dir string, now time.Time) (*identity.SVID, error) {
	path := identity.GatewayPath
	if k.caller != "" {
		path = identity.ServicePath(k.caller)
	}
	s := k.pool.inst.svc
	svid, err := s.known.get(filepath.Join(dir, filepath.FromSlash(path)), now)
	if err != nil {
		return nil, &identityError{err: fmt.Errorf("%s can't be called as %s: %w", s.name, path[1:], err)}
	}
	return svid, nil
}

// prove makes of c's connection, over which nothing went yet, what the connections are: to the instance by the data plane
// of its host, over TLS, or neither. protocol is that of the instance's TLS; "": none. Where it fails it closes the
// connection.
func (k *conns) prove(ctx context.Context, c *upstream, protocol string) error {
	if !k.proves() {
		return nil
	}
	ids, err := k.identities(time.Now())
	if err == nil {
		counted := &countedConn{TCPConn: c.tcp}
		c.conn, c.written = counted, &counted.written
		c.proven = ids.until(time.Now().Add(identity.LeafLife))
	}
	if err == nil && k.linked {
		err = k.link(ctx, c, ids.plane, protocol == "http/1.1")
	}
	if err == nil && k.secure {
		err = k.handshake(ctx, c, ids.instance, protocol)
	}
	if err != nil {
		c.tcp.Close()
	}
	return err
}

// handshake makes TLS with the instance of c's connection.
func (k *conns) handshake(ctx context.Context, c *upstream, svid *identity.SVID, protocol string) error {
	s := k.pool.inst.svc
	var protocols []string
	if protocol != "" {
		protocols = []string{protocol}
	}
	conf := s.conf.Load()
	m := conf.Mutual
	var with *tls.Config
	switch {
	case conf.TLS != nil:
		var err error
		if with, err = conf.TLS.client(protocols); err != nil {
			return &identityError{err: err}
		}
	case m == nil || svid == nil:
		return &identityError{err: errors.New("the port speaks mutual TLS no more")}
	default:
		with = svid.Client(m.ID, time.Now, protocols...)
	}
	conn := tls.Client(c.conn, with)
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return k.handshakeFailed(ctx, err)
	}
	st := conn.ConnectionState()
	if protocol == "h2" && st.NegotiatedProtocol != "h2" {
		conn.Close()
		return &identityError{err: fmt.Errorf("%s does not speak HTTP/2 over TLS (ALPN)", s.name), other: true}
	}
	c.conn = &secured{Conn: conn, below: c.conn}
	if conf.TLS == nil {
		c.proven = earlier(c.proven, svid.Until(st, m.ID, time.Now()))
	}
	return nil
}

// client returns how a connection is made.
func (u *UpstreamTLS) client(protocols []string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, ServerName: u.ServerName}
	if u.CA != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(u.CA)) {
			return nil, fmt.Errorf("%w: no certificate among those that vouch for %s", errdefs.ErrInvalid, u.ServerName)
		}
	}
	return c, nil
}

// handshakeFailed classifies an error of a handshake: one of the connection is as good as no connection.
func (k *conns) handshakeFailed(ctx context.Context, err error) error {
	var header tls.RecordHeaderError
	switch s := k.pool.inst.svc; {
	case ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
		return ctx.Err()
	case errors.Is(err, identity.ErrRefused), errors.As(err, new(*tls.CertificateVerificationError)):
		return &identityError{err: fmt.Errorf("%s is not believed: %w", k.pool.inst.id, err), other: true}
	case errors.As(err, &header):
		return &identityError{err: fmt.Errorf("%s does not speak TLS at port %d, as the file says of %s", k.pool.inst.id, k.pool.port, s.name), other: true}
	case disbelieved(err):
		return &identityError{err: fmt.Errorf("%s refused the handshake: %w", k.pool.inst.id, err), other: true}
	}
	return &connectError{err}
}

// disbelieved says whether an error is the other end's word in TLS that it does not go on. In TLS 1.3 it comes after our
// side of the handshake, in place of an answer.
func disbelieved(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// countedConn counts what the kernel took: TLS's records, not what is in them.
type countedConn struct {
	*net.TCPConn
	written atomic.Int64
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// ReadFrom keeps io.Copy from going round Write.
func (c *countedConn) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c}, r)
}

// connect makes a connection that is passed through: over mutual TLS where the port speaks it, unless it is to be raw.
func (p *pool) connect(ctx context.Context, caller string, raw bool) (duplex, error) {
	tcp, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	k := p.by(caller)
	if raw && k.secure {
		k = p.passing(caller)
	}
	c := newUpstream(tcp)
	if err := k.prove(ctx, c, ""); err != nil {
		return nil, err
	}
	return c.conn, nil
}

// unproven decides what follows where an identity was not proven: another instance may prove its own. Where it is the
// caller's nobody else would believe it either.
func (c *caller) unproven(p *pool, err *callError) *failure {
	var ie *identityError
	if errors.As(err.err, &ie) && ie.other {
		p.broke()
		c.tried.add(p)
		others := slices.ContainsFunc(c.lane.available.Load().list, func(p *pool) bool { return !c.tried.has(p) })
		if others && c.s.retries() >= 0 && c.q.body.rewind() {
			c.s.again(c.q.from, c.q.route, p.inst)
			return nil
		}
	} else {
		p.abandoned()
	}
	return &failure{status: 503, kind: kindIdentity, detail: "the identity of " + c.s.name + ", or of who calls it, is not proven", cause: err.err}
}

// reasons remember what was logged.
type reasons struct {
	mu     sync.Mutex
	logged map[string]time.Time
}

const (
	reasonPause = time.Minute
	maxReasons  = 1000
)

// due says whether a reason is to be logged: it was not within the last minute.
func (r *reasons) due(reason string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.logged[reason]; ok && now.Sub(last) < reasonPause {
		return false
	}
	if r.logged == nil || len(r.logged) >= maxReasons {
		r.logged = map[string]time.Time{}
	}
	r.logged[reason] = now
	return true
}

// unproven writes into the log why a service could not be called.
func (p *Proxy) unproven(s *service, why error) {
	if p.reasons.due(s.name+"\x00"+why.Error(), time.Now()) {
		p.log.Error("a service can't be called over TLS", "service", s.name, "err", why)
	}
}

// helloTLS says whether a client begins TLS (RFC 8446, section 5.1).
func helloTLS(first []byte) bool { return len(first) > 1 && first[0] == 22 && first[1] == 3 }

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
