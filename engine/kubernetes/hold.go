package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"

	"trellis/errdefs"
)

// Who holds the Lease renews it every third of its time, and is no longer the one two thirds after it began to ask for what was
// granted last: a third before another may be. It asks twice in between.
const (
	leaseTime  = leaseSeconds * time.Second
	leaseRenew = leaseTime / 3
	leaseAsked = leaseTime / 6 // for how long at most the API server is asked
	leaseLost  = leaseTime * 2 / 3
)

// errLeaseLost says that another control plane may act from now on.
var errLeaseLost = fmt.Errorf("the Lease could not be renewed in time: %w", errdefs.ErrUnavailable)

// Hold waits until this process, by the name of who, holds the Lease of the project, calls run, and lets go of it when run has
// returned. The context of run ends when the Lease is lost. Clocks of two machines are not compared: a Lease is free when it has
// not changed for as long as it lasts, measured here, or when its holder let go of it. An API server that does not answer is waited for,
// and told of in log.
func (c *Client) Hold(ctx context.Context, project, who string, log *slog.Logger, run func(ctx context.Context) error) error {
	fail := func(err error) error { return fmt.Errorf("hold the Lease of %s: %w", project, err) }
	o := &obstacle{log: log}
	r, err := c.leases(ctx, o)
	if err != nil {
		return fail(err)
	}
	l := &lease{leases: r, name: notesName(project), who: who, obstacle: o}
	since, err := l.acquire(ctx)
	if err != nil {
		return fail(c.explain(err))
	}
	err = l.keep(ctx, since, run)
	if errors.Is(err, errLeaseLost) {
		return fail(err)
	}
	return err
}

// leases returns how Leases are reached, once the API server says so.
func (c *Client) leases(ctx context.Context, o *obstacle) (dynamic.ResourceInterface, error) {
	for {
		r, err := c.resource(coordinationv1.SchemeGroupVersion.WithKind("Lease"))
		if !errors.Is(err, errdefs.ErrUnavailable) {
			return r, err
		}
		o.tell(ctx, err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// obstacle tells what keeps from the Lease, each thing once in a row. nil tells nothing.
type obstacle struct {
	log  *slog.Logger
	said string
}

func (o *obstacle) tell(ctx context.Context, err error) {
	if o == nil || ctx.Err() != nil || err.Error() == o.said {
		return
	}
	o.said = err.Error()
	o.log.WarnContext(ctx, "the Lease cannot be had yet", "err", err)
}

// acquire waits until the Lease is one's own, and returns when was begun to ask for it.
func (l *lease) acquire(ctx context.Context) (since time.Time, err error) {
	for {
		since = time.Now()
		taken, err := l.ask(ctx, since.Add(leaseAsked))
		if err == nil && taken {
			return since, nil
		}
		if err != nil && ctx.Err() == nil && !passing(err) {
			return since, err
		}
		if err != nil {
			l.obstacle.tell(ctx, err)
		}
		select {
		case <-ctx.Done():
			return since, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// keep calls run while the Lease is one's own, as it is from since on, and then lets go of it.
func (l *lease) keep(ctx context.Context, since time.Time, run func(ctx context.Context) error) error {
	held, lost := context.WithCancelCause(ctx)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		l.renew(held, since, lost)
	}()
	err := run(held)
	lost(nil)
	<-renewed
	if cause := context.Cause(held); errors.Is(cause, errLeaseLost) {
		return cause
	}
	release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = l.release(release) // it runs out
	return err
}

// passing says whether the API server may answer otherwise a moment later.
func passing(err error) bool {
	return repeatable(err) || !isStatus(err) || apierrors.IsInternalError(err) || apierrors.IsTimeout(err) || apierrors.IsConflict(err) ||
		apierrors.IsNotFound(err)
}

func isStatus(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}

// lease is the Lease of a project as one process sees it.
type lease struct {
	leases   dynamic.ResourceInterface
	name     string
	who      string
	obstacle *obstacle

	seen string    // its version when it was looked at last
	at   time.Time // since when it has been that
}

// take takes the Lease where it is free or one's own, renews it, and says whether it is one's own now.
func (l *lease) take(ctx context.Context, now time.Time) (bool, error) {
	o, err := l.leases.Get(ctx, l.name, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	var have coordinationv1.Lease
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &have); err != nil {
		return false, err
	}
	if l.seen != have.ResourceVersion {
		l.seen, l.at = have.ResourceVersion, now
	}
	holder := deref(have.Spec.HolderIdentity)
	if holder != "" && holder != l.who && now.Sub(l.at) < leaseTime {
		return false, nil
	}
	stamp := metav1.NewMicroTime(now)
	if holder != l.who {
		have.Spec.AcquireTime = &stamp
		have.Spec.LeaseTransitions = pointer(deref(have.Spec.LeaseTransitions) + 1)
	}
	have.Spec.HolderIdentity, have.Spec.RenewTime = &l.who, &stamp
	return true, l.write(ctx, &have)
}

// release lets go of the Lease.
func (l *lease) release(ctx context.Context) error {
	o, err := l.leases.Get(ctx, l.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	var have coordinationv1.Lease
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &have); err != nil {
		return err
	}
	if deref(have.Spec.HolderIdentity) != l.who {
		return nil
	}
	have.Spec.HolderIdentity, have.Spec.RenewTime, have.Spec.AcquireTime = nil, nil, nil
	return l.write(ctx, &have)
}

// write replaces the Lease unless somebody did so since it was read.
func (l *lease) write(ctx context.Context, have *coordinationv1.Lease) error {
	plain, err := runtime.DefaultUnstructuredConverter.ToUnstructured(have)
	if err != nil {
		return err
	}
	_, err = l.leases.Update(ctx, &unstructured.Unstructured{Object: plain}, metav1.UpdateOptions{FieldManager: fieldManager + "-" + controlPlane})
	return err
}

// ask is take, begun now, for as long as until.
func (l *lease) ask(ctx context.Context, until time.Time) (bool, error) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	return l.take(ctx, time.Now())
}

// renew keeps the Lease until ctx is done, and calls lost where it does not succeed for too long or another has it. since is when was
// begun to ask for it: when the API server wrote it down, from which moment others count, is only known to be no earlier.
func (l *lease) renew(ctx context.Context, since time.Time, lost context.CancelCauseFunc) {
	pause := leaseRenew
	for {
		end := since.Add(leaseLost)
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(pause, time.Until(end))):
		}
		now := time.Now()
		if !now.Before(end) {
			lost(errLeaseLost)
			return
		}
		until := now.Add(leaseAsked)
		if until.After(end) {
			until = end
		}
		switch mine, err := l.ask(ctx, until); {
		case err == nil && mine:
			since, pause = now, leaseRenew
		case err == nil:
			lost(errLeaseLost)
			return
		default:
			pause = time.Second
		}
	}
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// led says whether a control plane in the cluster acts for the project, as far as its Lease says. One that was killed is believed to
// act until its Lease has not changed for as long as it lasts.
func (w *watcher) led(live Live, now time.Time) bool {
	for _, l := range objectsOf[*coordinationv1.Lease](live.Objects) {
		if l.Name != notesName(w.engine.project) {
			continue
		}
		if w.lease != l.ResourceVersion {
			w.lease, w.leaseAt = l.ResourceVersion, now
		}
		return deref(l.Spec.HolderIdentity) != "" && now.Sub(w.leaseAt) < leaseTime
	}
	return false
}
