package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"trellis/artifact"
	"trellis/compose"
)

// The actions of develop.watch.
const (
	actionRebuild     = "rebuild"
	actionRestart     = "restart"
	actionSync        = "sync"
	actionSyncRestart = "sync+restart"
	actionSyncExec    = "sync+exec"
)

// watchedRule is one rule of develop.watch, or the one that a service without any has.
type watchedRule struct {
	compose.WatchRule
	service string
	at      string // its Compose path, "" where the file has none
}

func (r watchedRule) syncs() bool { return strings.HasPrefix(r.Action, actionSync) }

// watchRules returns what is watched for each service: what its develop section says, or the sources of what is built.
func watchRules(project compose.Project, names []string) []watchedRule {
	var all []watchedRule
	for _, name := range project.ServiceNames() {
		svc := project.Services[name]
		process := svc.Trellis.Process
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		if svc.Develop != nil {
			for i, r := range svc.Develop.Watch {
				all = append(all, watchedRule{r, name, fmt.Sprintf("%s.develop.watch[%d]", compose.JoinPath("services", name), i)})
			}
		} else if process != nil && (process.Build != "" || len(process.Artifacts) > 0) {
			all = append(all, watchedRule{compose.WatchRule{Path: process.Dir, Action: actionRebuild}, name, ""})
		}
	}
	return all
}

// uncarried says why a rule cannot be carried out, "" where it can.
func uncarried(r watchedRule, svc compose.Service) string {
	process := svc.Trellis.Process
	switch {
	case process == nil:
		return "only services that run as processes are watched"
	case r.Action == actionRebuild && process.Build == "" && len(process.Artifacts) == 0:
		return "there is nothing to rebuild: the service has neither x-trellis.process.build nor artifacts"
	case r.syncs() && len(process.Artifacts) > 0 && !touches(*process, r.Path):
		return fmt.Sprintf("%s is no artefact of the service, so that its instances do not have it; name it under x-trellis.process.artifacts, or use rebuild", r.Path)
	}
	return ""
}

// touches says whether path is among the artifacts of a process, or one of them is in it.
func touches(process compose.Process, path string) bool {
	rel, err := filepath.Rel(process.Dir, path)
	if err != nil {
		return false
	}
	rel = filepath.ToSlash(rel)
	return filepath.IsLocal(rel) && artifact.IsArtifact(process.Artifacts, rel) || slices.ContainsFunc(process.Artifacts, func(a string) bool {
		return artifact.IsArtifact([]string{rel}, filepath.ToSlash(filepath.Clean(a)))
	})
}

// skips returns what a rule leaves out beyond its own patterns: what the build context's .dockerignore does, and for a
// service without rules what its build does not take for sources.
func skips(r watchedRule, svc compose.Service) func(string, bool) bool {
	if r.at == "" {
		return artifact.Skip(r.Path, svc.Trellis.Process.Artifacts)
	}
	if svc.Build == nil || !filepath.IsAbs(svc.Build.Context) {
		return nil
	}
	f, err := os.Open(filepath.Join(svc.Build.Context, ".dockerignore"))
	if err != nil {
		return nil
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		return nil
	}
	matcher, err := patternmatcher.New(patterns)
	at, rerr := filepath.Rel(svc.Build.Context, r.Path)
	if err != nil || rerr != nil || !filepath.IsLocal(at) {
		return nil
	}
	return func(path string, dir bool) bool {
		ignored, err := matcher.MatchesOrParentMatches(filepath.Join(at, path))
		return err == nil && ignored && (!dir || !matcher.Exclusions())
	}
}
