//go:build race

package http1

// poison has tests under the race detector see who keeps a string of a message longer than it is valid.
func poison(b []byte) {
	for i := range b {
		b[i] = '!'
	}
}
