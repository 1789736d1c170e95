package proxy

import (
	"testing"
	"time"
)

// TestForgottenLanes: who calls every port of a service leaves nothing behind there for good; what somebody waits for or
// uses stays.
func TestForgottenLanes(t *testing.T) {
	s := newTestService(Service{Instances: []Instance{{ID: "a", Host: "h", Ready: true}}})
	defer s.close()
	const ports = 5000
	for port := range ports {
		s.lane(port)
	}
	pools := func() int { return len(s.instances["a"].pools) }
	count := func() (n int) {
		for range s.lanes.all() {
			n++
		}
		return n
	}
	awaited, used, unused := s.lane(7), s.lane(80), s.lane(443)
	place := awaited.queue.enter()
	defer awaited.queue.leave(place)
	conf, now := s.conf.Load(), time.Now()
	if s.apply(conf, now); count() != ports || pools() != ports {
		t.Fatalf("%d lanes and %d pools after what just happened", count(), pools())
	}
	if s.lane(80) != used {
		t.Error("another lane of a port that is used")
	}
	s.apply(conf, now.Add(2*laneTime))
	if count() != 2 || pools() != 2 || s.lane(7) != awaited || s.lane(80) != used {
		t.Errorf("%d lanes and %d pools are left", count(), pools())
	}
	if again := s.lane(443); again == unused || again.acquire(nil) == nil {
		t.Error("a port that was forgotten has no lane of its own again")
	}
}

// TestFewLanesAreKept: a service with as many ports as services have keeps what is known of each, however seldom it is called.
func TestFewLanesAreKept(t *testing.T) {
	s := newTestService(Service{Instances: []Instance{{ID: "a", Host: "h", Ready: true}}})
	defer s.close()
	l := s.lane(80)
	s.instances["a"].pool(80).unreachable()
	for i := range 3 {
		s.apply(s.conf.Load(), time.Now().Add(time.Duration(i)*2*laneTime))
	}
	if s.lane(80) != l || !s.instances["a"].ejectedAt(time.Now()) {
		t.Error("forgotten")
	}
}
