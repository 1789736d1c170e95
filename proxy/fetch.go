package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"trellis/errdefs"
	"trellis/identity"
)

// This file fetches the keys of issuers. A host that is one of the project's services is called like any other request;
// the rest goes out by net/http, to no address that a name has no business with.

// fetchKeys returns an issuer's key set.
func (p *Proxy) fetchKeys(ctx context.Context, scheme string, conf JWTAuth) ([]byte, error) {
	where := conf.JWKS
	var err error
	if where == "" {
		where, err = p.discover(ctx, conf.Issuer)
	}
	var set []byte
	if err == nil {
		set, err = p.get(ctx, where)
	}
	if err != nil {
		p.log.Error("keys of an issuer can't be fetched", "auth", scheme, "url", where, "err", err)
		return nil, err
	}
	return set, nil
}

// discover asks an issuer where its keys are (OpenID Connect Discovery 1.0, section 4).
func (p *Proxy) discover(ctx context.Context, issuer string) (string, error) {
	b, err := p.get(ctx, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return "", err
	}
	return keysURL(issuer, b)
}

// keysURL returns where an issuer's discovery document says that its keys are.
func keysURL(issuer string, document []byte) (string, error) {
	var doc struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(document, &doc); err != nil || doc.Issuer != issuer || doc.JWKS == "" {
		return "", fmt.Errorf("discover the keys of %s: %w: its document names another issuer or no keys", issuer, errdefs.ErrInvalid)
	}
	// Whoever is on the way could put keys of their own in the place of those that come without TLS, and sign any token.
	if isHTTPS(issuer) && !isHTTPS(doc.JWKS) {
		return "", fmt.Errorf("discover the keys of %s: %w: its document names %s, which is not https as the issuer is: have its jwks_uri begin with https://, or set jwks",
			issuer, errdefs.ErrInvalid, doc.JWKS)
	}
	return doc.JWKS, nil
}

func isHTTPS(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "https"
}

// get returns the body of an answer 200, of at most identity.MaxKeySet bytes.
func (p *Proxy) get(ctx context.Context, where string) ([]byte, error) {
	u, err := url.Parse(where)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return nil, fmt.Errorf("fetch %s: %w: not an http or https URL", where, errdefs.ErrInvalid)
	}
	if s := p.table.Load().services[u.Hostname()]; s != nil && u.Scheme == "http" {
		return p.getInside(ctx, s, u)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w: %w", where, errdefs.ErrInvalid, err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := outside(u.Hostname()).Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w: %w", where, errdefs.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, identity.MaxKeySet+1))
	return fetched(where, resp.StatusCode, b, err)
}

func fetched(where string, status int, b []byte, err error) ([]byte, error) {
	switch {
	case err != nil:
		return nil, fmt.Errorf("fetch %s: %w: %w", where, errdefs.ErrUnavailable, err)
	case status != http.StatusOK:
		return nil, fmt.Errorf("fetch %s: %w: the answer is %d", where, errdefs.ErrUnavailable, status)
	case len(b) > identity.MaxKeySet:
		return nil, fmt.Errorf("fetch %s: %w: the answer is larger than %d KiB", where, errdefs.ErrInvalid, identity.MaxKeySet>>10)
	}
	return b, nil
}

// getInside is get of one of the project's services.
func (p *Proxy) getInside(ctx context.Context, s *service, u *url.URL) ([]byte, error) {
	port, _ := strconv.Atoi(u.Port())
	if port == 0 {
		port = 80
	}
	q := &request{
		method: "GET", authority: u.Host, host: u.Hostname(), path: u.EscapedPath(), target: u.RequestURI(), scheme: "http", safe: true,
		header: fields("Accept", "application/json"),
	}
	q.setID()
	defer q.leave()
	resp, _, fail := p.call(ctx, destination{svc: s, port: port, timeout: forwardTime}, q)
	if fail != nil {
		return nil, fmt.Errorf("fetch %s: %w: %w", u, errdefs.ErrUnavailable, fail)
	}
	stop := context.AfterFunc(ctx, resp.abort)
	defer stop()
	status := resp.status
	b, whole := drainBody(resp, identity.MaxKeySet+1)
	resp.close(whole)
	if !whole && len(b) <= identity.MaxKeySet {
		return nil, fmt.Errorf("fetch %s: %w: the answer broke off", u, errdefs.ErrUnavailable)
	}
	return fetched(u.String(), status, b, nil)
}

// outside is a client for one fetch from a host. A name must not lead to this machine or to a network's own addresses
// (where clouds keep credentials); whoever wants that writes the address. A redirect stays at the host.
func outside(host string) *http.Client {
	dialer := &net.Dialer{Timeout: 3 * time.Second}
	if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(address)
			if ip := a.Addr().Unmap(); err != nil || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
				return fmt.Errorf("%w: %s is at %s, which is not called by a name", errdefs.ErrInvalid, host, address)
			}
			return nil
		}
	}
	return &http.Client{
		Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true, TLSHandshakeTimeout: 3 * time.Second, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 3 || req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
				return errors.New("redirected elsewhere")
			}
			return nil
		},
	}
}
