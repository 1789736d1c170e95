package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// maxAccessLog is the size in bytes at which an access log becomes the old one, access.log.1: the two take twice that.
const maxAccessLog = 64 << 20

// accessLog is a project's access log. Two data planes may write it at once, while one takes over from the other: each
// notices that the other has begun a new file.
type accessLog struct {
	path string
	most int64 // bytes of one file
	file *os.File
}

// Write appends whole lines.
func (a *accessLog) Write(b []byte) (int, error) {
	if err := a.open(); err != nil {
		return 0, fmt.Errorf("open access log: %w", err)
	}
	return a.file.Write(b)
}

// open sees to it that file is the one at path, and not full.
func (a *accessLog) open() error {
	there, err := os.Stat(a.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && there.Size() >= a.most {
		if err := os.Rename(a.path, a.path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		there = nil
	}
	if a.file != nil {
		if ours, err := a.file.Stat(); err == nil && there != nil && os.SameFile(ours, there) {
			return nil
		}
		a.file.Close()
		a.file = nil
	}
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	a.file = f
	return nil
}
