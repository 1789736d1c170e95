package web

import (
	"errors"
	"sync"
	"time"

	"evergreen/rest"
)

// memory keeps the last good answers of services: for a moment, so that many visitors cost one question, and for longer,
// so that pages outlive a service that is away.
type memory struct {
	mu    sync.RWMutex
	max   int
	fresh time.Duration // how long an answer is as good as a new one
	last  map[string]remembered
}

type remembered struct {
	answer any
	at     time.Time
}

func newMemory(max int, fresh time.Duration) *memory {
	return &memory{max: max, fresh: fresh, last: map[string]remembered{}}
}

func (m *memory) get(key string) (answer any, fresh bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	r := m.last[key]
	return r.answer, r.answer != nil && time.Since(r.at) < m.fresh
}

// put keeps v; when there are too many answers, any one of them makes room.
func (m *memory) put(key string, v any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.last[key]; !ok && len(m.last) >= m.max {
		for other := range m.last {
			delete(m.last, other)
			break
		}
	}
	m.last[key] = remembered{v, time.Now()}
}

// recall returns what ask answers and remembers it; an answer that is fresh saves the question. If the service is away
// it returns the last answer instead, and says that it is old.
func recall[T any](m *memory, key string, ask func() (T, error)) (v T, old bool, err error) {
	answer, fresh := m.get(key)
	last, known := answer.(T)
	if known && fresh {
		return last, false, nil
	}
	v, err = ask()
	if err == nil {
		m.put(key, v)
		return v, false, nil
	}
	if known && errors.Is(err, rest.ErrUnavailable) {
		return last, true, nil
	}
	return v, false, err
}

// pauses remembers which services were away, so that what merely decorates a page does not make every page wait.
type pauses struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// pause is how long a service that was away is left alone.
const pause = 5 * time.Second

func newPauses() *pauses { return &pauses{until: map[string]time.Time{}} }

func (p *pauses) resting(service string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.until[service])
}

func (p *pauses) rest(service string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until[service] = time.Now().Add(pause)
}
