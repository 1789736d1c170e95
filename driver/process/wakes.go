//go:build linux

package process

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// wakes tells who follows the output of instances that something has changed in their directories. One inotify serves all of
// them: the kernel gives a user 128 (fs.inotify.max_user_instances), and the output of every instance is followed.
type wakes struct {
	mu        sync.Mutex
	events    *inotify                         // nil while nobody follows
	followers map[int32]map[chan struct{}]bool // by the number of the directory
}

// follow returns what hears of changes in dir until leave is called.
func (w *wakes) follow(dir string) (heard <-chan struct{}, leave func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.events == nil {
		events, err := newInotify()
		if err != nil {
			return nil, nil, err
		}
		w.events, w.followers = events, map[int32]map[chan struct{}]bool{}
		go w.tell(events)
	}
	events := w.events
	defer w.rest()
	number, err := events.watch(dir, unix.IN_MODIFY|unix.IN_MOVED_TO|unix.IN_CREATE|unix.IN_CLOSE_WRITE|unix.IN_DELETE_SELF)
	if err != nil {
		return nil, nil, err
	}
	c := make(chan struct{}, 1)
	if w.followers[number] == nil {
		w.followers[number] = map[chan struct{}]bool{}
	}
	w.followers[number][c] = true
	return c, func() { w.leave(events, number, c) }, nil
}

func (w *wakes) leave(events *inotify, number int32, c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.events != events {
		return
	}
	delete(w.followers[number], c)
	if len(w.followers[number]) == 0 {
		delete(w.followers, number)
		events.unwatch(number)
	}
	w.rest()
}

// rest lets go of the inotify that nobody needs. The caller holds the lock.
func (w *wakes) rest() {
	if len(w.followers) == 0 && w.events != nil {
		w.events.close()
		w.events = nil
	}
}

// tell passes on what happens, until the last follower has left.
func (w *wakes) tell(events *inotify) {
	for {
		c, _, err := events.next(time.Time{})
		w.mu.Lock()
		if w.events != events {
			w.mu.Unlock()
			return
		}
		if err != nil { // whoever follows looks each second anyway
			w.followers = nil
			w.rest()
			w.mu.Unlock()
			return
		}
		for number, all := range w.followers {
			if number != c.watch && c.mask&unix.IN_Q_OVERFLOW == 0 {
				continue
			}
			for f := range all {
				select {
				case f <- struct{}{}:
				default: // it has not looked since the last time
				}
			}
		}
		w.mu.Unlock()
	}
}
