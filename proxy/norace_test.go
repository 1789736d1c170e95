//go:build !race

package proxy

// raced says whether the tests run with the race detector.
const raced = false
