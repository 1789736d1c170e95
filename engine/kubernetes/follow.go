package kubernetes

import (
	"context"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"trellis/proxy"
)

// Traffic is what a data plane in a cluster goes by.
type Traffic struct {
	Snapshot proxy.Snapshot
	// Away says that the API server does not answer: what became of the instances since is not known.
	Away bool
	// Key is what whoever asks for what was measured has to know, "" where nobody is told.
	Key string
}

// FollowTraffic calls told with what a data plane of the project has to do, once all of it is known, and then with every
// change, until ctx is done. Versions of snapshots begin with 1. What was told stays in force while the API server is away.
func (c *Client) FollowTraffic(ctx context.Context, project string, log *slog.Logger, told func(Traffic)) error {
	changed := make(chan struct{}, 1)
	plans := &shelf[trafficPlan]{changed: changed, read: readPlan, log: log, things: map[string]trafficPlan{}}
	instances := &shelf[located]{changed: changed, read: readInstance, log: log, things: map[string]located{}}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		c.fill(ctx, plans, "secrets", func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", planName(project)).String()
		})
	})
	running.Go(func() {
		c.fill(ctx, instances, "pods", func(o *metav1.ListOptions) { o.LabelSelector = selectProject(project).LabelSelector })
	})
	version := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
		known, complete, planAway := plans.content()
		seen, listed, podsAway := instances.content()
		if len(known) == 0 || !complete || !listed {
			continue // a plan that is gone belongs to a project that is being removed: the last one holds
		}
		version++
		told(Traffic{Snapshot: snapshotOf(known[0], seen, version), Away: planAway || podsAway, Key: known[0].Key})
	}
}

// fill keeps a shelf as the cluster says, until ctx is done: it lists, watches, resumes, and lists again where it must.
func (c *Client) fill(ctx context.Context, to interface {
	cache.ReflectorStore
	reached(ctx context.Context, err error)
}, resource string, only func(*metav1.ListOptions)) {
	r := c.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: resource}).Namespace(c.Namespace)
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			only(&o)
			list, err := r.List(ctx, o)
			to.reached(ctx, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			only(&o)
			stream, err := r.Watch(ctx, o)
			to.reached(ctx, err)
			return stream, err
		},
	}
	log := logr.FromSlogHandler(slog.DiscardHandler) // what keeps it from reading is said by reached
	cache.NewReflectorWithOptions(source, &unstructured.Unstructured{}, to, cache.ReflectorOptions{
		Name: resource, Logger: &log, Backoff: &wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 10, Cap: 2 * time.Second},
	}).RunWithContext(logr.NewContext(ctx, log))
}

// shelf keeps what is made of the objects of one kind. It implements cache.ReflectorStore.
type shelf[T any] struct {
	read    func(*unstructured.Unstructured) (T, bool, error) // false: it is nothing to keep
	changed chan<- struct{}
	log     *slog.Logger

	mu       sync.Mutex
	things   map[string]T
	complete bool // all that there is was seen once
	away     bool
}

func (s *shelf[T]) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// reached notes whether the API server says what it was asked. Nobody asks any more once ctx is done.
func (s *shelf[T]) reached(ctx context.Context, err error) {
	if ctx.Err() != nil || outrun(err) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away == (err != nil) {
		return
	}
	s.away = err != nil
	if s.away {
		s.log.Warn("the API server does not answer: what is known of the cluster stays in force", "err", err)
	} else {
		s.log.Info("the API server answers again")
	}
	s.wake()
}

// outrun says whether the API server has answered that what is to be watched has to be listed: it does not send lists as watches, or has
// none from that version on. A reflector does so by itself.
func outrun(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) ||
		apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}

// content returns what is kept, in order of name, whether that is all, and whether nobody says what became of it since.
func (s *shelf[T]) content() (all []T, complete, away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.things))
	for name := range s.things {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		all = append(all, s.things[name])
	}
	return all, s.complete, s.away
}

// put keeps one object, in things. What cannot be read leaves what was kept of it.
func (s *shelf[T]) put(things map[string]T, o *unstructured.Unstructured) {
	one, keep, err := s.read(o)
	switch {
	case err != nil:
		s.log.Error("an object of the cluster cannot be read", "object", o.GetName(), "err", err)
		if was, had := s.things[o.GetName()]; had {
			things[o.GetName()] = was
		}
	case keep:
		things[o.GetName()] = one
	default:
		delete(things, o.GetName())
	}
}

// Add implements cache.ReflectorStore.
func (s *shelf[T]) Add(obj any) error {
	o, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was, had := s.things[o.GetName()]
	s.put(s.things, o)
	if now, has := s.things[o.GetName()]; had != has || !reflect.DeepEqual(was, now) {
		s.wake()
	}
	return nil
}

// Update implements cache.ReflectorStore.
func (s *shelf[T]) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s *shelf[T]) Delete(obj any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o, ok := obj.(*unstructured.Unstructured); ok {
		delete(s.things, o.GetName())
		s.wake()
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *shelf[T]) Replace(list []any, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	things := make(map[string]T, len(list))
	for _, obj := range list {
		if o, ok := obj.(*unstructured.Unstructured); ok {
			s.put(things, o)
		}
	}
	s.things, s.complete = things, true
	s.wake()
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *shelf[T]) Resync() error { return nil }

func readPlan(o *unstructured.Unstructured) (plan trafficPlan, keep bool, err error) {
	var secret corev1.Secret
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &secret); err != nil {
		return plan, false, err
	}
	plan, err = planOf(secret.Data[keyPlan])
	return plan, err == nil, err
}

// located is an instance, and the service that its pod is labelled with.
type located struct {
	service     string
	hostNetwork bool // its address is the node's, from which others call too
	proxy.Instance
}

// readInstance reads a pod as an instance. One that has no address, or has come to its end, is none.
func readInstance(o *unstructured.Unstructured) (one located, keep bool, err error) {
	var pod corev1.Pod
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &pod); err != nil {
		return one, false, err
	}
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if ended || pod.Status.PodIP == "" || pod.Labels[labelService] == "" || pod.Labels[labelComponent] != "" {
		return one, false, nil
	}
	one = located{pod.Labels[labelService], pod.Spec.HostNetwork, proxy.Instance{ID: pod.Name, Host: pod.Status.PodIP, Revision: revisionOf(pod.ObjectMeta)}}
	one.WarmFrom, one.Ready = readySince(pod)
	if gone := pod.DeletionTimestamp; gone != nil {
		// Its time is that of the end: streams may go on until just before.
		one.Ready, one.Draining, one.DrainBy = false, true, gone.Add(-time.Second)
	}
	return one, true, nil
}

// snapshotOf puts the instances into a plan. It is pure.
func snapshotOf(plan trafficPlan, seen []located, version uint64) proxy.Snapshot {
	s := plan.Snapshot
	s.Epoch, s.Version = 1, version
	s.Services = slices.Clone(s.Services)
	at := make(map[string]int, len(s.Services))
	for i := range s.Services {
		at[s.Services[i].Name] = i
	}
	s.Callers = make(map[string]string, len(seen))
	for _, one := range seen {
		if name := plan.Services[one.service]; name != "" && !one.hostNetwork {
			s.Callers[one.Host] = name
		}
		if i, ok := at[plan.Services[one.service]]; ok {
			s.Services[i].Instances = append(slices.Clip(s.Services[i].Instances), one.Instance)
		}
	}
	return s
}
