package server

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"trellis/proxy"
)

// TestSocketsMoveWithTheirNamespace: what is open already is not asked for again, but where its namespace is another one.
func TestSocketsMoveWithTheirNamespace(t *testing.T) {
	names := func(netns string) []proxy.Listener {
		return []proxy.Listener{{Name: "name/web-1", Address: "127.0.0.1:15088", Netns: netns}, {Name: "gateway", Address: "127.0.0.1:8080"}}
	}
	p := &plane{chosen: &addresses{}, asked: map[string]spot{}, bound: map[string]string{}}
	for _, step := range []struct {
		listeners    []proxy.Listener
		wanted, gone []string
	}{
		{names("/run/one"), []string{"name/web-1", "gateway"}, nil},
		{names("/run/one"), nil, nil},
		{names("/run/two"), []string{"name/web-1"}, nil},
		{names("/run/two")[1:], nil, []string{"name/web-1"}},
	} {
		wanted, gone := p.sockets(step.listeners)
		var asked []string
		for _, s := range wanted {
			asked = append(asked, s.Name)
			p.asked[s.Name], p.bound[s.Name] = spotOf(s), s.Address
		}
		if d := cmp.Diff([2][]string{step.wanted, step.gone}, [2][]string{asked, gone}); d != "" {
			t.Errorf("%+v: %s", step.listeners, d)
		}
	}
}
