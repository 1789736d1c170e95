package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"trellis/compose"
	"trellis/engine/local"
	"trellis/errdefs"
	"trellis/identity"
	"trellis/state"
)

// identify keeps the certificates of the project's services good. It looks once in certifyPause, and at once when somebody
// has changed the authority; what a deploy needs it issues itself.
func (c *control) identify(ctx context.Context) error {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	seen, look := c.location.authorityVersion(), pace{every: certifyPause, last: time.Now().Round(0)}
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if version := c.location.authorityVersion(); look.due(now) || version != seen {
				c.identifyLatest(ctx, now)
				seen = c.location.authorityVersion()
			}
		}
	}
}

// authorityVersion tells whether the issuers of services' certificates have changed.
func (l Location) authorityVersion() string {
	dir := os.DirFS(l.IdentityAuthority()) // whose own name may look like a pattern
	files, err := fs.Glob(dir, "*/issuer.pem")
	if err != nil {
		return "" // the pattern is none
	}
	var b strings.Builder
	for _, file := range files {
		if info, err := fs.Stat(dir, file); err == nil {
			b.WriteString(file + info.ModTime().String() + "\n")
		}
	}
	return b.String()
}

// identifyLatest issues what the newest revision needs. A failure is told once for as long as it is the same: what was
// issued before is good until it ends.
func (c *control) identifyLatest(ctx context.Context, now time.Time) {
	rev, err := c.store.Latest(ctx)
	if errors.Is(err, errdefs.ErrNotFound) {
		return
	}
	if err == nil {
		err = c.issue(rev.Project, now)
	}
	if err == nil || ctx.Err() != nil {
		c.unissued = ""
		return
	}
	if err.Error() == c.unissued {
		return
	}
	c.unissued = err.Error()
	c.log.Error("no certificates for services", "err", err)
	e := state.Event{Time: now, Actor: "trellis", Project: c.location.Project, Kind: "identity.failed", Reason: "authority", Message: err.Error(), Revision: rev.Number}
	if err := c.store.Append(ctx, e); err != nil {
		c.log.Error("event not written", "kind", e.Kind, "err", err)
		return
	}
	c.changed.wake() // who follows events
}

// issue gives everybody in a project who needs a certificate one that is good, and the roots that are trusted now.
func (c *control) issue(p compose.Project, now time.Time) error {
	c.issuing.Lock()
	defer c.issuing.Unlock()
	wanted := local.Identities(p)
	if len(wanted) == 0 {
		return nil
	}
	if err := os.MkdirAll(c.location.Identities(), 0o700); err != nil {
		return fmt.Errorf("keep the certificates of services: %w", err)
	}
	domain, err := identity.OpenDomain(c.location.IdentityAuthority(), c.location.Project, now)
	if err != nil {
		return err
	}
	for _, one := range wanted {
		folder := local.IdentityFolder(c.location.Identities(), one.Path)
		files, err := identity.ReadFiles(folder)
		if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			c.log.Error("an identity can't be read and is issued anew", "err", err)
		}
		switch {
		case domain.Due(files, one.Path, one.Names, now):
			if files, err = domain.Issue(one.Path, one.Names, now); err != nil {
				return err
			}
			c.log.Info("certificate issued", "identity", one.Path)
		case domain.Stale(files):
			files.Bundle = domain.Bundle()
		default:
			continue
		}
		if err := files.Write(folder); err != nil {
			return err
		}
	}
	return nil
}
