package identity

import (
	"fmt"
	"testing"
	"time"
	"unsafe"
)

// TestTokensOfOneConnection: the tokens of a connection, as behind a balancer, are read into the same bytes one after the other. One
// that was verified is known by what it was, and not by what has come to lie there since: that may be no token at all.
func TestTokensOfOneConnection(t *testing.T) {
	v := &JWT{
		cfg: JWTConfig{Now: time.Now}, keys: &Keys{now: time.Now, fetched: time.Now(), changes: 1}, verified: map[string]*Caller{},
	}
	buffer := make([]byte, len("token-0000"))
	read := func(format string, n int) string {
		copy(buffer, fmt.Sprintf(format, n))
		return unsafe.String(&buffer[0], len(buffer))
	}
	subject := func(n int) string { return fmt.Sprintf("user-%04d", n) }
	for n := range maxVerified {
		v.remember(read("token-%04d", n), NewCaller(subject(n), time.Now().Add(time.Hour), nil), 1)
	}
	v.remember("one more, and the others are the older ones", NewCaller("one more", time.Now().Add(time.Hour), nil), 1)
	for range 2 {
		for n := range maxVerified - 1 {
			if c := v.known(read("token-%04d", n), time.Now()); c == nil || c.Subject != subject(n) {
				t.Fatalf("token %d is that of %v", n, c)
			}
		}
		for n := range 2000 {
			if c := v.known(read("forge-%04d", n), time.Now()); c != nil {
				t.Fatalf("forgery %d is taken for a token of %s", n, c.Subject)
			}
		}
	}
}
