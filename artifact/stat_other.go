//go:build !linux

package artifact

import (
	"io/fs"
	"syscall"
)

// changeTime returns a file's change time in nanoseconds and its inode.
func changeTime(info fs.FileInfo) (ctime int64, ino uint64) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ctimespec.Nano(), st.Ino
	}
	return 0, 0
}
