// Package orderedmap has as much of its namesake as Prometheus' description of its API calls. It keeps nothing.
package orderedmap

// Map would be a map in the order of its insertions.
type Map[K comparable, V any] struct{}

// Pair would be an entry of a Map.
type Pair[K comparable, V any] interface {
	Key() K
	Value() V
	Next() Pair[K, V]
}

// New returns a map that stays empty.
func New[K comparable, V any]() *Map[K, V] { return &Map[K, V]{} }

// Set keeps nothing.
func (*Map[K, V]) Set(K, V) (old V, was bool) { return }

// First returns nil: there is no entry.
func (*Map[K, V]) First() Pair[K, V] { return nil }
