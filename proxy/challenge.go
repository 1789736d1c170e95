package proxy

import (
	"crypto/tls"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// An authority that is asked for a certificate over ACME comes to see that a name is this gateway's. What it is answered
// is in files: whoever asks for the certificate puts them into Listener.Challenges, http-01/TOKEN for a request (RFC 8555,
// section 8.3) and tls-alpn-01/NAME.crt and NAME.key for a handshake (RFC 8737).
const (
	challengePath = "/.well-known/acme-challenge/"
	acmeTLS       = "acme-tls/1"
)

// challenge answers an authority's request; nil where it is none that we have asked for, which is the program's then.
func (l *Listener) challenge(q *request) *failure {
	token, ok := strings.CutPrefix(q.path, challengePath)
	if !ok || !isChallenge(token) || q.method != http.MethodGet && q.method != http.MethodHead {
		return nil
	}
	answer, err := os.ReadFile(filepath.Join(l.Challenges, "http-01", token))
	if err != nil {
		return nil
	}
	return &failure{status: 200, kind: kindChallenge, header: fields("Content-Type", "application/octet-stream"), body: answer}
}

// isChallenge says whether text can be a token: base64url.
func isChallenge(text string) bool {
	for i := range len(text) {
		if c := text[i]; (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return text != "" && len(text) <= 256
}

var errNoChallenge = errors.New("no certificate is asked for under this name")

// answer is the configuration for an authority's handshake; nil for those of everybody else.
func (c *certificates) answer(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != acmeTLS {
		return nil, nil
	}
	name, ok := normalHost(hello.ServerName)
	if !ok {
		return nil, errNoChallenge
	}
	at := filepath.Join(c.answers, "tls-alpn-01", name)
	one, err := Certificate{Chain: at + ".crt", Key: at + ".key"}.load(time.Now())
	if err != nil {
		return nil, errNoChallenge
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{acmeTLS}, Certificates: []tls.Certificate{*one}}, nil
}
