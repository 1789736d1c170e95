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
}

// duplex is a client's connection: TCP, or TLS over it.
type duplex interface {
	net.Conn
	CloseWrite() error
	SetLinger(seconds int) error
}

// secured is a connection over TLS.
type secured struct {
	*tls.Conn
	tcp *net.TCPConn
}

func (s *secured) SetLinger(seconds int) error { return s.tcp.SetLinger(seconds) }

// CloseWrite says that nothing follows, and closes the way for it.
func (s *secured) CloseWrite() error {
	if err := s.Conn.CloseWrite(); err != nil {
		return err
	}
	return s.tcp.CloseWrite()
}

// certificates are those of a listener, read anew when their files have changed. Connections that were made before keep
// theirs.
type certificates struct {
	files []Certificate
	conf  atomic.Pointer[tls.Config] // nil: none could be read

	mu     sync.Mutex
	looked atomic.Int64 // when the files were looked at, in Unix nanoseconds
	seen   string       // what they looked like
	failed string       // the last error that was logged
}

// lookAgain is the pause between two looks at the files, that a handshake takes.
const lookAgain = time.Second

// handshakeTime bounds a TLS handshake.
const handshakeTime = 10 * time.Second

var errNoCertificate = errors.New("no certificate can be read")

// current returns the configuration for a handshake that begins now.
func (c *certificates) current(p *Proxy) (*tls.Config, error) {
	now := time.Now()
	if now.UnixNano()-c.looked.Load() >= int64(lookAgain) || c.conf.Load() == nil {
		c.look(p, now)
	}
	if conf := c.conf.Load(); conf != nil {
		return conf, nil
	}
	return nil, errNoCertificate
}

// look reads the files if they have changed. Files that can't be read change nothing.
func (c *certificates) look(p *Proxy, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked.Store(now.UnixNano())
	seen := fingerprint(c.files)
	if seen == c.seen && c.conf.Load() != nil {
		return
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	var problem error
	for _, f := range c.files {
		pair, err := tls.LoadX509KeyPair(f.Chain, f.Key)
		if err == nil && !now.Before(pair.Leaf.NotAfter) {
			err = fmt.Errorf("%s: expired at %s", f.Chain, pair.Leaf.NotAfter.Format(time.RFC3339))
		}
		if err != nil {
			problem = errors.Join(problem, err)
			continue
		}
		conf.Certificates = append(conf.Certificates, pair)
	}
	if len(conf.Certificates) > 0 && (problem == nil || c.conf.Load() == nil) {
		c.conf.Store(conf)
		c.seen = seen
	}
	if problem != nil && problem.Error() != c.failed {
		c.failed = problem.Error()
		p.log.Error("certificates can't be read; those read before stay in use", "err", problem)
	}
}

// fingerprint tells whether files have changed, without reading them.
func fingerprint(files []Certificate) string {
	var b strings.Builder
	for _, f := range files {
		for _, path := range []string{f.Chain, f.Key} {
			if info, err := os.Stat(path); err == nil {
				b.WriteString(path + " " + strconv.FormatInt(info.Size(), 10) + " " + strconv.FormatInt(info.ModTime().UnixNano(), 10) + "\n")
			}
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
	conn := tls.Server(raw, conf)
	if err := conn.Handshake(); err != nil {
		p.log.Debug("TLS handshake failed", "listener", l.Name, "err", err)
		return false
	}
	raw.SetDeadline(time.Time{})
	s := &secured{conn, raw}
	c.tls.Store(s)
	c.tcp, c.Conn = s, s
	return true
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
