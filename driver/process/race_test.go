//go:build linux && race

package process_test

// smallShims says whether the tests build the real shim instead of being it themselves: a binary with the race
// detector takes a tenth of a second to start, two times an instance.
const smallShims = true
