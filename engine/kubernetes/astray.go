package kubernetes

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"trellis/errdefs"
	"trellis/state"
)

// astrayAgain is how long the control plane leaves what it has put right, or could not, and finds to be as it was before: somebody goes on
// with that.
const astrayAgain = 10 * time.Minute

// astray is what the control plane in the cluster knows of services that run as a revision before the newest one has them, although that
// has ended and nobody has left a mark; see Behind.
type astray struct {
	seen  string    // what was compared
	why   string    // what Behind says of it
	since time.Time // when it was seen first
	told  bool      // that it is another's, or refused
	next  time.Time // nothing is put right before
}

// putRight leaves the mark that whoever applied an older revision over the newest one has not left, because they were killed: that is
// carried out once more then. It says whether it did. They have as long for it as a pod has that is stuck, and what another hand has, or the
// cluster would refuse, stays as it is: the revision that ended well is not to fail for that.
func (w *watcher) putRight(ctx context.Context, all []record, live Live, now time.Time) (bool, error) {
	e, newest := w.engine, all[0]
	if e.control == nil || newest.Outcome != state.Healthy { // of one that failed what is there may be what it could not replace
		return false, nil
	}
	if seen := comparedIn(newest, live); w.astray.seen != seen {
		why, err := e.behind(ctx, all, live)
		if err != nil {
			return false, err
		}
		w.astray = astray{seen: seen, why: why, since: now, next: w.astray.next}
	}
	if w.astray.why == "" || w.astray.told || now.Sub(w.astray.since) < stuck || now.Before(w.astray.next) {
		return false, nil
	}
	objects, err := e.render(ctx, newest, live)
	if err == nil {
		err = e.client.rehearse(ctx, e.project, objects)
	}
	w.astray.next = now.Add(astrayAgain)
	if err != nil {
		w.astray.told = !errors.Is(err, errdefs.ErrUnavailable)
		e.log.WarnContext(ctx, "what runs is not of the newest revision, and stays as it is", "project", e.project, "reason", w.astray.why, "err", err)
		return false, nil
	}
	e.log.WarnContext(ctx, "what runs is not of the newest revision, which is carried out once more", "project", e.project, "reason", w.astray.why)
	w.idle = false
	return true, e.client.setNote(ctx, e.project, disturbedKey, rand.Text())
}

// comparedIn stands for what Behind compares: what is wanted, and of what the pods are made.
func comparedIn(newest record, live Live) string {
	var b strings.Builder
	fmt.Fprintln(&b, newest.Number, newest.mark)
	for _, w := range live.workloads() {
		fmt.Fprintln(&b, w.service, w.uid, w.revision, w.hash)
	}
	return b.String()
}
