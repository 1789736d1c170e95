package local

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/probe"
)

// template is everything about the instances of a service that does not depend on the slot. Its spec holds refs and
// digests where an instance gets paths, so that its hash says what makes another instance and nothing else.
type template struct {
	spec    driver.Spec
	process bool
	hooks   []hookTemplate
	probe   probe.Spec // no part of the hash: another one replaces nobody
}

type hookTemplate struct {
	spec       driver.Spec
	perReplica bool
}

// templateOf builds the template of a service.
func templateOf(p compose.Project, svc compose.Service) (template, error) {
	t := template{process: svc.Trellis.Process != nil, probe: engine.Probe(svc)}
	spec := driver.Spec{
		Project: p.Name, Service: svc.Name, Image: svc.Image, Env: envOf(svc.Environment), Dir: svc.WorkingDir,
		User: svc.User, GroupAdd: svc.GroupAdd, Hostname: svc.Hostname, Init: svc.Init, ReadOnly: svc.ReadOnly,
		Privileged: svc.Privileged, CapAdd: svc.CapAdd, CapDrop: svc.CapDrop, Sysctls: svc.Sysctls,
		NoNewPrivileges: noNewPrivileges(svc.SecurityOpt),
		OomScore:        int(svc.OomScoreAdj), ShmSize: svc.ShmSize, StopSignal: svc.StopSignal,
		HostNetwork: svc.NetworkMode == "host", Ports: engine.Ports(svc),
		PostStart: hooksOf(svc.PostStart), PreStop: hooksOf(svc.PreStop), Log: logLimits(svc.Logging),
		Limits: driver.Limits{
			CPUs: svc.Deploy.Resources.Limits.CPUs, Memory: svc.Deploy.Resources.Limits.Memory, Pids: svc.Deploy.Resources.Limits.Pids,
		},
	}
	spec.Command = slices.Concat(svc.Entrypoint, svc.Command)
	if !t.process {
		spec.Command, spec.Image, spec.Container = svc.Command, imageOf(p, svc), containerOf(p, svc)
	}
	if pr := svc.Trellis.Process; pr != nil {
		spec.Image = ""
		if pr.Command != nil {
			spec.Command = pr.Command
		}
		spec.TimerSlack = pr.TimerSlack.Or(0)
		spec.Dir = cmp.Or(pr.Dir, svc.WorkingDir, p.WorkingDir)
		if pr.Artifact != "" {
			spec.Dir = artifactMark + pr.Artifact
			if pr.Watched {
				spec.Dir = watchedMark + pr.Artifact
			}
		}
	}
	for name, u := range svc.Ulimits {
		if spec.Ulimits == nil {
			spec.Ulimits = map[string]driver.Ulimit{}
		}
		spec.Ulimits[name] = driver.Ulimit(u)
	}
	spec.Mounts = mountsOf(p, svc)
	if svc.HasIdentity() {
		spec.Mounts = append(spec.Mounts, driver.Mount{Kind: compose.MountBind, Source: identityMark, Target: identityTarget, ReadOnly: true})
		spec.Env = mergeEnv([]string{identityVariable + "=" + identityTarget}, spec.Env)
	}
	var err error
	if spec.Files, err = filesOf(p, svc); err != nil {
		return t, err
	}
	if len(spec.Command) == 0 && spec.Image == "" {
		return t, fmt.Errorf("service %s: %w: nothing says what to run", svc.Name, errdefs.ErrInvalid)
	}
	t.spec = spec
	for _, h := range svc.PreStart {
		t.hooks = append(t.hooks, hookTemplate{hookSpec(spec, h), h.PerReplica})
	}
	return t, nil
}

// artifactMark stands before a digest in Dir until it becomes a path.
const (
	artifactMark = "artifact:"
	watchedMark  = "watched:"
)

// WatchedCopy returns the folder of the copy of an artefact that the instances of a watched service work in.
func WatchedCopy(dir, service, digest string) string {
	return filepath.Join(dir, service+"-"+digest[:min(len(digest), 16)])
}

// hash returns what identifies the instances of t after so many asked restarts.
func (t template) hash(restarts int64) string {
	logical := struct {
		Spec     driver.Spec
		Hooks    []any
		Restarts int64
	}{Spec: t.spec, Restarts: restarts}
	for _, h := range t.hooks {
		logical.Hooks = append(logical.Hooks, h.spec, h.perReplica)
	}
	text, err := json.Marshal(logical)
	if err != nil {
		panic(err) // plain data
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:hashLength]
}

// hookSpec is the one-off instance of a pre_start hook: the service with another command and no ports.
func hookSpec(spec driver.Spec, h compose.PreStart) driver.Spec {
	spec.Command = h.Command
	spec.Env = mergeEnv(spec.Env, envOf(h.Environment))
	spec.Dir, spec.User, spec.Image = cmp.Or(h.WorkingDir, spec.Dir), cmp.Or(h.User, spec.User), cmp.Or(h.Image, spec.Image)
	spec.Privileged = spec.Privileged || h.Privileged
	spec.Ports, spec.PostStart, spec.PreStop = nil, nil, nil
	spec.Container = aside(spec.Container)
	return spec
}

// noNewPrivileges reads security_opt as Docker does: the name alone, or with a truth after a colon or an equals sign; the
// last one holds.
func noNewPrivileges(options []string) bool {
	on := false
	for _, option := range options {
		name, value := option, "true"
		if at := strings.IndexAny(option, ":="); at >= 0 {
			name, value = option[:at], option[at+1:]
		}
		if name == "no-new-privileges" {
			truth, err := strconv.ParseBool(value)
			on = truth || err != nil // what cannot be read gives nothing away
		}
	}
	return on
}

func hooksOf(hooks []compose.Hook) []driver.Hook {
	var all []driver.Hook
	for _, h := range hooks {
		all = append(all, driver.Hook{Command: h.Command, Env: envOf(h.Environment), Dir: h.WorkingDir, User: h.User})
	}
	return all
}

// envOf returns an environment as the lines that a program gets, in order of name.
func envOf(env map[string]string) []string {
	var all []string
	for _, name := range sortedKeys(env) {
		all = append(all, name+"="+env[name])
	}
	return all
}

// mergeEnv adds variables that base does not have, or replaces those it has.
func mergeEnv(base, over []string) []string {
	merged := slices.Clone(base)
	for _, kv := range over {
		name, _, _ := strings.Cut(kv, "=")
		merged = slices.DeleteFunc(merged, func(have string) bool { return strings.HasPrefix(have, name+"=") })
		merged = append(merged, kv)
	}
	slices.Sort(merged)
	return merged
}

func logLimits(l *compose.Logging) driver.LogLimits {
	if l == nil {
		return driver.LogLimits{}
	}
	files, _ := strconv.Atoi(l.Options["max-file"]) // checked by the loader
	return driver.LogLimits{MaxSize: bytesOf(l.Options["max-size"]), MaxFiles: files}
}

// bytesOf reads an amount such as "10m"; 0 for what is none.
func bytesOf(text string) int64 {
	text = strings.TrimRight(strings.ToLower(text), "ib")
	scale := int64(1)
	for suffix, factor := range map[string]int64{"k": 1 << 10, "m": 1 << 20, "g": 1 << 30} {
		if rest, ok := strings.CutSuffix(text, suffix); ok {
			text, scale = rest, factor
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/scale {
		return 0
	}
	return n * scale
}

// place makes the spec of one instance from t: its ID, and paths where t has refs.
func (e *Engine) place(t driver.Spec, process bool, id driver.ID, slot int, hash string, revision int64) driver.Spec {
	t.ID, t.Slot, t.Hash, t.Revision = id, slot, hash, revision
	if digest, ok := strings.CutPrefix(t.Dir, artifactMark); ok {
		t.Dir = filepath.Join(e.cfg.ArtifactDir, digest)
	}
	if digest, ok := strings.CutPrefix(t.Dir, watchedMark); ok {
		t.Dir = WatchedCopy(e.cfg.WatchedDir, t.Service, digest)
		if _, err := os.Stat(t.Dir); err != nil {
			t.Dir = filepath.Join(e.cfg.ArtifactDir, digest) // nobody watches it any more
		}
	}
	if process {
		t.Env = mergeEnv(e.cfg.BaseEnv, t.Env)
	}
	e.placeIdentity(&t, process)
	t.Files = slices.Clone(t.Files)
	for i, f := range t.Files {
		if !filepath.IsAbs(f.Source) {
			t.Files[i].Source = filepath.Join(e.cfg.ContentDir, f.Source)
		}
	}
	for i, m := range t.Mounts {
		if m.Kind == compose.MountVolume && m.Source == "" {
			t.Mounts[i].Source = anonymous(t.Project, t.Service, slot, m.Target)
		}
	}
	return t
}

// anonymous names the volume that the file gives no name: one for each slot and path.
func anonymous(project, service string, slot int, target string) string {
	sum := sha256.Sum256([]byte(target))
	return fmt.Sprintf("%s_%s-%d-%s", project, service, slot, hex.EncodeToString(sum[:4]))
}
