//go:build !embedshim

package server

func embeddedShim() []byte { return nil }
