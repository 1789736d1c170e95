//go:build !linux

package databasetest

import "syscall"

// dies has a process run as somebody else; nil: as this one.
func dies(as *syscall.Credential) *syscall.SysProcAttr { return &syscall.SysProcAttr{Credential: as} }
