package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"trellis/api"
	"trellis/engine"
)

// slowGateway is a control plane in a cluster whose gateway serves the routes after some time.
type slowGateway struct {
	api.Control
	after time.Time
}

func (g slowGateway) Status(context.Context) (api.Status, error) {
	if time.Now().Before(g.after) {
		return unservedStatus(), nil
	}
	return api.Status{}, nil
}

func unservedStatus() api.Status {
	return api.Status{State: engine.State{Unserved: []engine.Unserved{{Reason: "what has changed has not been looked at yet"}}}}
}

// TestServed: a deploy waits for the gateway of the cluster's own, and for as long as that may take at most.
func TestServed(t *testing.T) {
	for _, test := range []struct {
		name         string
		takes, waits time.Duration
		served       bool
	}{
		{"at once", 0, gatewayPatience / 20, true},
		{"soon", 2 * time.Second, 2 * time.Second, true},
		{"never", time.Hour, gatewayPatience, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				status := (&program{}).served(t.Context(), slowGateway{after: begin.Add(test.takes)}, unservedStatus())
				if (len(status.Unserved) == 0) != test.served {
					t.Errorf("it is %+v", status.Unserved)
				}
				if took := time.Since(begin); took != test.waits {
					t.Errorf("it took %s, want %s", took, test.waits)
				}
			})
		})
	}
}
