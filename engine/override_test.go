package engine

import (
	"testing"

	"trellis/compose"
	"trellis/state"
)

func TestRemaining(t *testing.T) {
	three := 3
	of := func(replicas int) *compose.Service {
		return &compose.Service{Deploy: compose.Deploy{Replicas: &replicas}}
	}
	wish := state.Override{Service: "web", Replicas: &three, Restart: 2, Stopped: true}
	for name, tc := range map[string]struct {
		before, now *compose.Service
		back        bool
		want        state.Override
	}{
		"gone back by itself":     {of(1), of(2), true, state.Override{Service: "web", Restart: 2, Stopped: true}},
		"gone back to without it": {of(1), nil, true, state.Override{Service: "web"}},
		"the same file":           {of(1), of(1), false, state.Override{Service: "web", Replicas: &three, Restart: 2}},
		"another number":          {of(1), of(2), false, state.Override{Service: "web", Restart: 2}},
		"it was not there":        {nil, of(2), false, state.Override{Service: "web", Replicas: &three, Restart: 2}},
		"it is no more":           {of(1), nil, false, state.Override{Service: "web"}},
		"it never was, nor is it": {nil, nil, false, state.Override{Service: "web"}},
	} {
		if got := Remaining(wish, tc.before, tc.now, tc.back); got != tc.want {
			t.Errorf("%s: %+v is left, want %+v", name, got, tc.want)
		}
	}
}
