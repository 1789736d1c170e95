package main

import (
	"strings"
	"testing"

	"trellis/compose"
)

func TestWatchRules(t *testing.T) {
	process := func(build string, artifacts ...string) compose.ServiceExtension {
		return compose.ServiceExtension{Process: &compose.Process{Dir: "/shop", Build: build, Artifacts: artifacts}}
	}
	rule := func(path, action string) *compose.Develop {
		return &compose.Develop{Watch: []compose.WatchRule{{Path: path, Action: action}}}
	}
	for name, test := range map[string]struct {
		svc  compose.Service
		want string // "" none, "path action", or why it is not carried out
	}{
		"a build without rules":            {compose.Service{Trellis: process("make", "bin/app")}, "/shop rebuild"},
		"scripts without rules":            {compose.Service{Trellis: process("", "app.py")}, "/shop rebuild"},
		"nothing to build":                 {compose.Service{Trellis: process("")}, ""},
		"an image":                         {compose.Service{Image: "x"}, ""},
		"an image with rules":              {compose.Service{Image: "x", Develop: rule("/shop/a", "sync")}, "only services that run as processes"},
		"sync of an artefact":              {compose.Service{Trellis: process("make", "public"), Develop: rule("/shop/public/css", "sync")}, "/shop/public/css sync"},
		"sync of what artefacts are in":    {compose.Service{Trellis: process("make", "web/public"), Develop: rule("/shop/web", "sync")}, "/shop/web sync"},
		"sync of something else":           {compose.Service{Trellis: process("make", "public"), Develop: rule("/shop/src", "sync")}, "/shop/src is no artefact"},
		"sync from elsewhere":              {compose.Service{Trellis: process("make", "public"), Develop: rule("/lib", "sync+exec")}, "/lib is no artefact"},
		"sync of what is used as it lies":  {compose.Service{Trellis: process(""), Develop: rule("/shop/src", "sync+restart")}, "/shop/src sync+restart"},
		"rebuild where nothing is built":   {compose.Service{Trellis: process(""), Develop: rule("/shop/src", "rebuild")}, "there is nothing to rebuild"},
		"restart needs neither of the two": {compose.Service{Trellis: process(""), Develop: rule("/shop/conf", "restart")}, "/shop/conf restart"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			for _, r := range watchRules(compose.Project{Services: map[string]compose.Service{"web": test.svc}}, nil) {
				if got = uncarried(r, test.svc); got == "" {
					got = r.Path + " " + r.Action
				}
			}
			if got != test.want && (test.want == "" || !strings.Contains(got, test.want)) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
	two := compose.Project{Services: map[string]compose.Service{"a": {Trellis: process("make")}, "b": {Trellis: process("make")}}}
	if rules := watchRules(two, []string{"b"}); len(rules) != 1 || rules[0].service != "b" {
		t.Errorf("the rules of b alone: %+v", rules)
	}
}
