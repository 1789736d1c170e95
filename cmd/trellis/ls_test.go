package main

import (
	"testing"

	"trellis/api"
	"trellis/engine"
)

func TestTheStateOfAWholeProject(t *testing.T) {
	of := func(states ...string) api.Status {
		var s api.Status
		for _, state := range states {
			s.Services = append(s.Services, engine.Service{State: state})
		}
		return s
	}
	for want, s := range map[string]api.Status{
		"stopped": of(engine.ServiceStopped, engine.ServiceStopped), "healthy": of(engine.ServiceStopped, engine.ServiceHealthy),
		"failed": of(engine.ServiceHealthy, engine.ServiceFailed, engine.ServiceStarting), "empty": of(),
	} {
		if got := overall(s); got != want {
			t.Errorf("%+v: %q, want %q", s.Services, got, want)
		}
	}
}
