package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"maps"
	"slices"
	"time"

	"trellis/identity"
)

// asking says whether handshakes ask clients for a certificate. It is a part of certificates.
type asking struct {
	list    string // the authorities of all schemes that take one, as PEM; "": nobody is asked
	require bool   // a handshake without one that a scheme takes fails
}

// asksClients returns what handshakes at a listener ask.
func (s *Snapshot) asksClients(l *Listener) asking {
	a := asking{require: l.RequireClientCertificate}
	for _, name := range slices.Sorted(maps.Keys(s.Auth)) {
		if c := s.Auth[name].ClientCertificate; c != nil {
			a.list += c.CA + "\n"
		}
	}
	return a
}

// apply has handshakes ask. Which certificate is good is decided where it is used: by request, so that what has expired or
// was taken out of the file since is no way in.
func (a asking) apply(conf *tls.Config, p *Proxy) {
	if a.list != "" {
		conf.ClientAuth = tls.RequestClientCert
		conf.ClientCAs = x509.NewCertPool()
		conf.ClientCAs.AppendCertsFromPEM([]byte(a.list)) // a hint for clients that have several
	}
	if a.require {
		conf.ClientAuth = tls.RequireAnyClientCert
		conf.VerifyConnection = func(st tls.ConnectionState) error {
			now := time.Now()
			for _, s := range p.table.Load().schemes {
				if s.clients == nil {
					continue
				}
				if _, err := s.clients.Verify(st.PeerCertificates, now); err == nil {
					return nil
				}
			}
			return errClientCertificate
		}
	}
}

var errClientCertificate = errors.New("no client certificate that is accepted here")

// shown is who a scheme has found a connection's client to be by its certificate.
type shown struct {
	scheme *scheme
	caller *identity.Caller
}

// certified returns who the client has shown itself to be by a certificate.
func (s *scheme) certified(p *Proxy, q *request, now time.Time) (*identity.Caller, *failure) {
	if q.secured == nil {
		return nil, &failure{status: 403, kind: kindDenied, detail: "this route needs a client certificate, which is shown over TLS"}
	}
	if was := q.secured.shown.Load(); was != nil && was.scheme == s && now.Before(was.caller.Expires) {
		return was.caller, nil
	}
	chain := q.secured.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return nil, &failure{status: 403, kind: kindDenied, detail: "this route needs a client certificate"}
	}
	caller, err := s.clients.Verify(chain, now)
	if err != nil {
		p.log.Debug("client certificate refused", "auth", s.name, "err", err)
		return nil, &failure{status: 403, kind: kindDenied, detail: "the client certificate is not accepted here"}
	}
	q.secured.shown.Store(&shown{s, caller})
	return caller, nil
}
