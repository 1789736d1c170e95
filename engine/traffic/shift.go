package traffic

import (
	"cmp"
	"fmt"
	"net"
	"strconv"

	"trellis/compose"
	"trellis/errdefs"
	"trellis/proxy"
)

// Shift returns what leads a share of what comes to the gateway to another one, and that one as a service of one instance,
// by its address; nil where the project says nothing of it. content reads a secret by its name; while that of the authority
// can't be read, nothing is led there.
func Shift(p compose.Project, content func(secret string) (string, error)) (*proxy.Shift, proxy.Service, error) {
	if p.Trellis.Gateway == nil || p.Trellis.Gateway.Shift == nil {
		return nil, proxy.Service{}, nil
	}
	shift := p.Trellis.Gateway.Shift
	host, port, tls, ok := shift.Target()
	if !ok {
		return nil, proxy.Service{}, fmt.Errorf("%w: shift to %q", errdefs.ErrInvalid, shift.To)
	}
	address := net.JoinHostPort(host, strconv.Itoa(port))
	to := proxy.Service{Name: "http://" + address, Instances: []proxy.Instance{{ID: address, Host: host, Ready: true}}} // no name of a file
	if tls {
		to.Name = "https://" + address
		to.TLS = &proxy.UpstreamTLS{ServerName: cmp.Or(shift.ServerName, host)}
		if shift.CA != "" {
			var err error
			if to.TLS.CA, err = content(shift.CA); err != nil {
				return nil, proxy.Service{}, fmt.Errorf("shift to %s: %w", to.Name, err)
			}
		}
	}
	return &proxy.Shift{Service: to.Name, Port: port, Share: float64(shift.Share)}, to, nil
}
