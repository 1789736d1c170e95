package compose

import (
	"cmp"
	"slices"
)

// The values of tls.
const (
	TLSMutual = "mutual"
	TLSNone   = "none"
)

// Mutual says whether the program speaks mutual TLS at a port.
func (s Service) Mutual(port int) bool {
	for _, p := range s.Ports {
		if p.Target == port && p.Protocol != "udp" && p.Trellis.TLS != "" {
			return p.Trellis.TLS == TLSMutual
		}
	}
	return s.Trellis.TLS == TLSMutual
}

// MutualAnywhere says whether the program speaks mutual TLS at some port.
func (s Service) MutualAnywhere() bool {
	return s.Trellis.TLS == TLSMutual || slices.ContainsFunc(s.Ports, func(p Port) bool { return p.Trellis.TLS == TLSMutual })
}

// HasIdentity says whether instances get the files of their identity.
func (s Service) HasIdentity() bool { return s.Trellis.Identity || s.MutualAnywhere() }

// checkIdentity checks tls and identity of a service.
func (l *loading) checkIdentity(s Service, at string) {
	l.checkTLSWord(s.Trellis.TLS, at+".x-trellis.tls")
	for i, port := range s.Ports {
		balancers := l.portPath(s.Name, port, i, "proxy_protocol")
		l.checkBalancers(port.Trellis.ProxyProtocol, balancers)
		if len(port.Trellis.ProxyProtocol) > 0 && (port.Protocol == "udp" || port.Published == "" && len(port.Trellis.Routes) > 0) {
			l.errorPath(balancers, "needs a published tcp port; x-trellis.gateway has a proxy_protocol of its own")
		}
		where := l.portPath(s.Name, port, i, "tls")
		l.checkTLSWord(port.Trellis.TLS, where)
		if port.Trellis.TLS == TLSMutual && port.Protocol == "udp" {
			l.errorPath(where, "TLS needs a tcp port")
		}
	}
	first := 0
	if i := slices.IndexFunc(s.Ports, func(p Port) bool { return p.Protocol != "udp" }); i >= 0 {
		first = s.Ports[i].Target
	}
	if p := s.Trellis.Probe; p != nil && (p.HTTP != "" || p.GRPC != "") && s.Mutual(cmp.Or(p.Port, first)) {
		l.errorPath(at+".x-trellis.probe", "cannot ask a port with tls: mutual, because a probe shows no certificate; ask another port with tls: none, or write tcp: true")
	}
	if m := s.Trellis.Metrics; m != nil && s.Mutual(cmp.Or(m.Port, first)) {
		l.errorPath(at+".x-trellis.metrics", "cannot be read at a port with tls: mutual, because whoever asks shows no certificate; name another port with tls: none")
	}
}

func (l *loading) checkTLSWord(word, where string) {
	if word != "" && word != TLSMutual && word != TLSNone {
		l.errorPath(where, "%s is not known%s", quoted(word), didYouMean(word, []string{TLSMutual, TLSNone}))
	}
}
