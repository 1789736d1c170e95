// Package acme asks a certificate authority for certificates over ACME (RFC 8555) and keeps them. That a name is the
// gateway's is shown by files in a folder, which the data plane answers the authority from (Answers).
package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mholt/acmez/v3"
	rfc8555 "github.com/mholt/acmez/v3/acme"

	"trellis/errdefs"
	"trellis/identity"
)

// LetsEncrypt is the directory of the authority that is asked where none is named.
const LetsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

// Config says whom certificates are asked of. Dir, Answers and one of HTTP and TLS are required.
type Config struct {
	// Dir keeps accounts, certificates and what is known of the next attempt. It is made when it is needed, 0700.
	Dir string
	// Answers is the folder of the files that the data plane answers the authority from.
	Answers string
	// Directory is the URL of the authority; "": LetsEncrypt.
	Directory string
	// Email is the account's address, "" for none.
	Email string
	// HTTP and TLS say whether the authority may be answered over HTTP (http-01, at port 80) and TLS (tls-alpn-01, at 443).
	HTTP, TLS bool
	// Client speaks to the authority; nil: one that trusts what the machine trusts.
	Client *http.Client
	Log    *slog.Logger // nil: nothing is logged
}

// Client asks for certificates. It is for one goroutine.
type Client struct {
	cfg   Config
	asked *patience
	acme  *acmez.Client
	held  map[string]State // what could not be written down, so that a full disk has nobody asked without a pause
}

// New returns a client; it asks nothing yet, and removes the answers that an earlier one has left behind.
func New(cfg Config) (*Client, error) {
	if cfg.Directory == "" {
		cfg.Directory = LetsEncrypt
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Transport: http.DefaultTransport}
	}
	for _, dir := range []string{cfg.Dir, httpAnswers(cfg.Answers), tlsAnswers(cfg.Answers)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("keep certificates: %w", err)
		}
	}
	c := &Client{cfg: cfg, asked: &patience{next: cfg.Client.Transport}, held: map[string]State{}}
	if c.asked.next == nil {
		c.asked.next = http.DefaultTransport
	}
	c.acme = &acmez.Client{
		Client: &rfc8555.Client{
			Directory: cfg.Directory, UserAgent: "trellis", PollTimeout: attemptTime, Logger: slog.New(slog.DiscardHandler),
			HTTPClient: &http.Client{Transport: c.asked, Timeout: requestTime},
		},
		ChallengeSolvers: map[string]acmez.Solver{},
	}
	if cfg.HTTP {
		c.acme.ChallengeSolvers[rfc8555.ChallengeTypeHTTP01] = overHTTP{httpAnswers(cfg.Answers)}
	}
	if cfg.TLS {
		c.acme.ChallengeSolvers[rfc8555.ChallengeTypeTLSALPN01] = overTLS{tlsAnswers(cfg.Answers)}
	}
	for _, dir := range []string{httpAnswers(cfg.Answers), tlsAnswers(cfg.Answers)} {
		if err := clearDir(dir); err != nil {
			return nil, fmt.Errorf("remove old answers: %w", err)
		}
	}
	return c, nil
}

const (
	attemptTime = 2 * time.Minute // for one certificate, the authority's looks at the name included
	requestTime = 30 * time.Second
)

// ChainFile and KeyFile return where the certificate of name and its key are kept in dir, as PEM.
func ChainFile(dir, name string) string { return filepath.Join(dir, fileName(name)+".crt") }
func KeyFile(dir, name string) string   { return filepath.Join(dir, fileName(name)+".key") }

func stateFile(dir, name string) string { return filepath.Join(dir, fileName(name)+".json") }

// fileName keeps a name from leading out of its folder: names are of letters, digits, dots and dashes.
func fileName(name string) string {
	return strings.ReplaceAll(strings.ToLower(name), string(filepath.Separator), "_")
}

// State is what is known of a name's certificate beside the certificate itself.
type State struct {
	Directory string    `json:"directory"`         // of the authority that was asked last
	Issuer    string    `json:"issuer,omitempty"`  // directory of the one that issued the certificate; "": unknown
	Account   string    `json:"account,omitempty"` // URL of the one that had ordered it; "": unknown
	Failures  int       `json:"failures,omitempty"`
	Error     string    `json:"error,omitempty"`    // of the last attempt; "": it succeeded
	Next      time.Time `json:"next,omitzero"`      // after a failure: not before this time
	Waits     bool      `json:"waits,omitempty"`    // the authority itself has said Next
	Suggested time.Time `json:"suggested,omitzero"` // when the authority wants it renewed (RFC 9773)
	AskAgain  time.Time `json:"ask_again,omitzero"` // for Suggested: not before this time
}

// ReadState returns what is known of name; the zero State where nothing is.
func ReadState(dir, name string) (State, error) {
	var s State
	b, err := os.ReadFile(stateFile(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return State{}, fmt.Errorf("read what is known of the certificate of %s: %w", name, err)
	}
	return s, nil
}

// believed is s without times that lie so far ahead that a clock must have been set back since they were written.
func (s State) believed(now time.Time) State {
	if s.Next.After(now.Add(longestPause)) {
		s.Next, s.Waits = time.Time{}, false
	}
	if s.AskAgain.After(now.Add(longestPause)) {
		s.AskAgain = time.Time{}
	}
	return s
}

func (c *Client) write(name string, s State) error {
	b, err := json.Marshal(s)
	if err == nil {
		err = identity.WriteFile(stateFile(c.cfg.Dir, name), append(b, '\n'))
	}
	if err != nil {
		c.held[name] = s
		return fmt.Errorf("write down what is known of the certificate of %s: %w", name, err)
	}
	delete(c.held, name)
	return nil
}

// Failure says why there is no certificate, and when it will be asked for again.
type Failure struct {
	Name string
	Next time.Time
	Err  error
}

func (f *Failure) Error() string {
	return fmt.Sprintf("no certificate for %s: %v; asked again at %s", f.Name, f.Err, f.Next.Format("15:04:05 MST"))
}

func (f *Failure) Unwrap() error { return f.Err }

// Renew asks for a certificate of name if there is none, or none of this authority, or two thirds of its life are over, or
// the authority wants it renewed; it says whether there is a new one. An attempt takes up to some minutes. One that failed
// is a *Failure, and the next calls do nothing until its time has come; with impatient they do, unless it was the
// authority that asked for the pause.
func (c *Client) Renew(ctx context.Context, name string, now time.Time, impatient bool) (issued bool, err error) {
	s, err := ReadState(c.cfg.Dir, name)
	if held, ok := c.held[name]; ok {
		s, err = held, nil
	}
	if err != nil {
		c.cfg.Log.Warn("begun anew", "err", err)
		s = State{}
	}
	s = s.believed(now)
	if s.Directory != c.cfg.Directory { // what another one has said is of no account
		s = State{Directory: c.cfg.Directory, Issuer: s.Issuer, Account: s.Account}
		err = c.write(name, s)
	}
	have := c.read(name)
	if s.Issuer != "" && s.Issuer != c.cfg.Directory {
		have = nil
	}
	if have != nil && err == nil {
		s, err = c.suggested(ctx, name, have, s, now)
	}
	if err != nil {
		return false, err
	}
	if have != nil && !due(have, s, now) || now.Before(s.Next) && (s.Waits || !impatient) {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	account, err := c.obtain(ctx, name, have, s.Account, now)
	if err != nil {
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return false, context.Canceled
		}
		return false, c.fail(name, s, err, now)
	}
	c.cfg.Log.Info("certificate issued", "name", name, "authority", c.cfg.Directory)
	return true, c.write(name, State{Directory: c.cfg.Directory, Issuer: c.cfg.Directory, Account: account})
}

// due says whether a certificate is to be renewed.
func due(have *x509.Certificate, s State, now time.Time) bool {
	life := have.NotAfter.Sub(have.NotBefore)
	return !now.Before(have.NotBefore.Add(life*2/3)) || !s.Suggested.IsZero() && !now.Before(s.Suggested)
}

// read returns the certificate of name that is kept, nil where there is none that serves.
func (c *Client) read(name string) *x509.Certificate {
	pair, err := tls.LoadX509KeyPair(ChainFile(c.cfg.Dir, name), KeyFile(c.cfg.Dir, name))
	if err != nil || pair.Leaf.VerifyHostname(name) != nil {
		return nil
	}
	return pair.Leaf
}

// fail writes a failed attempt down.
func (c *Client) fail(name string, s State, err error, now time.Time) error {
	s.Failures++
	s.Error, s.Next, s.Waits = explain(err), now.Add(pauseAfter(s.Failures)), false
	var problem rfc8555.Problem
	if errors.As(err, &problem) && problem.Type == rfc8555.ProblemTypeRateLimited {
		s.Next, s.Waits = now.Add(max(pauseAfter(s.Failures), limitedPause)), true
	}
	if until := c.asked.until(); until.After(s.Next) {
		s.Next, s.Waits = until, true
	}
	return errors.Join(&Failure{Name: name, Next: s.Next, Err: fmt.Errorf("%w: %s", errdefs.ErrUnavailable, s.Error)}, c.write(name, s))
}

// pauses are those after failed attempts. Each may be two failed looks at the name, and Let's Encrypt takes five an hour.
var pauses = [...]time.Duration{15 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour}

// limitedPause is the least where the authority was asked too often and does not say for how long it wants to be left alone.
const limitedPause = time.Hour

// longestPause bounds every pause, also one that an authority asks for: a certificate of three months has one left when it is due.
const longestPause = 7 * 24 * time.Hour

func pauseAfter(failures int) time.Duration { return pauses[min(failures, len(pauses))-1] }
