package databasetest

import "syscall"

// dies has a process run as somebody else (nil: as this one) and end with its parent, however that ends.
func dies(as *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGQUIT}
}
