package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mholt/acmez/v3"
	rfc8555 "github.com/mholt/acmez/v3/acme"

	"trellis/identity"
)

// obtain asks for a certificate and keeps it; it returns the URL of the account that has ordered it. old is the one that it
// replaces, nil for none, and by the account that had ordered that: an authority has each replace its own alone.
func (c *Client) obtain(ctx context.Context, name string, old *x509.Certificate, by string, now time.Time) (account string, err error) {
	a, err := c.account(ctx, false)
	if err != nil {
		return "", err
	}
	if by != a.Location {
		old = nil
	}
	chain, key, err := c.order(ctx, a, name, old)
	var problem rfc8555.Problem
	if errors.As(err, &problem) && problem.Type == rfc8555.ProblemTypeAccountDoesNotExist {
		if a, err = c.account(ctx, true); err == nil {
			chain, key, err = c.order(ctx, a, name, nil)
		}
	}
	if err != nil {
		return "", err
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err == nil {
		err = pair.Leaf.VerifyHostname(name)
	}
	if err == nil && !now.Before(pair.Leaf.NotAfter) {
		err = fmt.Errorf("it ended at %s", pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	if err != nil {
		return "", fmt.Errorf("what was issued is not usable: %w", err)
	}
	// A reader between the two finds a pair that does not fit together, keeps the one before, and looks again.
	if err := identity.WriteFile(KeyFile(c.cfg.Dir, name), key); err != nil {
		return "", fmt.Errorf("keep the certificate: %w", err)
	}
	if err := identity.WriteFile(ChainFile(c.cfg.Dir, name), chain); err != nil {
		return "", fmt.Errorf("keep the certificate: %w", err)
	}
	return a.Location, nil
}

// order is the whole of one order, with a key of its own. It returns chain and key as PEM.
func (c *Client) order(ctx context.Context, account rfc8555.Account, name string, old *x509.Certificate) (chain, key []byte, err error) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if key, err = identity.EncodeKey(signer); err != nil {
		return nil, nil, err
	}
	csr, err := acmez.NewCSR(signer, []string{name})
	if err != nil {
		return nil, nil, err
	}
	order, err := acmez.OrderParametersFromCSR(account, csr)
	if err != nil {
		return nil, nil, err
	}
	if old != nil {
		if _, err := rfc8555.ARIUniqueIdentifier(old); err == nil {
			order.Replaces = old // a renewal counts towards none of Let's Encrypt's limits
		}
	}
	chains, err := c.acme.ObtainCertificate(ctx, order)
	if err == nil && len(chains) == 0 {
		err = errors.New("the authority issued nothing")
	}
	if err != nil {
		return nil, nil, err
	}
	return chains[0].ChainPEM, key, nil
}

// kept is an account as it is written down: one for each authority.
type kept struct {
	rfc8555.Account
	Directory string `json:"directory"`
	Key       string `json:"key"` // PEM
}

// account returns the account, made when there is none yet. anew says that the authority does not know it any more.
func (c *Client) account(ctx context.Context, anew bool) (rfc8555.Account, error) {
	sum := sha256.Sum256([]byte(c.cfg.Directory))
	file := filepath.Join(c.cfg.Dir, "account-"+hex.EncodeToString(sum[:6])+".json")
	var contact []string
	if c.cfg.Email != "" {
		contact = []string{"mailto:" + c.cfg.Email}
	}
	a, err := readAccount(file)
	switch {
	case err != nil:
		return rfc8555.Account{}, err
	case a.PrivateKey == nil:
		if a.PrivateKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return rfc8555.Account{}, fmt.Errorf("make an account: %w", err)
		}
		anew = true
	case !anew && equal(a.Contact, contact):
		return a, nil
	}
	a.Contact = contact
	if anew {
		a, err = c.acme.NewAccount(ctx, rfc8555.Account{Contact: contact, TermsOfServiceAgreed: true, PrivateKey: a.PrivateKey})
	} else {
		at := a.Location // which the answer to a change does not have
		a, err = c.acme.UpdateAccount(ctx, a)
		a.Location = at
	}
	if err != nil {
		return rfc8555.Account{}, fmt.Errorf("make an account: %w", err)
	}
	return a, c.keepAccount(file, a)
}

func equal(have, want []string) bool {
	return len(have) == len(want) && (len(have) == 0 || have[0] == want[0])
}

func readAccount(file string) (rfc8555.Account, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return rfc8555.Account{}, nil
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(b, &k)
	}
	if err == nil {
		k.PrivateKey, err = identity.ParseKey([]byte(k.Key))
	}
	if err != nil {
		return rfc8555.Account{}, fmt.Errorf("read the account in %s: %w", file, err)
	}
	return k.Account, nil
}

func (c *Client) keepAccount(file string, a rfc8555.Account) error {
	signer, ok := a.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("keep the account: its key is of another kind")
	}
	key, err := identity.EncodeKey(signer)
	if err != nil {
		return fmt.Errorf("keep the account: %w", err)
	}
	b, err := json.MarshalIndent(kept{Account: a, Directory: c.cfg.Directory, Key: string(key)}, "", "  ")
	if err == nil {
		err = identity.WriteFile(file, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep the account: %w", err)
	}
	return nil
}

// suggested asks the authority, where the time for that has come, when it wants a certificate renewed (RFC 9773): it may
// have to revoke it. Where it does not say, two thirds of the life count alone.
func (c *Client) suggested(ctx context.Context, name string, have *x509.Certificate, s State, now time.Time) (State, error) {
	if now.Before(s.AskAgain) || due(have, s, now) {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	s.AskAgain = now.Add(suggestedPause)
	info, err := c.acme.GetRenewalInfo(ctx, have)
	if err == nil {
		s.Suggested = info.SelectedTime
		if info.RetryAfter != nil && info.RetryAfter.After(now) {
			s.AskAgain = *info.RetryAfter
			if latest := now.Add(longestPause); s.AskAgain.After(latest) {
				s.AskAgain = latest
			}
		}
	} else {
		c.cfg.Log.Debug("the authority does not say when to renew", "name", name, "err", err)
	}
	return s, c.write(name, s)
}

// suggestedPause is the pause between two such questions where the authority names none (RFC 9773, section 4.3.3).
const suggestedPause = 6 * time.Hour
