package main

import "testing"

func TestGroups(t *testing.T) {
	for path, want := range map[string][2]string{
		"services.web.environment.COLOR":  {"services.web", "environment.COLOR"},
		"services.web.ports[0].published": {"services.web", "ports[0].published"},
		`services."api.v1".image`:         {`services."api.v1"`, "image"},
		`services."api.v1"`:               {`services."api.v1"`, ""},
		"volumes.data":                    {"volumes.data", ""},
		"x-trellis.gateway.http":          {"x-trellis.gateway", "http"},
	} {
		if group, rest := groupOf(path); [2]string{group, rest} != want {
			t.Errorf("%s: %q, %q", path, group, rest)
		}
	}
}
