package acme_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"trellis/errdefs"
	"trellis/identity/acme"
	"trellis/identity/acmetest"
	"trellis/proxy"
)

// world is an authority, a gateway that it comes to, and what asks for certificates.
type world struct {
	t       *testing.T
	ca      *acmetest.Server
	cfg     acme.Config
	secure  string
	answers string
}

// feed hands a data plane its sockets and its only snapshot.
type feed struct{ update proxy.Update }

func (f feed) Follow(ctx context.Context, update func(proxy.Update)) error {
	update(f.update)
	<-ctx.Done()
	return ctx.Err()
}

func newWorld(t *testing.T, life time.Duration, hosts ...string) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, answers: filepath.Join(dir, "answers")}
	listeners := []proxy.Listener{
		{Name: "plain", Protocol: proxy.HTTP1, Challenges: w.answers},
		{Name: "secure", Protocol: proxy.HTTP1, Challenges: w.answers, TLS: true},
	}
	for _, h := range hosts {
		listeners[1].Certificates = append(listeners[1].Certificates, proxy.Certificate{
			Chain: acme.ChainFile(filepath.Join(dir, "certs"), h), Key: acme.KeyFile(filepath.Join(dir, "certs"), h), Pending: true,
		})
	}
	ports := map[string]int{}
	sockets := map[string]*os.File{}
	for i := range listeners {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		if sockets[listeners[i].Name], err = ln.(*net.TCPListener).File(); err != nil {
			t.Fatal(err)
		}
		listeners[i].Address = ln.Addr().String()
		ports[listeners[i].Name] = ln.Addr().(*net.TCPAddr).Port
	}
	w.secure = listeners[1].Address
	p := proxy.New(proxy.Config{Linger: time.Millisecond, Grace: time.Second, Feed: feed{proxy.Update{
		Sockets: sockets, Snapshot: &proxy.Snapshot{Project: "test", Epoch: 1, Version: 1, Listeners: listeners},
	}}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.ca = acmetest.Start(t, ports["plain"], ports["secure"], life)
	w.cfg = acme.Config{
		Dir: filepath.Join(dir, "certs"), Answers: w.answers, Directory: w.ca.Directory, Email: "ops@example.org", HTTP: true, TLS: true, Client: w.ca.Client,
	}
	return w
}

func (w *world) client() *acme.Client {
	w.t.Helper()
	c, err := acme.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// renew fails the test unless Renew says want, without an error.
func (w *world) renew(c *acme.Client, name string, at time.Time, want bool) {
	w.t.Helper()
	if got, err := c.Renew(w.t.Context(), name, at, false); got != want || err != nil {
		w.t.Fatalf("renew %s at %s: %v, %v", name, at.Format(time.RFC3339), got, err)
	}
}

// leaf returns the certificate that the gateway shows, verified.
func (w *world) leaf(name string) (*x509.Certificate, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.ca.Roots())
	conn, err := tls.Dial("tcp", w.secure, &tls.Config{ServerName: name, RootCAs: roots})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// shown waits until the gateway shows a certificate for name that verifies and is not not.
func (w *world) shown(name string, not *x509.Certificate) *x509.Certificate {
	w.t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var leaf *x509.Certificate
		if leaf, err = w.leaf(name); err == nil && (not == nil || leaf.SerialNumber.Cmp(not.SerialNumber) != 0) {
			return leaf
		}
	}
	w.t.Fatalf("no new certificate for %s is shown: %v", name, err)
	return nil
}

func empty(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"http-01", "tls-alpn-01"} {
		if list, err := os.ReadDir(filepath.Join(dir, name)); err != nil || len(list) > 0 {
			t.Errorf("%s holds %v, %v", name, list, err)
		}
	}
}

// TestObtain: both challenges lead to a certificate that the gateway shows without being told, kept with its account and
// renewed when two thirds of its life are over.
func TestObtain(t *testing.T) {
	t.Parallel()
	for _, challenge := range []string{"http-01", "tls-alpn-01"} {
		t.Run(challenge, func(t *testing.T) {
			w := newWorld(t, 24*time.Hour, "shop.example.org")
			w.ca.Silent = true
			w.cfg.HTTP, w.cfg.TLS = challenge == "http-01", challenge == "tls-alpn-01"
			if _, err := w.leaf("shop.example.org"); err == nil {
				t.Fatal("a handshake without a certificate")
			}
			c := w.client()
			now := time.Now()
			w.renew(c, "shop.example.org", now, true)
			first := w.shown("shop.example.org", nil)
			empty(t, w.answers)
			w.renew(c, "shop.example.org", now, false)
			w.renew(w.client(), "shop.example.org", now.Add(15*time.Hour+30*time.Minute), false) // after a restart too
			if n := w.ca.Orders.Load(); n != 1 {
				t.Errorf("%d orders for one certificate", n)
			}
			w.renew(w.client(), "shop.example.org", now.Add(16*time.Hour+time.Minute), true)
			second := w.shown("shop.example.org", first)
			if second.NotAfter.Before(first.NotAfter) {
				t.Errorf("renewed until %s, before %s", second.NotAfter, first.NotAfter)
			}
			accounts, err := filepath.Glob(filepath.Join(w.cfg.Dir, "account-*.json"))
			if err != nil || len(accounts) != 1 {
				t.Fatalf("accounts: %v, %v", accounts, err)
			}
			for _, file := range append(accounts, acme.KeyFile(w.cfg.Dir, "shop.example.org")) {
				if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v, %v", file, info.Mode(), err)
				}
			}
			w.cfg.Email = "other@example.org" // which the account gets told
			w.renew(w.client(), "shop.example.org", now.Add(20*time.Hour), true)
			var account struct{ Contact []string }
			if b, err := os.ReadFile(accounts[0]); err != nil || json.Unmarshal(b, &account) != nil || len(account.Contact) != 1 || account.Contact[0] != "mailto:other@example.org" {
				t.Errorf("account: %+v, %v", account, err)
			}
		})
	}
}

// TestOtherChallenge: where one way does not lead here the other one is taken, in the same attempt.
func TestOtherChallenge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour, "shop.example.org")
	closed := acmetest.Start(t, 1, port(t, w.secure), time.Hour) // nobody listens at port 1
	w.cfg.Directory, w.cfg.Client = closed.Directory, closed.Client
	w.renew(w.client(), "shop.example.org", time.Now(), true)
}

func port(t *testing.T, address string) (n int) {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err == nil {
		_, err = fmt.Sscan(text, &n)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestFailures: what fails is said with what helps, is asked for again after a pause, also after a restart, and keeps no
// other name from its certificate.
func TestFailures(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour, "shop.example.org")
	gone := "a" + acmetest.Missing
	now := time.Now()
	c := w.client()
	fails := func(c *acme.Client, at time.Time, impatient bool, pause time.Duration, want string) {
		t.Helper()
		_, err := c.Renew(t.Context(), gone, at, impatient)
		var f *acme.Failure
		if !errors.As(err, &f) || !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), want) || (f.Next.Sub(at)-pause).Abs() > 2*time.Minute {
			t.Fatalf("%v (%+v), want %q and a pause of %s", err, f, want, pause)
		}
	}
	fails(c, now, false, 15*time.Minute, "Could not resolve")
	orders := w.ca.Orders.Load()
	w.renew(w.client(), gone, now.Add(14*time.Minute), false)
	w.renew(c, "shop.example.org", now, true)
	if n := w.ca.Orders.Load(); n != orders+1 {
		t.Errorf("asked in the pause: %d orders after %d", n, orders)
	}
	fails(w.client(), now.Add(16*time.Minute), false, time.Hour, gone)
	fails(c, now.Add(17*time.Minute), true, 3*time.Hour, gone) // somebody wants it now
	empty(t, w.answers)

	// The authority wants to be left alone: for as long as it says, whoever is impatient.
	w.ca.Refuse = tooOften("86400")
	fails(c, now.Add(17*time.Minute), true, 24*time.Hour-17*time.Minute, "asked too often: too many failed authorizations")
	w.ca.Refuse = nil
	orders = w.ca.Orders.Load()
	if issued, err := w.client().Renew(t.Context(), gone, now.Add(20*time.Hour), true); issued || err != nil {
		t.Errorf("in the authority's pause: %v, %v", issued, err)
	}
	if n := w.ca.Orders.Load(); n != orders {
		t.Errorf("asked in the authority's pause: %d orders after %d", n, orders)
	}
	if s, err := acme.ReadState(w.cfg.Dir, gone); err != nil || s.Failures != 4 || !s.Waits || !strings.Contains(s.Error, "too often") {
		t.Errorf("state: %+v, %v", s, err)
	}
}

// tooOften refuses orders as an authority does that was asked too often, and asked again not before after.
func tooOften(after string) func(http.ResponseWriter, *http.Request) bool {
	return func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/order-plz") {
			return false
		}
		rw.Header().Set("Content-Type", "application/problem+json")
		rw.Header().Set("Retry-After", after)
		rw.Header().Set("Replay-Nonce", "none")
		rw.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(rw, `{"type":"urn:ietf:params:acme:error:rateLimited","status":429,"detail":"too many failed authorizations (5) recently"}`)
		return true
	}
}

// TestAuthorityChanges: another authority is asked at once, whatever the first has said, with an account of its own; one
// that has forgotten the account gets a new one.
func TestAuthorityChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour, "shop.example.org")
	now := time.Now()
	w.renew(w.client(), "shop.example.org", now, true)
	first := w.shown("shop.example.org", nil)
	other := acmetest.Start(t, 1, port(t, w.secure), time.Hour)
	other.Silent = true
	ca := w.ca
	w.ca, w.cfg.Directory, w.cfg.Client = other, other.Directory, other.Client
	w.renew(w.client(), "shop.example.org", now, true)
	w.shown("shop.example.org", first)
	accounts, err := filepath.Glob(filepath.Join(w.cfg.Dir, "account-*.json"))
	if err != nil || len(accounts) != 2 {
		t.Fatalf("accounts: %v, %v", accounts, err)
	}
	w.ca, w.cfg.Directory, w.cfg.Client = ca, ca.Directory, ca.Client
	for _, file := range accounts { // as if its authority had lost it
		b, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, []byte(strings.Replace(string(b), "/my-account/", "/my-account/0", 1)), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.renew(w.client(), "shop.example.org", now, true)
}

// TestSuggestedRenewal: an authority that has to revoke a certificate has it renewed before two thirds of its life are over.
func TestSuggestedRenewal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 24*time.Hour, "shop.example.org")
	now := time.Now()
	c := w.client()
	w.renew(c, "shop.example.org", now, true)
	w.renew(c, "shop.example.org", now, false)
	chain, err := os.ReadFile(acme.ChainFile(w.cfg.Dir, "shop.example.org"))
	if err != nil {
		t.Fatal(err)
	}
	w.ca.SetRenewal(t, string(chain), fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q}}`, now.Add(-2*time.Hour).Format(time.RFC3339), now.Add(-time.Hour).Format(time.RFC3339)))
	w.renew(c, "shop.example.org", now.Add(time.Minute), false) // not asked again before its time
	w.renew(w.client(), "shop.example.org", now.Add(7*time.Hour), true)
}

// TestAccountLost: with an account of its own a certificate is renewed that another one had ordered, as with a certificate of
// which nobody knows any more who issued it. An authority refuses an order that says what it replaces there.
func TestAccountLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 24*time.Hour, "shop.example.org")
	now := time.Now()
	w.renew(w.client(), "shop.example.org", now, true)
	accounts, err := filepath.Glob(filepath.Join(w.cfg.Dir, "account-*.json"))
	if err != nil || len(accounts) != 1 {
		t.Fatalf("accounts: %v, %v", accounts, err)
	}
	if err := os.Remove(accounts[0]); err != nil {
		t.Fatal(err)
	}
	due := now.Add(17 * time.Hour)
	var failed atomic.Bool
	w.ca.Refuse = func(rw http.ResponseWriter, r *http.Request) bool { // once, when the new account is there
		refuse := strings.HasPrefix(r.URL.Path, "/order-plz") && failed.CompareAndSwap(false, true)
		if refuse {
			http.Error(rw, "out of order", http.StatusForbidden)
		}
		return refuse
	}
	if _, err := w.client().Renew(t.Context(), "shop.example.org", due, false); err == nil || !failed.Load() {
		t.Fatalf("renewed: %v", err)
	}
	w.renew(w.client(), "shop.example.org", due.Add(time.Hour), true)

	first := w.cfg
	other := acmetest.Start(t, 1, port(t, w.secure), 24*time.Hour)
	w.cfg.Directory, w.cfg.Client = other.Directory, other.Client
	w.renew(w.client(), "shop.example.org", due, true)
	w.cfg = first
	if err := os.Remove(filepath.Join(w.cfg.Dir, "shop.example.org.json")); err != nil {
		t.Fatal(err)
	}
	w.renew(w.client(), "shop.example.org", due, true)
}

// TestAClockThatWasAhead: no pause outlives a clock that was set back, nor does one that an authority asks for until the end of days.
func TestAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 24*time.Hour, "shop.example.org")
	gone, now := "a"+acmetest.Missing, time.Now()
	c := w.client()
	failure := func(at time.Time) (f *acme.Failure) {
		t.Helper()
		if _, err := c.Renew(t.Context(), gone, at, false); !errors.As(err, &f) {
			t.Fatalf("not asked: %v", err)
		}
		return f
	}
	failure(now.Add(366 * 24 * time.Hour))
	failure(now)
	w.ca.Refuse = tooOften("Fri, 31 Dec 2099 23:59:59 GMT")
	if f := failure(now.Add(24 * time.Hour)); f.Next.After(now.Add(8 * 24 * time.Hour)) {
		t.Errorf("asked again at %s", f.Next)
	}
	w.ca.Refuse = nil

	w.renew(c, "shop.example.org", now, true)
	chain, err := os.ReadFile(acme.ChainFile(w.cfg.Dir, "shop.example.org"))
	if err != nil {
		t.Fatal(err)
	}
	w.ca.SetRenewal(t, string(chain), fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q}}`, now.Add(-2*time.Hour).Format(time.RFC3339), now.Add(-time.Hour).Format(time.RFC3339)))
	b, err := json.Marshal(acme.State{Directory: w.cfg.Directory, Issuer: w.cfg.Directory, AskAgain: now.Add(366 * 24 * time.Hour)})
	if err == nil {
		err = os.WriteFile(filepath.Join(w.cfg.Dir, "shop.example.org.json"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.renew(c, "shop.example.org", now, true)
}

// TestDamage: files that were damaged cost another order, never a certificate that does not fit.
func TestDamage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour, "shop.example.org")
	now := time.Now()
	w.renew(w.client(), "shop.example.org", now, true)
	for _, file := range []string{acme.ChainFile(w.cfg.Dir, "shop.example.org"), acme.KeyFile(w.cfg.Dir, "shop.example.org"), filepath.Join(w.cfg.Dir, "shop.example.org.json")} {
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.renew(w.client(), "shop.example.org", now, !strings.HasSuffix(file, ".json"))
	}
	if err := os.WriteFile(filepath.Join(w.answers, "http-01", "left-behind"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.client()
	empty(t, w.answers)
}

// TestNothingCanBeWritten: an authority is not asked again and again by somebody who can't remember that it was asked.
func TestNothingCanBeWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	c := w.client()
	name, now := "a"+acmetest.Missing, time.Now()
	if err := os.Mkdir(filepath.Join(w.cfg.Dir, name+".json"), 0o700); err != nil {
		t.Fatal(err)
	}
	var failures int
	var orders int64
	for range 5 {
		if _, err := c.Renew(t.Context(), name, now, false); errors.As(err, new(*acme.Failure)) {
			failures++
			orders = w.ca.Orders.Load()
		}
	}
	if n := w.ca.Orders.Load(); n != orders || failures != 1 {
		t.Errorf("%d failures, %d orders after the first and %d in all", failures, orders, n)
	}
}
