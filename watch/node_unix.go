package watch

import (
	"io/fs"
	"syscall"
)

// nodeOf returns the number of the file itself: one that was renamed over another has its own.
func nodeOf(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
