package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"trellis/compose"
	"trellis/engine"
)

// workloads are the kinds of which pods are made.
var workloads = []string{"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"}

// turn splits the objects of a project into those whose turn it is and the workloads that wait: for what they depend on, as the file
// says, and for the Job of their own that runs what comes before a start. What is there already never waits for another service: a
// restart of one must not hold up another. waits says for each service what it waits for.
func turn(p compose.Project, objects []Object, live Live, s engine.State) (now []Object, waits map[string]string) {
	waits = map[string]string{}
	unprepared := unprepared(objects, live)
	for _, o := range objects {
		service := serviceOf(o)
		svc, known := p.Services[service]
		kind := o.GetObjectKind().GroupVersionKind().Kind
		_, there := stateIn(s, service)
		if known && !there && slices.Contains(workloads, kind) {
			if why := awaits(p, svc, s); why != "" {
				waits[service] = why
				continue
			}
		}
		if unprepared[service] && slices.Contains(workloads, kind) && !prepares(o) {
			waits[service] = "its pre_start to end"
			continue
		}
		now = append(now, o)
	}
	return now, waits
}

// awaits says what a service that has not been started yet waits for, "" where it is its turn.
func awaits(p compose.Project, svc compose.Service, s engine.State) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(svc.DependsOn)) {
		dep := svc.DependsOn[name]
		other, there := stateIn(s, name)
		file, wanted := p.Services[name]
		broken := other.State == engine.ServiceFailed || other.State == engine.ServiceCrashLooping
		if file.Provided() || !dep.Required && (!wanted || broken) || other.State == engine.ServiceStopped { // there is nothing to wait for, as on one machine
			continue
		}
		what := ""
		switch dep.Condition {
		case compose.ServiceHealthy:
			if other.State != engine.ServiceHealthy {
				what = "to be healthy"
			}
		case compose.ServiceCompletedSuccessfully:
			if other.State != engine.ServiceCompleted {
				what = "to end well"
			}
		default:
			if !there {
				what = "to be started"
			}
		}
		if what != "" {
			all = append(all, fmt.Sprintf("%s %s", name, what))
		}
	}
	return strings.Join(all, ", ")
}

func stateIn(s engine.State, service string) (engine.Service, bool) {
	for _, svc := range s.Services {
		if svc.Name == service {
			return svc, true
		}
	}
	return engine.Service{}, false
}

func waitsFor(what string) string {
	if what == "" {
		return ""
	}
	return "waits for " + what
}
