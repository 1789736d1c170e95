package traffic

import (
	"trellis/compose"
	"trellis/proxy"
)

// The names of the gateway's listeners in a snapshot: the plain one, and the one for TLS.
const (
	Gateway       = "gateway"
	SecureGateway = "gateway/https"
)

// Protocol is what the data plane takes a port to speak.
func Protocol(p compose.Port) string {
	switch {
	case p.Protocol == "udp":
		return proxy.UDP
	case p.AppProtocol == "tcp":
		return proxy.TCP
	case isHTTP(p.AppProtocol) || len(p.Trellis.Routes) > 0:
		return proxy.HTTP1
	}
	return proxy.Detect
}

func isHTTP(appProtocol string) bool {
	switch appProtocol {
	case "http", "http2", "h2c", "grpc", "ws":
		return true
	}
	return false
}

// HTTP2 are the ports whose program speaks HTTP/2 with prior knowledge.
func HTTP2(svc compose.Service) []int {
	var all []int
	for _, p := range svc.Ports {
		if p.AppProtocol == "grpc" || p.AppProtocol == "h2c" {
			all = append(all, p.Target)
		}
	}
	return all
}
