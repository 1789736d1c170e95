package traffic

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"net"
	"strconv"

	"trellis/compose"
	"trellis/errdefs"
	"trellis/proxy"
)

// Shift returns what leads a share of what comes to the gateway to another one, and that one as a service of one instance,
// by its address; nil where the project says nothing of it. content reads a secret by its name; while that of the authority
// can't be read or is no certificate, nothing is led there.
func Shift(p compose.Project, content func(secret string) (string, error)) (*proxy.Shift, proxy.Service, error) {
	if p.Trellis.Gateway == nil || p.Trellis.Gateway.Shift == nil {
		return nil, proxy.Service{}, nil
	}
	shift := p.Trellis.Gateway.Shift
	host, port, tls, ok := shift.Target()
	if !ok {
		return nil, proxy.Service{}, fmt.Errorf("%w: shift to %q", errdefs.ErrInvalid, shift.To)
	}
	address := Elsewhere(p)
	to := proxy.Service{Name: "http://" + address, Instances: []proxy.Instance{{ID: address, Host: host, Ready: true}}} // no name of a file
	if tls {
		to.Name = "https://" + address
		to.TLS = &proxy.UpstreamTLS{ServerName: cmp.Or(shift.ServerName, host)}
		if shift.CA != "" {
			var err error
			if to.TLS.CA, err = content(shift.CA); err != nil {
				return nil, proxy.Service{}, fmt.Errorf("shift to %s: %w", to.Name, err)
			}
			if !x509.NewCertPool().AppendCertsFromPEM([]byte(to.TLS.CA)) {
				return nil, proxy.Service{}, fmt.Errorf("%w: shift to %s: secret %s has no certificate (PEM)", errdefs.ErrInvalid, to.Name, shift.CA)
			}
		}
	}
	return &proxy.Shift{Service: to.Name, Port: port, Share: float64(shift.Share)}, to, nil
}

// Elsewhere returns the ID of the one instance that Shift leads to; "" where the project leads nothing elsewhere.
func Elsewhere(p compose.Project) string {
	if p.Trellis.Gateway == nil || p.Trellis.Gateway.Shift == nil {
		return ""
	}
	host, port, _, ok := p.Trellis.Gateway.Shift.Target()
	if !ok {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}
