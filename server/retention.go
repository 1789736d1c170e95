package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"trellis/artifact"
	"trellis/compose"
	"trellis/errdefs"
	"trellis/state"
)

// What is kept of a project, so that a rollback to it works: the newest revisions, those that were healthy a short
// while ago, and whatever still runs. Of the others the row stays, for the history; contents and artefacts go.
const (
	keepRevisions = 20
	keepHealthy   = 7 * 24 * time.Hour
)

// kept returns which of the revisions, newest first, are kept. running are the numbers of those that instances are of.
func kept(revs []state.Revision, running map[int64]bool, now time.Time) []state.Revision {
	var keep []state.Revision
	healthy := false // the newest healthy one is kept whatever its age: it is what a reboot brings back
	for i, rev := range revs {
		last := rev.Outcome == state.Healthy && !healthy
		healthy = healthy || last
		young := rev.HealthyAt != nil && now.Sub(*rev.HealthyAt) < keepHealthy
		if i < keepRevisions || last || young || running[rev.Number] {
			keep = append(keep, rev)
		}
	}
	return keep
}

// needs returns what revisions refer to: contents by ref, artefacts by digest.
func needs(revs []state.Revision) (refs, digests map[string]bool) {
	refs, digests = map[string]bool{}, map[string]bool{}
	for _, rev := range revs {
		for _, values := range []map[string]compose.FileValue{rev.Project.Secrets, rev.Project.Configs} {
			for _, v := range values {
				if v.Ref != "" {
					refs[v.Ref] = true
				}
			}
		}
		for _, svc := range rev.Project.Services {
			if p := svc.Trellis.Process; p != nil && p.Artifact != "" {
				digests[p.Artifact] = true
			}
		}
	}
	return refs, digests
}

// missing says in words what a project refers to and is not there any more, "" where all of it is.
func (c *control) missing(p compose.Project) (string, error) {
	var gone []string
	look := func(path, what string) error {
		_, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			gone = append(gone, what)
			return nil
		}
		return err
	}
	artifacts, err := artifact.Open(c.location.Artifacts())
	if err != nil {
		return "", err
	}
	for _, name := range p.ServiceNames() {
		if pr := p.Services[name].Trellis.Process; pr != nil && pr.Artifact != "" {
			if err := look(artifacts.Path(pr.Artifact), "the artefacts of "+name); err != nil {
				return "", err
			}
		}
	}
	for kind, values := range map[string]map[string]compose.FileValue{"secret": p.Secrets, "config": p.Configs} {
		for name, v := range values {
			if v.Ref == "" {
				continue
			}
			if err := look(c.contents.Path(v.Ref), "the "+kind+" "+name); err != nil {
				return "", err
			}
		}
	}
	slices.Sort(gone)
	return strings.Join(gone, ", "), nil
}

// whole refuses to deploy what refers to something that was removed since it was built.
func (c *control) whole(p compose.Project) error {
	gone, err := c.missing(p)
	if err != nil {
		return fmt.Errorf("deploy %s: %w", c.location.Project, err)
	}
	if gone != "" {
		return fmt.Errorf("deploy %s: %w: removed since they were built are %s: run `trellis up` again", c.location.Project, errdefs.ErrConflict, gone)
	}
	return nil
}

// complete refuses to go back to a revision that is not kept any more.
func (c *control) complete(rev state.Revision) error {
	gone, err := c.missing(rev.Project)
	if err != nil {
		return fmt.Errorf("roll back %s to %d: %w", c.location.Project, rev.Number, err)
	}
	if gone == "" {
		return nil
	}
	again := "deploy what it was made from again"
	if rev.Commit != nil {
		again = fmt.Sprintf("check out %.12s and run `trellis up`", rev.Commit.SHA)
	}
	return fmt.Errorf("roll back %s to %d: %w: it is not kept any more, gone are %s (kept are the newest %d revisions and those that were healthy in the last %d days): %s",
		c.location.Project, rev.Number, errdefs.ErrNotFound, gone, keepRevisions, int(keepHealthy.Hours())/24, again)
}

// retain removes what no kept revision needs, each time that an apply has settled, until ctx is done.
func (c *control) retain(ctx context.Context) error {
	var done int64 // the newest revision when it was done last
	for {
		next := c.changed.next()
		number, err := c.prune(ctx, done)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("what no revision needs could not be removed", "err", err)
		}
		done = max(done, number)
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		}
		select { // changes come in bursts, and nothing here is urgent
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// prune removes what no kept revision needs if the newest revision is settled and later than done, and returns its
// number. While somebody deploys it does nothing, and the next change asks again.
func (c *control) prune(ctx context.Context, done int64) (int64, error) {
	latest, err := c.store.Latest(ctx)
	if errors.Is(err, errdefs.ErrNotFound) || err == nil && (latest.Number <= done || latest.Outcome == state.Pending) {
		return done, nil
	}
	if err != nil {
		return done, err
	}
	// A deploy puts contents before there is a revision that needs them.
	if !c.keeping.TryLock() {
		return done, nil
	}
	defer c.keeping.Unlock()
	revs, err := c.store.History(ctx, 0)
	if err != nil {
		return done, err
	}
	s, err := c.observe(ctx)
	if err != nil {
		return done, err
	}
	running := map[int64]bool{}
	for _, svc := range s.Services {
		for _, in := range svc.Instances {
			running[in.Revision] = true
		}
	}
	refs, digests := needs(kept(revs, running, time.Now()))
	artifacts, err := artifact.Open(c.location.Artifacts())
	if err != nil {
		return done, err
	}
	// Once for each revision, also where it fails: what is left is tried again after the next one.
	return latest.Number, errors.Join(c.contents.Prune(refs), artifacts.Prune(digests))
}
