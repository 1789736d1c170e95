package web

import (
	"errors"
	"sync"

	"evergreen/rest"
)

// memory keeps the last good answers of services, so that pages outlive a service that is away.
type memory struct {
	mu   sync.Mutex
	max  int
	last map[string]any
}

func newMemory(max int) *memory { return &memory{max: max, last: map[string]any{}} }

func (m *memory) get(key string) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last[key]
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
	m.last[key] = v
}

// recall returns what ask answers and remembers it. If the service is away it returns the last answer instead, and says
// that it is old.
func recall[T any](m *memory, key string, ask func() (T, error)) (v T, old bool, err error) {
	v, err = ask()
	if err == nil {
		m.put(key, v)
		return v, false, nil
	}
	if last, ok := m.get(key).(T); ok && errors.Is(err, rest.ErrUnavailable) {
		return last, true, nil
	}
	return v, false, err
}
