package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

const (
	// look is how often the cluster is looked at where no watch says that something has changed.
	look = 2 * time.Second
	// idleLook is the same for a control plane that is always there, once the newest revision has ended.
	idleLook = 10 * time.Second
	// breath is how long it is waited for more of what a watch tells: one pod that starts changes half a dozen times in a moment.
	breath = 300 * time.Millisecond
	// stuck is how long an instance may lack its image, and crashes how often it may crash before its revision is healthy, until
	// that has failed: the cluster would go on trying for ever.
	stuck   = 10 * time.Second
	crashes = 3
)

// unmade are the reasons for which a container waits that somebody has to do something about.
var unmade = []string{"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"}

// goal is what is to be reached: a revision, and that once more with each mark under disturbedKey.
type goal struct {
	revision int64
	mark     string
}

func (r record) goal() goal { return goal{r.Number, r.mark} }

// watcher is the loop: it looks at the newest revision until that has ended.
type watcher struct {
	engine  *Engine
	changed func(project string)
	goal    goal
	stuck   map[string]time.Time // by service of the goal: since when
	late    map[string]lateness  // by service of the goal
	lease   string               // the Lease's version when it was seen last
	leaseAt time.Time            // since when it has been that
	judging judging
	idle    bool // the newest revision has ended
	back    int64
	backAt  time.Time // since when revision back is the newest although it was taken back
	astray  astray
	said    string // what kept it from looking after the project last time
}

func (w *watcher) run(ctx context.Context) error {
	wake := make(chan struct{}, 1)
	apps := appsv1.SchemeGroupVersion
	kinds := []schema.GroupVersionKind{
		pods, apps.WithKind("Deployment"), apps.WithKind("StatefulSet"), apps.WithKind("DaemonSet"), batchv1.SchemeGroupVersion.WithKind("Job"),
	}
	if w.engine.control != nil {
		kinds = append(kinds, secrets) // revisions: one may change nothing else
	}
	for _, kind := range kinds {
		go w.engine.client.wake(ctx, kind, w.engine.project, func() {
			w.engine.woken.Add(1)
			select {
			case wake <- struct{}{}:
			default:
			}
		})
	}
	for {
		w.tell(ctx, w.step(ctx))
		w.changed(w.engine.project)
		pause := look
		if w.idle && w.engine.control != nil {
			pause = idleLook
		}
		if !await(ctx, wake, pause) {
			return nil
		}
	}
}

// tell says what keeps it from looking after the project, each thing once in a row: a quota without room is asked again every two seconds.
func (w *watcher) tell(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		w.said = ""
		return
	}
	if why := err.Error(); why != w.said {
		w.said = why
		w.engine.log.WarnContext(ctx, "the project is not looked after", "project", w.engine.project, "err", err)
	}
}

// await waits until wake is sent to, and what comes with that has come too, or until pause is over; false: ctx is done.
func await(ctx context.Context, wake <-chan struct{}, pause time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	case <-wake:
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(breath):
	}
	select {
	case <-wake:
	default:
	}
	return true
}

// wake calls woken when an object of a kind changes, until ctx is done. A watch that ends is begun again; one that this
// user may not have is done without.
func (c *Client) wake(ctx context.Context, kind schema.GroupVersionKind, project string, woken func()) {
	for ctx.Err() == nil {
		if r, err := c.resource(kind); err == nil {
			stream, err := r.Watch(ctx, selectProject(project))
			if apierrors.IsForbidden(err) {
				return
			}
			if err == nil {
				for range stream.ResultChan() {
					woken()
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// step settles the newest revision where it has ended, and goes back from one that failed. Where a control plane in the cluster does
// that, anybody else only carries on what was cut short.
func (w *watcher) step(ctx context.Context) error {
	e := w.engine
	now, err := e.read(ctx, e.project)
	if err != nil {
		return err
	}
	s, err := e.stateOf(e.project, now)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil // it does not run
	}
	if err != nil {
		return err
	}
	all, live, done := now.revisions, now.live, now.notes[appliedKey]
	if e.outdated(live) {
		return nil
	}
	one := all[0]
	if w.goal != one.goal() {
		w.goal, w.stuck, w.late = one.goal(), map[string]time.Time{}, map[string]lateness{}
	}
	w.idle = one.Outcome != state.Pending && one.Outcome != state.RolledBack
	if one.Outcome == state.RolledBack && w.leftBack(one, time.Now()) && (e.control != nil || !w.led(live, time.Now())) {
		return e.finishBack(ctx, all)
	}
	if one.Outcome != state.Pending {
		e.forgetGone(live)
		if again, err := w.putRight(ctx, all, live, time.Now()); again || err != nil {
			return err
		}
		if goPast(live.Objects) {
			_, _, err = w.goOn(ctx, one, live)
		}
		return err
	}
	var objects []Object // not asked for where all of them were applied: what comes before a start has succeeded then
	var waits map[string]string
	if done != appliedNote(one.Number, one.mark) || goPast(live.Objects) {
		if objects, waits, err = w.goOn(ctx, one, live); err != nil || len(waits) == 0 {
			return err
		}
		if all, live, s, err = e.look(ctx, e.project); err != nil || all[0].goal() != one.goal() {
			return err // what was there before is not judged
		}
		one = all[0]
	}
	if e.control == nil && w.led(live, time.Now()) {
		return nil
	}
	watching := false
	if one.Undoes == 0 {
		worse, how := "", ""
		if e.control != nil && e.control.Tally != nil {
			worse, how, watching = w.judging.look(e.control.Tally, one, s, time.Now())
			all[0].rollouts = w.judging.measured(one.rollouts)
			one = all[0]
		}
		if failed := failedToPrepare(objects, live); len(failed) > 0 {
			return e.goBack(ctx, all, e.unprepared(ctx, failed[0], live), "trellis")
		}
		live.Refused = e.client.refusals(ctx, live)
		if service, why := w.failure(all, s, live); service != "" {
			e.client.enrich(ctx, &s, live)
			return e.goBack(ctx, all, failureOf(s, service, why), "trellis")
		}
		if worse != "" {
			return e.goBack(ctx, all, e.worseOf(ctx, one, live, worse, how), "trellis")
		}
	}
	if standing, err := w.dismiss(ctx, one, live); err != nil || standing || len(waits) > 0 || watching || !there(one.Project, s) {
		return err
	}
	if err := w.tidy(ctx, one, live); err != nil {
		e.log.WarnContext(ctx, "what an earlier revision had is not removed yet: the next deploy does so", "project", e.project, "err", err)
	}
	one.rollouts = ended(one.rollouts, state.Promoted, "", time.Now())
	return e.client.settle(ctx, one, state.Healthy)
}

// tidy removes what only the instances had that a revision has replaced. Whoever deploys meanwhile may want some of that again: they find
// it noted as after an apply that they have overtaken.
func (w *watcher) tidy(ctx context.Context, one record, live Live) error {
	e := w.engine
	e.writes.Lock()
	defer e.writes.Unlock()
	objects, err := e.render(ctx, one, live)
	if err != nil {
		return err
	}
	left, err := e.client.leftOver(ctx, e.project, objects)
	if err != nil || len(left) == 0 {
		return err
	}
	return w.unlessOvertaken(ctx, one, func() error {
		return e.client.prune(ctx, e.project, left, metav1.DeleteOptions{}, tidyPatience)
	})
}

// unlessOvertaken removes what a revision no longer has, where that is still the newest one.
func (w *watcher) unlessOvertaken(ctx context.Context, one record, remove func() error) error {
	e := w.engine
	// A revision is written down before what it has is in the inventory: what was there is of none after this one.
	if all, err := e.client.history(ctx, e.project); err != nil || len(all) == 0 || all[0].goal() != one.goal() {
		return err
	}
	err := remove()
	_, cerr := e.confess(ctx, one.Number)
	return errors.Join(err, cerr)
}

// leftBack says whether nobody brings back what was before a revision that was taken back: whoever takes one back does so at once.
func (w *watcher) leftBack(one record, now time.Time) bool {
	if w.back != one.Number {
		w.back, w.backAt = one.Number, now
	}
	return now.Sub(w.backAt) > stuck
}

// there says whether a project is as it is meant to be. What others wait for has to have ended, not only to run: it may
// fail yet.
func there(p compose.Project, s engine.State) bool {
	awaited, running := engine.Awaited(p), 0
	for _, svc := range p.Services {
		if !svc.Provided() {
			running++
		}
	}
	return len(s.Services) >= running && !slices.ContainsFunc(s.Services, func(svc engine.Service) bool {
		switch svc.State {
		case engine.ServiceHealthy:
			return awaited[svc.Name]
		case engine.ServiceCompleted, engine.ServiceStopped:
			return false
		}
		return true
	})
}

// goOn carries out a revision whose Apply was cut short, or waits, or has not ended yet: both may do the same thing twice. It returns the
// objects of that revision, and what they wait for.
func (w *watcher) goOn(ctx context.Context, one record, live Live) (objects []Object, waits map[string]string, err error) {
	e := w.engine
	e.writes.Lock()
	defer e.writes.Unlock()
	if objects, err = e.render(ctx, one, live); err != nil {
		return nil, nil, err
	}
	waits, err = e.carryOut(ctx, one, objects, live)
	e.hindered.Store(nil)
	if err != nil {
		e.hindered.Store(&hindrance{one.goal(), err.Error()})
	}
	return objects, waits, err
}

// hindrance is what kept from carrying out a revision.
type hindrance struct {
	goal goal
	why  string
}

// hindrance says what keeps what is not there yet of a revision from being made, "" for nothing.
func (e *Engine) hindrance(of goal) string {
	if h := e.hindered.Load(); h != nil && h.goal == of {
		return h.why
	}
	return ""
}

// failure returns a service that will not come up by itself, and why; "" where there is none. What runs as the last healthy revision had it
// is nothing that going back to that would mend.
func (w *watcher) failure(all []record, s engine.State, live Live) (service, why string) {
	one, healthy := all[0], lastHealthy(all, all[0].Number)
	for _, svc := range s.Services {
		if healthy != nil && svc.Revision <= healthy.Number {
			continue
		}
		crash, imageless := lost(live.Pods, svc)
		switch since, known := w.stuck[svc.Name]; {
		case crash != nil:
			return svc.Name, cmp.Or(svc.Reason, "crashes again and again: "+exitWords(crash))
		case svc.State == engine.ServiceFailed:
			return svc.Name, svc.Reason
		case !imageless:
			delete(w.stuck, svc.Name)
		case !known:
			w.stuck[svc.Name] = time.Now()
		case time.Since(since) > stuck:
			return svc.Name, svc.Reason
		}
		if limit, late := w.isLate(one, svc, live, time.Now()); late {
			return svc.Name, cmp.Or(svc.Reason, live.Refused[svc.Name], fmt.Sprintf("is not ready after %s", limit))
		}
	}
	return "", ""
}

// lateness is how many pods of a service's newest revision were ready, and since when no more are while others are not.
type lateness struct {
	ready int
	since time.Time
}

// isLate says whether the pods of a StatefulSet or DaemonSet that replace those of an earlier revision run for longer than limit without
// becoming ready, which is what a Deployment gets: of that the cluster itself says that it takes too long. The first ones of a service have
// all the time that they need: they make their data, and there is nothing to go back to. What no node takes is late as well: the one that it
// replaces has ended. So is what the cluster refuses. That a node is lost is nothing that going back would mend.
func (w *watcher) isLate(one record, svc engine.Service, live Live, now time.Time) (limit time.Duration, late bool) {
	beside := slices.ContainsFunc(live.Leaving, func(o Object) bool { return serviceOf(o) == svc.Name })
	replaces := slices.ContainsFunc(one.rollouts, func(r state.Rollout) bool { return r.Service == svc.Name && !r.Over() }) &&
		slices.ContainsFunc(live.Objects, func(o Object) bool {
			return serviceOf(o) == svc.Name && (statefulSet.made(o) || daemonSet.made(o))
		})
	ready, waiting := 0, 0
	unseen := map[engine.InstanceID]bool{}
	for _, pod := range live.Pods {
		unseen[engine.InstanceID(pod.Name)] = forsaken(pod)
		if serviceOf(&pod) != svc.Name || revisionOf(pod.ObjectMeta) != one.Number || pod.DeletionTimestamp != nil {
			continue
		}
		if _, is := untaken(pod); is || beside && pod.Spec.NodeName == "" {
			waiting++
		}
	}
	for _, in := range svc.Instances {
		switch {
		case in.Revision != one.Number, unseen[in.ID]:
		case in.Ready:
			ready++
		case in.State == engine.InstanceStarting, in.State == engine.InstanceUnready:
			waiting++
		}
	}
	if live.Refused[svc.Name] != "" {
		waiting++
	}
	if !replaces || waiting == 0 {
		delete(w.late, svc.Name)
		return 0, false
	}
	if was, known := w.late[svc.Name]; !known || ready != was.ready {
		w.late[svc.Name] = lateness{ready, now}
	}
	file := one.Project.Services[svc.Name]
	limit = time.Duration(patience(file)+minReady(file)) * time.Second
	return limit, now.Sub(w.late[svc.Name].since) > limit
}

// lost returns the last end of a pod of a service's newest revision that has crashed too often and does not run, nil where there is none (a
// Job counts its own attempts), and whether one waits for what it cannot have: its image, or what its container is made of. A pod that was
// ready counts as well: what nothing asks is ready as soon as it runs.
func lost(all []corev1.Pod, svc engine.Service) (crash *corev1.ContainerStateTerminated, imageless bool) {
	for _, pod := range all {
		if serviceOf(&pod) != svc.Name || revisionOf(pod.ObjectMeta) != svc.Revision || pod.DeletionTimestamp != nil {
			continue
		}
		for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if pod.Labels[batchv1.JobNameLabel] == "" && c.State.Running == nil && !c.Ready && c.RestartCount >= crashes-1 {
				crash = cmp.Or(crash, crashOf(c))
			}
			if c.State.Waiting != nil && slices.Contains(unmade, c.State.Waiting.Reason) {
				imageless = true
			}
		}
	}
	return crash, imageless
}

// crashOf returns how a container failed last, nil where it came to its end.
func crashOf(c corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	last := cmp.Or(c.State.Terminated, c.LastTerminationState.Terminated)
	if last == nil || last.ExitCode == 0 {
		return nil
	}
	return last
}
