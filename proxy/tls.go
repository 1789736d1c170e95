package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Certificate is where a certificate chain and its key are, as PEM. The files may be replaced at any time, each whole.
type Certificate struct {
	Chain string `json:"chain"`
	Key   string `json:"key"`
	// Pending says that the files may not be there yet.
	Pending bool `json:"pending,omitempty"`
}

// duplex is a connection that ends in both directions by itself: TCP, or TLS over it.
type duplex interface {
	net.Conn
	CloseWrite() error
	SetLinger(seconds int) error
}

// secured is a connection over TLS.
type secured struct {
	*tls.Conn
	below   duplex   // TCP, or another data plane's connection
	records *records // of a client's connection, between TLS and TCP
	full    bool     // the last Read filled its buffer: there may be more
	shown   atomic.Pointer[shown]
	cut     atomic.Bool
}

// SetLinger of 0 has Close cut the connection, without the alert that says that all was said.
func (s *secured) SetLinger(seconds int) error {
	s.cut.Store(seconds == 0)
	return s.below.SetLinger(seconds)
}

func (s *secured) Close() error {
	if s.cut.Load() {
		return s.below.Close()
	}
	return s.Conn.Close()
}

// CloseWrite says that nothing follows, and closes the way for it.
func (s *secured) CloseWrite() error {
	if err := s.Conn.CloseWrite(); err != nil {
		return err
	}
	return s.below.CloseWrite()
}

// certificates are those of a listener, read anew when their files have changed. Connections that were made before keep
// theirs.
type certificates struct {
	files   []Certificate
	answers string                     // Listener.Challenges
	clients asking                     // for their certificates
	conf    atomic.Pointer[tls.Config] // nil: none could be read

	mu     sync.Mutex
	looked atomic.Int64 // when the files were looked at, in Unix nanoseconds
	read   []pair       // of files, as they were last when they could be read
	failed string       // the last error that was logged
}

// pair is a certificate with its key, and what its files looked like.
type pair struct {
	seen string
	*tls.Certificate
}

// lookAgain is the pause between two looks at the files of certificates, that a handshake takes.
const lookAgain = time.Second

// handshakeTime bounds a TLS handshake.
const handshakeTime = 10 * time.Second

var errNoCertificate = errors.New("no certificate can be read")

// current returns the configuration for a handshake that begins now.
func (c *certificates) current(p *Proxy) (*tls.Config, error) {
	now := time.Now()
	passed := now.UnixNano() - c.looked.Load() // below 0: the clock was set back since
	if passed >= int64(p.lookAgain) || passed < 0 || c.conf.Load() == nil {
		c.look(p, now)
	}
	if conf := c.conf.Load(); conf != nil {
		return conf, nil
	}
	return nil, errNoCertificate
}

// look reads the files that have changed. Those that can't be read change nothing.
func (c *certificates) look(p *Proxy, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked.Store(now.UnixNano())
	if c.read == nil {
		c.read = make([]pair, len(c.files))
	}
	var problem error
	changed := c.conf.Load() == nil
	for i, f := range c.files {
		seen := f.fingerprint()
		if seen != "" && seen == c.read[i].seen || seen == "" && f.Pending {
			continue
		}
		one, err := f.load(now)
		if err != nil {
			problem = errors.Join(problem, err)
			continue
		}
		c.read[i], changed = pair{seen, one}, true
	}
	if changed {
		c.use(p)
	}
	if problem != nil && problem.Error() != c.failed {
		c.failed = problem.Error()
		p.log.Error("certificates can't be read; those read before stay in use", "err", problem)
	}
}

// use makes what was read the configuration of handshakes to come.
func (c *certificates) use(p *Proxy) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	for _, one := range c.read {
		if one.Certificate != nil {
			conf.Certificates = append(conf.Certificates, *one.Certificate)
		}
	}
	c.clients.apply(conf, p)
	if c.answers != "" {
		conf.GetConfigForClient = c.answer
	} else if len(conf.Certificates) == 0 {
		return
	}
	c.conf.Store(conf)
}

// load reads the pair.
func (f Certificate) load(now time.Time) (*tls.Certificate, error) {
	one, err := tls.LoadX509KeyPair(f.Chain, f.Key)
	if err == nil && !now.Before(one.Leaf.NotAfter) {
		err = fmt.Errorf("%s: expired at %s", f.Chain, one.Leaf.NotAfter.Format(time.RFC3339))
	}
	return &one, err
}

// fingerprint tells whether the files have changed, without reading them; "" where there are none.
func (f Certificate) fingerprint() string {
	var b strings.Builder
	for _, path := range []string{f.Chain, f.Key} {
		if info, err := os.Stat(path); err == nil {
			b.WriteString(path + " " + strconv.FormatInt(info.Size(), 10) + " " + strconv.FormatInt(info.ModTime().UnixNano(), 10) + "\n")
		}
	}
	return b.String()
}

// secure does the TLS handshake of a connection; false says that there will be nothing to serve.
func (p *Proxy) secure(c *clientConn, l *Listener) bool {
	certs := p.table.Load().certs[l.Name]
	if certs == nil {
		return false
	}
	conf, err := certs.current(p)
	if err != nil {
		return false
	}
	raw := c.raw
	raw.SetDeadline(time.Now().Add(handshakeTime))
	in := newRecords(raw)
	conn := tls.Server(in, conf)
	if err := shake(conn); err != nil {
		p.log.Debug("TLS handshake failed", "listener", l.Name, "err", err)
		return false
	}
	if conn.ConnectionState().NegotiatedProtocol == acmeTLS {
		return false // it was the authority, which has seen what it came for
	}
	raw.SetDeadline(time.Time{})
	s := &secured{Conn: conn, below: raw, records: in}
	c.tls.Store(s)
	c.tcp, c.Conn = s, s
	return true
}

// shake does the handshake of a connection on a stack of its own, which the next one's takes over: it needs many times the
// stack of a connection that waits for a request, and a goroutine keeps for long what its stack has grown to.
func shake(conn *tls.Conn) error {
	done := make(chan error, 1)
	go func() { done <- conn.Handshake() }()
	return <-done
}

// agreedOn says whether the connection's TLS handshake named the protocol.
func (c *clientConn) agreedOn(protocol string) bool {
	s := c.tls.Load()
	return s != nil && s.ConnectionState().NegotiatedProtocol == protocol
}

// elsewhere is where a request over plain HTTP goes whose listener sends it to TLS: the same host and target at the port
// of the other listener.
func (l *Listener) elsewhere(q *request) *failure {
	where := "https://" + q.host
	if l.Upgrade != 443 {
		where += ":" + strconv.Itoa(l.Upgrade)
	}
	return &failure{status: 308, kind: kindRedirect, header: fields("Location", where+q.target), body: []byte{}}
}
