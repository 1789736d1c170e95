package main

import (
	"testing"

	"trellis/api"
	"trellis/engine"
)

// TestTopTellsOfAShift: what is shifted to another gateway has a line of its own; nothing else does that is no service any more.
func TestTopTellsOfAShift(t *testing.T) {
	m := measurement{services: []engine.Service{{Name: "web", State: engine.ServiceHealthy}}}
	m.recent = api.Recent{Seconds: 30, Services: map[string]api.Flow{
		"web": {Requests: 60}, "gone": {Requests: 30}, "http://10.0.0.7:80": {Requests: 15, Failed: 3, P95: 40},
	}}
	all := m.rows([]usageView{{Service: "web", Instance: "web-1"}})
	if len(all) != 3 || all[0].name != "web" || all[1].name != "  web-1" || all[2].name != "http://10.0.0.7:80" {
		t.Fatalf("%+v", all)
	}
	if r := all[2]; r.rate == nil || *r.rate != 0.5 || r.failed == nil || *r.failed != 0.2 || r.state != "" {
		t.Errorf("the shift: %+v", r)
	}
}
