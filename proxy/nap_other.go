//go:build !linux

package proxy

import "time"

// nap sleeps.
func nap(d time.Duration) { time.Sleep(d) }
