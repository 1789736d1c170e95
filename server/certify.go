package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"trellis/engine/local"
	"trellis/errdefs"
	"trellis/identity"
	"trellis/state"
)

// AuthorityDir is where this user's certificate authority is kept. Only the certificate has to stay: without root.key
// nothing new is issued, and what was issued is good until it ends.
func AuthorityDir() (string, error) {
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "trellis", "ca"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the certificate authority: %w", err)
	}
	return filepath.Join(home, ".local", "share", "trellis", "ca"), nil
}

// certifyPause is the pause between two looks whether the gateway's certificate is to be renewed. One lives for a day.
const certifyPause = time.Minute

// certify keeps the gateway's certificate good while its project wants one of this machine's own authority. A failure is
// said in the log once, and tried again.
func (c *control) certify(ctx context.Context) error {
	look := pace{every: certifyPause}
	said := ""
	for {
		next := c.changed.next()
		if err := c.certifyOnce(ctx, time.Now()); err == nil {
			said = ""
		} else if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			c.log.Error("no certificate for the gateway", "err", err)
			c.certificateFailed(ctx, err)
		}
		if !look.await(ctx, next) {
			return nil
		}
	}
}

// certificateFailed tells of a certificate of this machine's own authority that could not be issued.
func (c *control) certificateFailed(ctx context.Context, failure error) {
	rev, err := c.store.Latest(ctx)
	if err != nil {
		return // and so the failure is known to whoever reads the log
	}
	err = c.store.Append(ctx, state.Event{
		Time: time.Now(), Actor: "trellis", Project: c.location.Project, Kind: "certificate.failed", Reason: "local", Message: failure.Error(), Revision: rev.Number,
	})
	if err != nil {
		c.log.Error("event not written", "kind", "certificate.failed", "err", err)
		return
	}
	c.changed.wake()
}

func (c *control) certifyOnce(ctx context.Context, now time.Time) error {
	rev, err := c.store.Latest(ctx)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	names := local.LocalNames(rev.Project)
	if names == nil {
		return nil
	}
	if c.location.Authority == "" {
		return fmt.Errorf("issue a certificate: %w: there is no home to keep the certificate authority in", errdefs.ErrUnavailable)
	}
	authority, err := identity.OpenAuthority(ctx, c.location.Authority, now)
	if err != nil {
		return err
	}
	files := local.LocalCertificate(c.location.TLS())
	haveChain, _ := os.ReadFile(files.Chain) // what can't be read is due
	haveKey, _ := os.ReadFile(files.Key)
	if !authority.Due(haveChain, haveKey, names, now) {
		return nil
	}
	chain, key, err := authority.Issue(names, now)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.location.TLS(), 0o700); err != nil {
		return fmt.Errorf("keep the gateway's certificate: %w", err)
	}
	// A reader between the two finds a pair that does not fit together, keeps the one before, and looks again.
	if err := identity.WriteFile(files.Key, key); err != nil {
		return fmt.Errorf("keep the gateway's certificate: %w", err)
	}
	if err := identity.WriteFile(files.Chain, chain); err != nil {
		return fmt.Errorf("keep the gateway's certificate: %w", err)
	}
	c.log.Info("certificate issued for the gateway", "names", names)
	return nil
}
