package engine

import (
	"cmp"
	"slices"
	"strings"

	"trellis/compose"
)

// Awaited returns the services that others wait for to complete.
func Awaited(p compose.Project) map[string]bool {
	awaited := map[string]bool{}
	for _, svc := range p.Services {
		for name, d := range svc.DependsOn {
			if d.Condition == compose.ServiceCompletedSuccessfully {
				awaited[name] = true
			}
		}
	}
	return awaited
}

// MayCall returns whom a service may call where that is asked at all: itself, its calls, and what it depends on or links
// to, sorted.
func MayCall(s compose.Service) []string {
	may := append([]string{s.Name}, s.Trellis.Calls...)
	for name := range s.DependsOn {
		may = append(may, name)
	}
	for _, link := range s.Links {
		name, _, _ := strings.Cut(link, ":")
		may = append(may, name)
	}
	slices.Sort(may)
	return slices.Compact(may)
}

// SecretTarget is where a secret stands in an instance.
func SecretTarget(use compose.FileMount) string {
	target := cmp.Or(use.Target, use.Source)
	if !strings.HasPrefix(target, "/") {
		target = "/run/secrets/" + target
	}
	return target
}

// ConfigTarget is where a config stands in an instance.
func ConfigTarget(use compose.FileMount) string {
	return "/" + strings.TrimPrefix(cmp.Or(use.Target, use.Source), "/")
}
