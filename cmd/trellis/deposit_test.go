package main

import (
	"testing"

	"trellis/compose"
)

func TestOriginOfAnImage(t *testing.T) {
	build, process := &compose.Build{Context: "."}, &compose.Process{Build: "make", Artifacts: []string{"bin/web"}}
	withProcess := func(svc compose.Service) compose.Service {
		svc.Trellis.Process = process
		return svc
	}
	for name, c := range map[string]struct {
		svc     compose.Service
		driver  string
		docker  bool
		want    origin
		unasked bool // whether Docker is there decides nothing
	}{
		"an image":                            {svc: compose.Service{Image: "db:17"}, want: asWritten, unasked: true},
		"an image that is a process here":     {svc: withProcess(compose.Service{Image: "db:17"}), want: asWritten, unasked: true},
		"a build with Docker":                 {svc: compose.Service{Build: build}, docker: true, want: fromDocker},
		"a build without":                     {svc: compose.Service{Build: build}, want: fromNowhere},
		"a named build with Docker":           {svc: compose.Service{Build: build, Image: "web:1"}, docker: true, want: fromDocker},
		"a named build without":               {svc: compose.Service{Build: build, Image: "web:1"}, want: asWritten},
		"a named build that is pulled":        {svc: compose.Service{Build: build, Image: "web:1", PullPolicy: "always"}, docker: true, want: asWritten, unasked: true},
		"a named build that is built":         {svc: compose.Service{Build: build, Image: "web:1", PullPolicy: "build"}, docker: true, want: fromDocker},
		"a build or a process, with Docker":   {svc: withProcess(compose.Service{Build: build}), docker: true, want: fromDocker},
		"a build or a process, without":       {svc: withProcess(compose.Service{Build: build}), want: fromArtifacts},
		"a build or a process, as processes":  {svc: withProcess(compose.Service{Build: build}), driver: driverProcess, docker: true, want: fromArtifacts, unasked: true},
		"a named build or a process, without": {svc: withProcess(compose.Service{Build: build, Image: "web:1"}), want: fromArtifacts},
		"a process":                           {svc: withProcess(compose.Service{}), docker: true, want: fromArtifacts, unasked: true},
		"a program of this machine":           {svc: compose.Service{Trellis: compose.ServiceExtension{Process: &compose.Process{Command: []string{"redis-server"}}}}, want: fromNowhere, unasked: true},
		"a process without artifacts":         {svc: compose.Service{Trellis: compose.ServiceExtension{Process: &compose.Process{Build: "make", Command: []string{"bin/web"}}}}, want: fromNowhere, unasked: true},
		"a provider":                          {svc: compose.Service{Other: map[string]any{"provider": map[string]any{}}}, want: asWritten, unasked: true},
	} {
		asked := false
		got := originOf(c.svc, c.driver, func() bool { asked = true; return c.docker })
		if got != c.want || asked == c.unasked {
			t.Errorf("%s: %d, asked for Docker: %v; want %d, %v", name, got, asked, c.want, !c.unasked)
		}
	}
}
