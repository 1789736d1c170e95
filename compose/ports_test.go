package compose

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPortsKeepTheirExtension: however the files write a port, and in however many of them, its x-trellis is its own.
func TestPortsKeepTheirExtension(t *testing.T) {
	const begin = "x-trellis: {gateway: {policy: {auth: none}}}\nservices: {web: {image: x, ports: ["
	for name, c := range map[string]struct {
		base, over string
		want       []PortExtension
	}{
		"a protocol in capitals":  {base: "{target: 80, protocol: TCP, x-trellis: {tls: mutual, routes: [{path: /a}]}}", want: []PortExtension{{TLS: TLSMutual, Routes: []Route{{Path: "/a"}}}}},
		"a protocol that is none": {base: "{target: 80, protocol: \"${P:-}\", x-trellis: {tls: mutual}}", want: []PortExtension{{TLS: TLSMutual}}},
		"a published port that is none": {base: "{target: 80, published: \"\", x-trellis: {routes: [{path: /a}]}}",
			want: []PortExtension{{Routes: []Route{{Path: "/a"}}}}},
		"any free port": {base: "{target: 80, published: 0, x-trellis: {routes: [{path: /a}]}}, \"0:81\"",
			want: []PortExtension{{Routes: []Route{{Path: "/a"}}}, {}}},
		"any free port beside one": {base: "\"8080:80\"", over: "{target: 80, published: 0, x-trellis: {routes: [{path: /a}]}}",
			want: []PortExtension{{}, {Routes: []Route{{Path: "/a"}}}}},
		"a port that names only its target": {
			base: "{target: 80, published: 8080, x-trellis: {proxy_protocol: [10.0.0.1], routes: [{path: /a}]}}",
			over: "{target: 80, x-trellis: {tls: mutual, proxy_protocol: [10.0.0.2], routes: [{path: /b}]}}",
			want: []PortExtension{{TLS: TLSMutual, ProxyProtocol: []string{"10.0.0.1", "10.0.0.2"}, Routes: []Route{{Path: "/a"}, {Path: "/b"}}}}},
		"one that says nothing of tls": {
			base: "{target: 80, published: 8080, x-trellis: {tls: mutual}}", over: "{target: 80, app_protocol: http}",
			want: []PortExtension{{TLS: TLSMutual}}},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"compose.yaml": begin + c.base + "]}}\n"}
			if c.over != "" {
				files["compose.override.yaml"] = "services: {web: {ports: [" + c.over + "]}}\n"
			}
			p, _, err := Load(context.Background(), Options{WorkingDir: write(t, files), Environ: []string{}})
			if err != nil {
				t.Fatal(err)
			}
			var got []PortExtension
			for _, port := range p.Services["web"].Ports {
				got = append(got, port.Trellis)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestPlacesOfPorts: what is wrong with a port is said where it stands, also where others were joined to one before it.
func TestPlacesOfPorts(t *testing.T) {
	dir := write(t, map[string]string{
		"a.yaml": "services:\n  web:\n    image: x\n    ports:\n      - 8080:80\n",
		"b.yaml": "services:\n  web:\n    ports:\n      - target: 80\n        x-trellis: {tls: mutal, proxy_protocol: [here]}\n",
		"c.yaml": "services:\n  web:\n    ports:\n      - target: 53\n        published: 53\n        protocol: udp\n        x-trellis: {tls: mutual}\n",
	})
	_, _, err := Load(context.Background(), Options{WorkingDir: dir, Files: []string{"a.yaml", "b.yaml", "c.yaml"}, Environ: []string{}})
	const want = `b.yaml:5:26: services.web.ports[1].x-trellis.tls: "mutal" is not known; did you mean mutual?
b.yaml:5:50: services.web.ports[1].x-trellis.proxy_protocol[0]: "here" is not an address: write one such as 10.0.0.7, or 10.0.0.0/24 for many
c.yaml:7:26: services.web.ports[2].x-trellis.tls: TLS needs a tcp port`
	if err == nil {
		t.Fatal("loaded")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}

// TestPlacesOfAddresses: an address that is none is told of where it stands, each of several, and beside what else is wrong.
func TestPlacesOfAddresses(t *testing.T) {
	dir := write(t, map[string]string{"compose.yaml": `services:
  web:
    image: x
    ports:
      - 8080:80
      - {target: 81, published: 8081, host_ip: localhost}
      - target: 82
        published: 8082
        host_ip: "${BIND:-}"
  api: {image: x, ports: [{target: 99999, host_ip: "::1"}]}
`})
	_, _, err := Load(context.Background(), Options{WorkingDir: dir, Environ: []string{}})
	const want = `compose.yaml:6:48: services.web.ports[1].host_ip: "localhost" is not an IP address: write one, or leave host_ip out for all of this machine's
compose.yaml:9:18: services.web.ports[2].host_ip: "" is not an IP address: write one, or leave host_ip out for all of this machine's
compose.yaml:10:27: services.api.ports[0]: the target port is 99999: it must be from 1 to 65535`
	if err == nil {
		t.Fatal("loaded")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}
