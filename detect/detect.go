// Package detect reads the sources of a project and says what they tell of its services: the program that runs, the
// port it listens on, where it can be asked for its health. It answers with proposals for the Compose file, each with
// the place that it comes from, and with what it left out because it was not sure.
//
// It reads files and runs nothing. What it reads is not trusted: folders, files and bytes are counted, what is large,
// binary or not UTF-8 is passed over, and links lead nowhere that the file system given does not allow.
package detect

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"trellis/compose"
	"trellis/compose/edit"
)

// The kinds of proposals.
const (
	KindProcess = "process"
	KindProbe   = "probe"
	KindLimits  = "limits"
	KindRoutes  = "routes"
	KindService = "service" // of a new file: what the service is, to docker compose too
)

// Kinds returns the kinds of proposals that can do without each other.
func Kinds() []string { return []string{KindProcess, KindProbe, KindLimits, KindRoutes} }

// Proposal is one value for the Compose file.
type Proposal struct {
	Kind    string
	Service string
	Path    string // a Compose path
	Value   any    // as edit.File.Set takes it
	Reason  string // why, with the place: "CMD in Dockerfile:12"
}

// Note is something that was left out, and why.
type Note struct {
	Service string // "" for the project
	Message string
}

// Report is what the sources told.
type Report struct {
	Proposals []Proposal
	Notes     []Note
}

func (r *Report) note(service, format string, args ...any) {
	n := Note{service, fmt.Sprintf(format, args...)}
	if !slices.Contains(r.Notes, n) {
		r.Notes = append(r.Notes, n)
	}
}

// component is a service and its sources.
type component struct {
	name    string
	service compose.Service
	context string            // folder of the build in the tree, "" where there are no sources
	docker  *dockerfile       // nil: none
	target  string            // stage that is built; "": the last one
	args    map[string]string // of the build
	others  []string          // contexts of other services

	entry []string // what the file runs instead of what the image runs; nil: nothing
	cmd   []string
	where string // place of entry and cmd
}

// facts are what the sources tell of a component.
type facts struct {
	language string // go, node, python, "" for others
	process  *process
	sources  []string // folders and files in which the component's code is
	port     port
	probe    probe
	env      []variable // what the process needs of the image's environment
	settings []variable // keys of the service that the image has as instructions
}

// process is how a component runs as a process.
type process struct {
	dir       string // in the tree
	build     string
	artifacts []string
	command   []string
	reason    string
}

type port struct {
	number int
	reason string
}

type probe struct {
	path   string // "": TCP
	port   int
	scheme string // "" is http
	reason string
}

type variable struct{ name, value, where string }

// Look reads what belongs to the services of a project. root is the file system that sources may be read from, and base
// the project's directory in it ("." for root itself); inside says where in root an absolute path lies. It stops with
// ctx; what does not belong to root is passed over.
func Look(ctx context.Context, root fs.FS, base string, inside func(string) (string, bool), p compose.Project) (Report, error) {
	t := newTree(ctx, root)
	var r Report
	var all []component
	for _, name := range p.ServiceNames() {
		all = append(all, t.componentOf(p.Services[name], inside, &r))
	}
	for i := range all {
		for j := range all {
			if i != j && all[j].context != "" && all[j].context != all[i].context && below(all[j].context, all[i].context) {
				all[i].others = append(all[i].others, all[j].context)
			}
		}
	}
	for _, c := range all {
		f := t.inspect(c, &r)
		t.propose(c, f, base, &r)
	}
	t.proposeRoutes(p, &r)
	if len(p.DisabledServices) > 0 {
		r.note("", "not looked at, because their profile is not active (--profile): %s", strings.Join(p.DisabledServices, ", "))
	}
	t.warn(&r)
	if err := ctx.Err(); err != nil {
		return Report{}, fmt.Errorf("look at the sources: %w", err)
	}
	return r, nil
}

// componentOf finds the sources of a service.
func (t *tree) componentOf(s compose.Service, inside func(string) (string, bool), r *Report) component {
	c := component{name: s.Name, service: s, entry: s.Entrypoint, cmd: s.Command, where: "the file"}
	b := s.Build
	if b == nil {
		return c
	}
	dir, ok := inside(b.Context)
	if !ok || strings.Contains(b.Context, "://") {
		r.note(s.Name, "its sources are not in this project (%s), so nothing is known of its program", b.Context)
		return c
	}
	c.context, c.target, c.args = dir, b.Target, b.Args
	if b.DockerfileInline != "" {
		c.docker = parseDockerfile("dockerfile_inline", b.DockerfileInline)
		return c
	}
	name := b.Dockerfile
	if name == "" {
		name = "Dockerfile"
	}
	file := path.Join(dir, name)
	if strings.HasPrefix(name, "/") {
		if file, ok = inside(name); !ok {
			return c
		}
	}
	text, ok := t.read(file)
	if !ok {
		r.note(s.Name, "%s cannot be read: nothing is known of its program", file)
		return c
	}
	c.docker = parseDockerfile(file, text)
	return c
}

// inspect collects the facts of a component.
func (t *tree) inspect(c component, r *Report) facts {
	var f facts
	if c.docker != nil {
		t.fromDockerfile(c, &f, r)
	}
	f.port = t.portOf(c, f)
	f.probe = t.probeOf(c, f, r)
	return f
}

// propose turns facts into proposals for what the file does not say yet.
func (t *tree) propose(c component, f facts, base string, r *Report) {
	at := serviceAt(c.name)
	s := c.service
	if s.Build == nil && s.Image != "" && s.Trellis.Process == nil {
		r.note(c.name, "no process: its program and how it is started are in the image %s; write x-trellis.process.command to run one of this machine", s.Image)
	}
	add := func(kind, below string, value any, reason string) {
		r.Proposals = append(r.Proposals, Proposal{kind, c.name, at + below, value, reason})
	}
	var value edit.Map
	if f.process != nil && s.Trellis.Process == nil {
		var ok bool
		if value, ok = f.process.value(base); !ok {
			r.note(c.name, "no process: its sources in %s are not below the project's directory", f.process.dir)
		}
	}
	if value != nil {
		for _, v := range f.settings {
			add(KindProcess, "."+v.name, v.value, "in "+v.where+": a process does not get what the image says")
		}
		for _, v := range f.env {
			if _, set := s.Environment[v.name]; !set {
				add(KindProcess, ".environment."+v.name, escape(v.value), "ENV in "+v.where+": a process does not get the image's environment")
			}
		}
	}
	if f.language != "" && s.Deploy.Resources.Limits.Memory == 0 {
		memory, reason := memoryOf(c, f)
		add(KindLimits, ".deploy.resources.limits.memory", memory, reason)
	}
	if value != nil {
		add(KindProcess, ".x-trellis.process", value, f.process.reason)
	}
	if f.probe.reason != "" && s.Trellis.Probe == nil {
		add(KindProbe, ".x-trellis.probe", f.probe.value(s), f.probe.reason)
	}
}

func serviceAt(name string) string { return compose.JoinPath("services", name) }

// value is the process as it stands in the file; false where its folder is not below the project's.
func (p process) value(base string) (edit.Map, bool) {
	if !below(p.dir, base) {
		return nil, false
	}
	var m edit.Map
	if dir := relative(p.dir, base); dir != "." {
		m = append(m, edit.Entry{Key: "dir", Value: escape(dir)})
	}
	if p.build != "" {
		m = append(m, edit.Entry{Key: "build", Value: escape(p.build)})
	}
	if len(p.artifacts) > 0 {
		m = append(m, edit.Entry{Key: "artifacts", Value: escapeAll(p.artifacts)})
	}
	return append(m, edit.Entry{Key: "command", Value: escapeAll(p.command)}), true
}

// escape keeps dollars from being taken for Compose's variables.
func escape(s string) string { return strings.ReplaceAll(s, "$", "$$") }

func escapeAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = escape(s)
	}
	return out
}

// value is the probe as it stands in the file.
func (p probe) value(s compose.Service) edit.Map {
	if p.path == "" {
		if ports := tcpPorts(s); len(ports) == 1 && ports[0] == p.port {
			return edit.Map{{Key: "tcp", Value: true}}
		}
		return edit.Map{{Key: "tcp", Value: p.port}}
	}
	m := edit.Map{{Key: "http", Value: escape(p.path)}}
	if ports := tcpPorts(s); p.port > 0 && (len(ports) == 0 || ports[0] != p.port) {
		m = append(m, edit.Entry{Key: "port", Value: p.port})
	}
	if p.scheme != "" && p.scheme != "http" {
		m = append(m, edit.Entry{Key: "scheme", Value: p.scheme})
	}
	return m
}

// below says that p is dir or in it.
func below(p, dir string) bool { return dir == "." || p == dir || strings.HasPrefix(p, dir+"/") }

func relative(p, dir string) string {
	if p == dir {
		return "."
	}
	if dir == "." {
		return p
	}
	return strings.TrimPrefix(p, dir+"/")
}
