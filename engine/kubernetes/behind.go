package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"trellis/errdefs"
	"trellis/state"
)

// Behind says which service runs as a revision before the newest one has it, although that has ended: somebody slow has applied the older
// one over it, and was killed before they could note so. "": none does, or what is wanted is on its way. It compares what either
// revision makes of the pods today, so another version of Trellis, or what somebody else has changed about them, is nothing of that kind.
func (e *Engine) Behind(ctx context.Context) (string, error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("compare what runs of %s with its revisions: %w", e.project, err)
	}
	all, live, _, err := e.look(ctx, e.project)
	if errors.Is(err, errdefs.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return fail(err)
	}
	why, err := e.behind(ctx, all, live)
	if err != nil {
		return fail(err)
	}
	return why, nil
}

// behind is Behind of what a look has found.
func (e *Engine) behind(ctx context.Context, all []record, live Live) (why string, err error) {
	newest := all[0]
	if newest.Outcome != state.Healthy && newest.Outcome != state.Failed {
		return "", nil
	}
	made := map[int64]map[string]string{} // hashes of pods, by revision and service; nil: they cannot be told
	for _, w := range live.workloads() {
		i := slices.IndexFunc(all, func(r record) bool { return r.Number == w.revision })
		if i <= 0 {
			continue // of the newest, or of one that is not kept any more
		}
		for _, one := range []record{newest, all[i]} {
			if _, known := made[one.Number]; known {
				continue
			}
			if made[one.Number], err = e.hashes(ctx, one, live); err != nil {
				return "", err
			}
		}
		wanted, was := made[newest.Number], made[w.revision]
		if wanted != nil && was != nil && wanted[w.service] != was[w.service] {
			return fmt.Sprintf("%s runs as revision %d has it, not as revision %d", w.service, w.revision, newest.Number), nil
		}
	}
	return "", nil
}

// hashes returns the hashes of the pods of a revision by service, nil where this Trellis cannot make its objects any more.
func (e *Engine) hashes(ctx context.Context, one record, live Live) (map[string]string, error) {
	objects, err := e.render(ctx, one, live)
	switch {
	case errors.Is(err, errdefs.ErrInvalid), errors.Is(err, errdefs.ErrUnsupported), errors.Is(err, errdefs.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("revision %d: %w", one.Number, err)
	}
	all := map[string]string{}
	for _, w := range workloadsOf(objects) {
		all[w.service] = w.hash
	}
	return all, nil
}
