package kubernetes

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"trellis/compose"
	"trellis/errdefs"
)

// leaseServer is an API server that knows one Lease and answers when, or if, it is told to.
type leaseServer struct {
	dynamic.ResourceInterface // what is not asked for here panics

	late time.Duration // how long after it has written the Lease down it answers

	mu      sync.Mutex
	lease   *unstructured.Unstructured
	written time.Time // when it was replaced last
	silent  bool      // it does not answer any more
	fails   error
}

// becomes has it answer no more, with an error, or as it should.
func (s *leaseServer) becomes(silent bool, fails error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent, s.fails = silent, fails
}

func (s *leaseServer) now() (lease *unstructured.Unstructured, written time.Time, silent bool, fails error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease.DeepCopy(), s.written, s.silent, s.fails
}

func newLeaseServer(t *testing.T) *leaseServer {
	t.Helper()
	o, err := plainObject(newRenderer(compose.Project{Name: "shop"}, nil, Options{Namespace: "shop", Revision: 1}).lease())
	if err != nil {
		t.Fatal(err)
	}
	return &leaseServer{lease: o}
}

func (s *leaseServer) Get(ctx context.Context, _ string, _ metav1.GetOptions, _ ...string) (*unstructured.Unstructured, error) {
	lease, _, silent, fails := s.now()
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return lease, fails
}

func (s *leaseServer) Update(ctx context.Context, o *unstructured.Unstructured, _ metav1.UpdateOptions, _ ...string) (*unstructured.Unstructured, error) {
	s.mu.Lock()
	s.lease, s.written = o.DeepCopy(), time.Now()
	s.lease.SetResourceVersion(s.written.Format(time.RFC3339Nano))
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(s.late):
	}
	return o, nil
}

// TestNobodyLeadsForTooLong: who holds the Lease stops long enough before another may take it, which is when that has not changed for as
// long as it lasts, however the API server came to be silent.
func TestNobodyLeadsForTooLong(t *testing.T) {
	for name, c := range map[string]struct {
		late  time.Duration // how late each answer was
		after time.Duration // when the API server falls silent
		fails error         // it answers so instead
	}{
		"after the first answer":      {0, time.Second, nil},
		"after some renewals":         {0, 17 * time.Second, nil},
		"after answers that are late": {2 * time.Second, 16 * time.Second, nil},
		"it refuses":                  {0, time.Second, errors.New("connection refused")},
		"it refuses, and was late":    {2 * time.Second, 9 * time.Second, errors.New("connection refused")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLeaseServer(t)
				s.late = c.late
				l, since := acquired(t, s)
				go func() {
					time.Sleep(c.after)
					s.becomes(c.fails == nil, c.fails)
				}()
				err := l.keep(t.Context(), since, func(ctx context.Context) error {
					<-ctx.Done()
					return nil
				})
				_, written, _, _ := s.now()
				if led := time.Since(written); !errors.Is(err, errLeaseLost) || !errors.Is(err, errdefs.ErrUnavailable) || led > leaseLost || led < leaseLost-c.late {
					t.Errorf("%v, and it led for %s after what it wrote last; another takes over after %s", err, led, leaseTime)
				}
			})
		})
	}
}

// TestLeaseIsWaitedFor: an API server that could not answer in time, or not at all, is asked again by who does not hold the Lease yet;
// who is not allowed to have it hears so.
func TestLeaseIsWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		fails  error
		waited bool
	}{
		"it is late":      {apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0), true},
		"it refuses":      {errors.New("connection refused"), true},
		"it is forbidden": {apierrors.NewForbidden(schema.GroupResource{Resource: "leases"}, "trellis-shop", errors.New("no rights")), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLeaseServer(t)
				s.becomes(false, c.fails)
				mended := time.AfterFunc(leaseTime, func() { s.becomes(false, nil) })
				defer mended.Stop()
				l := &lease{leases: s, name: "trellis-shop", who: "first"}
				if _, err := l.acquire(t.Context()); (err == nil) != c.waited {
					t.Error(err)
				}
			})
		})
	}
}

// acquired is a Lease that is one's own since then.
func acquired(t *testing.T, s *leaseServer) (l *lease, since time.Time) {
	t.Helper()
	l = &lease{leases: s, name: "trellis-shop", who: "first"}
	since, err := l.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return l, since
}

// TestLeaseOutlivesAnOutage: a question without an answer takes nothing away from who holds the Lease.
func TestLeaseOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLeaseServer(t)
		l, since := acquired(t, s)
		err := l.keep(t.Context(), since, func(ctx context.Context) error {
			for range 20 {
				s.becomes(true, nil)
				time.Sleep(leaseAsked)
				s.becomes(false, nil)
				time.Sleep(leaseRenew)
			}
			return ctx.Err()
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestTakenLeaseEndsTheRun: who finds another's name there does nothing more.
func TestTakenLeaseEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLeaseServer(t)
		l, since := acquired(t, s)
		go func() {
			time.Sleep(time.Second)
			other := lease{leases: s, name: l.name, who: "second"}
			if _, err := other.take(t.Context(), time.Now()); err != nil {
				t.Error(err)
			}
			if taken, err := other.take(t.Context(), time.Now().Add(leaseTime)); err != nil || !taken {
				t.Errorf("taken: %v, %v", taken, err)
			}
		}()
		began := time.Now()
		err := l.keep(t.Context(), since, func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		})
		if took := time.Since(began); !errors.Is(err, errLeaseLost) || took > leaseRenew {
			t.Errorf("%v after %s", err, took)
		}
		now, _, _, _ := s.now()
		if holder, _, _ := unstructured.NestedString(now.Object, "spec", "holderIdentity"); holder != "second" {
			t.Errorf("%q holds it", holder)
		}
	})
}

// TestApiServerIsWaitedFor: who wants to hold the Lease outlives an API server that is away when they begin, and says so once.
func TestApiServerIsWaitedFor(t *testing.T) {
	s, c := cluster(t)
	plain, err := plainObject(newRenderer(compose.Project{Name: "shop"}, nil, Options{Namespace: "shop", Revision: 1}).lease())
	if err != nil {
		t.Fatal(err)
	}
	s.objects["/apis/coordination.k8s.io/v1/namespaces/shop/leases/"+notesName("shop")] = plain.Object
	refusals := 2
	s.before = func(w http.ResponseWriter, _ *http.Request) bool {
		if refusals--; refusals < 0 {
			return false
		}
		answer(w, http.StatusServiceUnavailable, "ServiceUnavailable", "down")
		return true
	}
	var said strings.Builder
	held := false
	err = c.Hold(t.Context(), "shop", "first", slog.New(slog.NewTextHandler(&said, nil)), func(context.Context) error {
		held = true
		return nil
	})
	if err != nil || !held || strings.Count(said.String(), "the Lease cannot be had yet") != 1 {
		t.Errorf("%v, held %v, and said is\n%s", err, held, said.String())
	}
}
