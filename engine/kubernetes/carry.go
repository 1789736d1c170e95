package kubernetes

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/errdefs"
	"trellis/state"
)

// appliedKey is the note of the number of the revision that was applied whole.
const appliedKey = "applied"

// disturbedKey is the note, another one each time, of who has applied objects of a revision that was not the newest any more: what was
// noted as applied before that is no more so, and is carried out once more, also where that revision had ended.
const disturbedKey = "disturbed"

// confessing is how long somebody whose own time is over may still take to say that they have applied what is not the newest any more.
const confessing = 5 * time.Second

// carryOut applies the objects of a revision whose turn it is; once that is all of them it notes that it did. waits says
// what the others wait for. What the cluster refuses for good is a revision that failed, unless
// that has ended already.
func (e *Engine) carryOut(ctx context.Context, one record, objects []Object, live Live) (waits map[string]string, err error) {
	if one.mark, err = e.client.note(ctx, e.project, disturbedKey); err != nil {
		return nil, err
	}
	now, waits := turn(one.Project, objects, live, Read(one.Revision, live))
	if e.awaitsPlane(ctx, objects, live) {
		waits[dataPlane] = "to serve"
	}
	if outsiders(one.Project, Mesh(one.Project), podsIn(live)) {
		waits["mesh"] = "for pods from before it to be replaced" // then it is said who may call whom
	}
	if turning(objects, live.Objects) && len(objectsOf[*networkingv1.NetworkPolicy](objects)) > 0 {
		waits["names"] = "to lead past the data plane" // then it is closed but for its doors
	}
	// Two that prepare the same service, each in its own way, must not do so at once.
	if err = e.client.prune(ctx, e.project, stillPreparing(objects, live), metav1.DeleteOptions{}, removePatience); err == nil {
		err = e.makeWay(ctx, one.Project, now, live)
	}
	if err == nil {
		err = e.client.put(ctx, e.project, now, len(waits) > 0)
	}
	if disturbed, derr := e.confess(ctx, one.Number); disturbed {
		if err == nil {
			err = derr
		}
		return waits, err
	}
	switch {
	case err == nil && len(waits) > 0:
		return waits, nil
	case err == nil:
		return nil, e.client.setNote(ctx, e.project, appliedKey, appliedNote(one.Number, one.mark))
	case ctx.Err() == nil && !errors.Is(err, errdefs.ErrUnavailable) && one.Outcome == state.Pending:
		if serr := e.client.settle(ctx, one, state.Failed); serr != nil {
			e.log.WarnContext(ctx, "a failed revision is not written down as one", "project", e.project, "revision", one.Number, "err", serr)
		}
	}
	return nil, err
}

// confess notes that objects of a revision were applied that is not the newest any more, and says whether it did. It does also where ctx
// is done by now, or where it cannot be told: once too often costs one more apply, and once too few leaves what is there as it should not be.
func (e *Engine) confess(ctx context.Context, number int64) (disturbed bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), confessing)
	defer cancel()
	all, err := e.client.history(ctx, e.project)
	if err == nil {
		if len(all) == 0 || all[0].Number == number {
			return false, nil
		}
		e.log.WarnContext(ctx, "another deploy has overtaken this one, and is carried out once more", "project", e.project,
			"revision", number, "newest", all[0].Number)
	}
	return true, errors.Join(err, e.client.setNote(ctx, e.project, disturbedKey, rand.Text()))
}

// appliedNote is the note of a revision that was applied whole.
func appliedNote(number int64, mark string) string {
	note := strconv.FormatInt(number, 10)
	if mark != "" {
		note += " after " + mark
	}
	return note
}

// after is a record as it stands once mark is noted under disturbedKey. One that had ended before has been overwritten since: it is on its
// way again, as it was at first, and how it ends then is how it ended. One that was taken back is not wanted any more.
func (r record) after(mark string) record {
	r.mark = mark
	if mark == r.settledAfter || r.Outcome != state.Healthy && r.Outcome != state.Failed {
		return r
	}
	r.Outcome, r.settledAt = state.Pending, time.Time{}
	rollouts := make([]state.Rollout, 0, len(r.rollouts))
	for _, was := range r.rollouts {
		rollouts = append(rollouts, state.Rollout{
			Revision: was.Revision, Service: was.Service, From: was.From, Phase: state.Rolling, Began: was.Began, Ledger: was.Ledger,
		})
	}
	r.rollouts = rollouts
	return r
}
