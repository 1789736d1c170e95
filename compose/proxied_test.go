package compose

import (
	"slices"
	"testing"
)

func TestBalancers(t *testing.T) {
	got := Balancers([]string{"10.0.0.7", "10.1.2.3/16", "::ffff:10.0.0.7", "::ffff:10.0.0.0/104", "2001:db8::1/32", "balancer", "::ffff:0:0/95"})
	want := []string{"10.0.0.7/32", "10.1.0.0/16", "10.0.0.7/32", "10.0.0.0/8", "2001:db8::/32", "::fffe:0:0/95"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
