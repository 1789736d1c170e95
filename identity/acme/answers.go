package acme

import (
	"context"
	"crypto/ecdsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	rfc8555 "github.com/mholt/acmez/v3/acme"

	"trellis/identity"
)

// The two folders within Config.Answers. For http-01 a file is named after the token of a request and holds the answer; for
// tls-alpn-01 NAME.crt and NAME.key are what a handshake for a name is answered with.
func httpAnswers(dir string) string { return filepath.Join(dir, "http-01") }
func tlsAnswers(dir string) string  { return filepath.Join(dir, "tls-alpn-01") }

// overHTTP is http-01.
type overHTTP struct{ dir string }

// Present implements acmez.Solver.
func (o overHTTP) Present(_ context.Context, ch rfc8555.Challenge) error {
	return identity.WriteFile(filepath.Join(o.dir, filepath.Base(ch.Token)), []byte(ch.KeyAuthorization))
}

// CleanUp implements acmez.Solver.
func (o overHTTP) CleanUp(_ context.Context, ch rfc8555.Challenge) error {
	return remove(filepath.Join(o.dir, filepath.Base(ch.Token)))
}

// overTLS is tls-alpn-01 (RFC 8737).
type overTLS struct{ dir string }

// Present implements acmez.Solver.
func (o overTLS) Present(_ context.Context, ch rfc8555.Challenge) error {
	pair, err := acmez.TLSALPN01ChallengeCert(ch)
	if err != nil {
		return err
	}
	signer, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("the challenge's key is of another kind")
	}
	key, err := identity.EncodeKey(signer)
	if err != nil {
		return err
	}
	if err := identity.WriteFile(KeyFile(o.dir, ch.Identifier.Value), key); err != nil {
		return err
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	return identity.WriteFile(ChainFile(o.dir, ch.Identifier.Value), chain)
}

// CleanUp implements acmez.Solver.
func (o overTLS) CleanUp(_ context.Context, ch rfc8555.Challenge) error {
	return errors.Join(remove(ChainFile(o.dir, ch.Identifier.Value)), remove(KeyFile(o.dir, ch.Identifier.Value)))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func clearDir(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// explain says what an authority's refusal means and what helps.
func explain(err error) string {
	var p rfc8555.Problem
	if !errors.As(err, &p) {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Sprintf("the authority was not done within %s", attemptTime)
		}
		return err.Error()
	}
	switch p.Type {
	case rfc8555.ProblemTypeConnection, rfc8555.ProblemTypeUnauthorized, rfc8555.ProblemTypeIncorrectResponse, rfc8555.ProblemTypeTLS:
		return fmt.Sprintf("the authority did not get to this gateway under the name: %s (it comes to port 80 or 443 of the address that the name has in the world's DNS: these must lead here)", p.Detail)
	case rfc8555.ProblemTypeDNS:
		return fmt.Sprintf("the authority does not find the name in the world's DNS: %s (give it an A or AAAA record with this machine's address)", p.Detail)
	case rfc8555.ProblemTypeCAA:
		return fmt.Sprintf("a CAA record of the name forbids this authority: %s", p.Detail)
	case rfc8555.ProblemTypeRateLimited:
		return fmt.Sprintf("the authority was asked too often: %s", p.Detail)
	case rfc8555.ProblemTypeExternalAccountRequired:
		return "the authority takes only accounts that were made with it before (external account binding), which Trellis can't: name another directory"
	}
	return fmt.Sprintf("the authority refused: %s", p.Detail)
}

// patience passes requests on, and remembers for how long the authority wants to be left alone.
type patience struct {
	next http.RoundTripper

	mu    sync.Mutex
	after time.Time
}

// RoundTrip implements http.RoundTripper.
func (p *patience) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := p.next.RoundTrip(r)
	if err != nil || res.StatusCode != http.StatusTooManyRequests && res.StatusCode != http.StatusServiceUnavailable {
		return res, err
	}
	text := res.Header.Get("Retry-After")
	latest := time.Now().Add(longestPause)
	after, bad := http.ParseTime(text)
	if seconds, err := strconv.Atoi(text); err == nil && seconds >= 0 {
		after, bad = time.Now().Add(time.Duration(min(seconds, int(longestPause/time.Second)))*time.Second), nil
	}
	if after.After(latest) {
		after = latest
	}
	if bad == nil {
		p.mu.Lock()
		p.after = after
		p.mu.Unlock()
	}
	return res, nil
}

// until returns the time before which the authority does not want to be asked; the zero time where it has said nothing.
func (p *patience) until() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.after
}
