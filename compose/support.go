package compose

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
)

// Carried says what becomes of an attribute.
type Carried string

// What may become of an attribute.
const (
	CarriedOut Carried = "carried out"
	Changed    Carried = "changed" // it has an effect, but another one
	Left       Carried = "left"    // it has no effect
)

// Carry is what one target does with one attribute; How says it for Changed and Left.
type Carry struct {
	What Carried `json:"what"`
	How  string  `json:"how,omitempty"`
}

// Support is a row of the support matrix. In Path, * stands for a name and [] for an index.
type Support struct {
	Path    string           `json:"path"`
	Engines map[string]Carry `json:"engines"` // by target; only targets that exist
}

// The targets of the support matrix.
const (
	TargetProcess    = "process"
	TargetDocker     = "docker"
	TargetKubernetes = "kubernetes"
)

// Targets returns every target, in the order of the documentation.
func Targets() []string { return []string{TargetProcess, TargetDocker, TargetKubernetes} }

// Matrix returns the support matrix: every attribute of the Compose specification and of x-trellis, sorted by path.
func Matrix() []Support {
	process, docker, cluster := newVerdicts(TargetProcess), newVerdicts(TargetDocker), newVerdicts(TargetKubernetes)
	var out []Support
	for _, a := range append(specAttributes(), trellisAttributes()...) {
		if c, ok := process.of(a.path); ok {
			d, _ := docker.of(a.path)
			k, _ := cluster.of(a.path)
			out = append(out, Support{a.path, map[string]Carry{
				TargetProcess: {c.how, c.text}, TargetDocker: {d.how, d.text}, TargetKubernetes: {k.how, k.text},
			}})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out
}

// verdicts answer what becomes of an attribute.
type verdicts struct {
	exact, below map[string]carry
	base         *verdicts // what there is to say otherwise
}

// newVerdicts returns those of a target. For docker the rows where it differs come first.
func newVerdicts(target string) verdicts {
	v := verdicts{exact: map[string]carry{}, below: map[string]carry{}}
	all := matrix()
	switch target {
	case TargetDocker:
		base := newVerdicts(TargetProcess)
		v.base, all = &base, dockerRows()
	case TargetKubernetes:
		all = kubernetesRows()
	}
	for _, r := range all {
		if prefix, ok := strings.CutSuffix(r.path, ".**"); ok {
			v.below[strings.TrimSuffix(prefix, "[]")] = r.carry
			v.below[prefix] = r.carry
			continue
		}
		v.exact[r.path] = r.carry
	}
	return v
}

func (v verdicts) of(path string) (carry, bool) {
	c, ok := v.own(path)
	if !ok && v.base != nil {
		return v.base.of(path)
	}
	return c, ok
}

func (v verdicts) own(path string) (carry, bool) {
	if c, ok := v.exact[path]; ok {
		return c, true
	}
	for p := path; p != ""; p = parent(p) {
		if c, ok := v.below[p]; ok {
			return c, true
		}
	}
	return carry{}, false
}

func parent(path string) string {
	if p, ok := strings.CutSuffix(path, "[]"); ok {
		return p
	}
	i := strings.LastIndexByte(path, '.')
	return path[:max(i, 0)]
}

// TargetLocal is each service's own: a process where it has x-trellis.process, a container otherwise.
const TargetLocal = "local"

// Check returns a warning, with its place, for everything that the project asks for and the target (process, docker,
// kubernetes, local) changes or leaves.
func Check(p Project, target string) []Diagnostic {
	if target != TargetLocal && !slices.Contains(Targets(), target) {
		d := Diagnostic{Message: "there is no target " + quoted(target) + didYouMean(target, Targets())}
		if len(p.Files) > 0 {
			d.File = shorten(p.Files[0], p.Positions.cwd)
		}
		return []Diagnostic{d}
	}
	c := checker{p: p, target: target, known: map[string]bool{}, verdicts: map[string]verdicts{
		TargetProcess: newVerdicts(TargetProcess), TargetDocker: newVerdicts(TargetDocker), TargetKubernetes: newVerdicts(TargetKubernetes),
	}}
	for _, a := range append(specAttributes(), trellisAttributes()...) {
		c.known[a.path] = true
	}
	raw, err := json.Marshal(p)
	var tree map[string]any
	if err == nil {
		err = json.Unmarshal(raw, &tree)
	}
	if err != nil {
		return []Diagnostic{{Message: fmt.Sprintf("the project cannot be read: %v", err)}}
	}
	for _, key := range []string{"working_dir", "files", "env_files", "environment", "disabled_services"} {
		delete(tree, key)
	}
	if x, ok := tree["x-trellis"].(map[string]any); ok { // of those that are not asked for nothing is carried out anywhere
		if all, ok := x["environments"].(map[string]any); ok {
			maps.DeleteFunc(all, func(name string, _ any) bool { return name != p.Environment })
		}
	}
	c.walk(tree, "", "")
	sort.SliceStable(c.out, func(i, j int) bool {
		a, b := c.out[i], c.out[j]
		if a.File != b.File {
			return a.File < b.File
		}
		return a.Line < b.Line || a.Line == b.Line && a.Column < b.Column
	})
	return c.out
}

type checker struct {
	p        Project
	target   string
	verdicts map[string]verdicts // by target
	known    map[string]bool     // every attribute
	out      []Diagnostic
}

// named are the mappings whose keys are names that the file chooses.
func named(pattern string) bool {
	return slices.Contains([]string{"services", "networks", "volumes", "secrets", "configs", "jobs", "models",
		"services.*.depends_on", "services.*.networks", "services.*.ulimits", "services.*.models", "services.*.build.ulimits",
		"x-trellis.auth", "x-trellis.topics", "x-trellis.environments", "x-trellis.load"}, pattern)
}

// walk visits what is set. Path is the place in the project, pattern the row of the matrix.
func (c *checker) walk(v any, path, pattern string) {
	if pattern != "" && pattern != "x-trellis" && !strings.HasSuffix(pattern, ".x-trellis") {
		target := c.targetOf(path)
		verdict, ok := c.verdicts[target].of(pattern)
		if !ok || !c.known[pattern] {
			return // inside of a value that has no attributes, such as environment
		}
		if target == TargetProcess && among("services.*.image services.*.build", pattern) {
			c.container(path, pattern)
			return
		}
		if special := byValue(target, pattern, v); special.how != "" {
			verdict = special
		}
		if verdict.how != CarriedOut && matters(target, pattern, v) {
			c.say(path, pattern, verdict)
			if verdict.how == Left {
				return
			}
		}
	}
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			switch {
			case k == "other" && !named(pattern):
				c.walkOther(v[k], path, pattern)
			default:
				c.walk(v[k], JoinPath(path, k), below(pattern, k))
			}
		}
	case []any:
		for i, e := range v {
			c.walk(e, indexPath(path, i), pattern+"[]")
		}
	}
}

// targetOf returns what runs the thing at a path. What belongs to no service is as for processes, where there are any.
func (c *checker) targetOf(path string) string {
	if c.target != TargetLocal {
		return c.target
	}
	if parts := SplitPath(path); len(parts) >= 2 && parts[0] == "services" {
		if c.p.Services[parts[1]].Trellis.Process != nil {
			return TargetProcess
		}
		return TargetDocker
	}
	for _, s := range c.p.Services {
		if s.Trellis.Process != nil {
			return TargetProcess
		}
	}
	return TargetDocker
}

// container says that a service cannot be a process. For one with x-trellis.process it does not matter: that it runs
// instead of the image is what its file says.
func (c *checker) container(path, pattern string) {
	s := c.service(path)
	if s.Trellis.Process != nil || pattern == "services.*.image" && s.Build != nil {
		return
	}
	c.say(path, pattern, carry{Left, "a process needs x-trellis.process with the command that runs the service; without it the service is a container"})
}

// walkOther visits what the model keeps without a field of its own.
func (c *checker) walkOther(v any, path, pattern string) {
	m, _ := v.(map[string]any)
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		if pattern == "" {
			c.walk(m[k], k, k)
			continue
		}
		c.walk(m[k], JoinPath(path, k), pattern+"."+k)
	}
}

// older are keys that load folds into others: where the file wrote the older one, that is its place.
func older() map[string]string {
	return map[string]string{
		"deploy.resources.limits.cpus": "cpus", "deploy.resources.limits.memory": "mem_limit", "deploy.resources.limits.pids": "pids_limit",
		"deploy.resources.reservations": "mem_reservation", "deploy.replicas": "scale", "logging.driver": "log_driver", "logging.options": "log_opt",
	}
}

// say names what the file says: of what is written short, as a:b:ro is, the whole, and not the attribute that it comes to.
func (c *checker) say(path, pattern string, verdict carry) {
	path = c.p.Positions.written(path)
	if _, exact := c.p.Positions.find(path); !exact {
		parts := SplitPath(path)
		if len(parts) > 2 {
			below := strings.Join(parts[2:], ".")
			if key := older()[below]; key != "" {
				old := JoinPath(JoinPath("services", parts[1]), key)
				if _, ok := c.p.Positions.find(old); ok {
					path = old
				}
			}
		}
	}
	d := Diagnostic{Path: path}
	d.File, d.Line, d.Column = c.p.Positions.short(path)
	if verdict.how == Changed {
		d.Message = "is changed: " + verdict.text
	} else {
		d.Message = "has no effect: " + verdict.text
	}
	c.out = append(c.out, d)
}

// byValue gives the verdict of an attribute that is carried out for some of its values only.
func byValue(target, pattern string, v any) carry {
	text := fmt.Sprint(v)
	if target == TargetKubernetes {
		return ofCluster(pattern, text)
	}
	if target == TargetDocker {
		if special := ofContainer(pattern, text); special.how != "" {
			return special
		}
	}
	switch pattern {
	case "services.*.network_mode":
		switch {
		case text == "none":
			return carry{Changed, "no name of another service resolves, but the outside can be reached"}
		case text == "bridge":
			return carry{Changed, "no name of another service resolves"}
		case text != "host":
			return carry{Left, "the network of another instance is not shared: no name of another service resolves"}
		}
	case "services.*.volumes[].bind.selinux":
		return carry{Left, text + " asks for labels of SELinux, which are left as they are"}
	case "services.*.sysctls":
		m, _ := v.(map[string]any)
		for name := range m {
			if !strings.HasPrefix(name, "net.") {
				return carry{Left, "only net.* can be set for one process: with " + name + " the service does not start"}
			}
		}
	case "services.*.extra_hosts":
		if strings.Contains(text, "host-gateway") {
			return carry{Changed, "host-gateway is not known and leaves the name out: write an address"}
		}
	case "services.*.networks.*.use_service_name_alias":
		if text == "false" {
			return carry{Left, "the service's name always resolves"}
		}
	case "services.*.depends_on.*.restart":
		if text == "true" {
			return carry{Left, "the service is not restarted when the other one is"}
		}
	case "services.*.volumes[].type":
		if !among("bind volume tmpfs", text) {
			return carry{Left, "only bind, volume and tmpfs can be mounted"}
		}
	}
	return carry{}
}

// ofContainer is byValue where a container fares otherwise than a process.
func ofContainer(pattern, text string) carry {
	shared := carry{Left, "what another container has is not shared"}
	out := carry{CarriedOut, ""}
	switch pattern {
	case "services.*.network_mode":
		if among("none bridge", text) {
			return out
		}
	case "services.*.sysctls", "services.*.extra_hosts":
		return out
	case "services.*.pid":
		if text != "host" {
			return shared
		}
	case "services.*.ipc":
		if !among("host shareable private none", text) {
			return shared
		}
	}
	return carry{}
}

// matters says whether a value asks for anything that is not done anyway.
func matters(target, pattern string, v any) bool {
	text := fmt.Sprint(v)
	if target == TargetKubernetes {
		return mattersInCluster(pattern, v)
	}
	if target == TargetDocker {
		if strings.HasPrefix(pattern, "services.*.x-trellis.process") {
			return false // who asks about containers knows
		}
		switch pattern {
		case "services.*.ports[].mode":
			return text == "host"
		case "services.*.pull_policy":
			return pullsByAge(text)
		case "services.*.entrypoint":
			list, _ := v.([]any)
			return len(list) == 0
		case "services.*.devices":
			return false // its keys are
		case "services.*.pid", "services.*.ipc":
			return true
		}
	}
	switch pattern {
	case "networks.*.driver":
		return text != "bridge"
	case "networks.*.attachable", "networks.*.internal", "services.*.tty", "services.*.stdin_open", "services.*.oom_kill_disable":
		return text == "true"
	case "networks.*.enable_ipv4", "services.*.attach":
		return text == "false" || pattern == "services.*.attach"
	case "volumes.*.driver":
		return text != "local"
	case "services.*.deploy.mode":
		return text != "replicated"
	case "services.*.deploy.endpoint_mode":
		return text != "vip"
	case "services.*.pid":
		return text != "host"
	case "services.*.ipc":
		return text != "host" && text != "shareable"
	case "services.*.uts", "services.*.userns_mode":
		return text != "host"
	case "services.*.logging":
		return false // its keys are
	case "services.*.logging.driver":
		return text != "json-file" && text != "local"
	case "services.*.logging.options":
		options, _ := v.(map[string]any)
		for k := range options {
			if k != "max-size" && k != "max-file" {
				return true
			}
		}
		return false
	case "services.*.security_opt":
		list, _ := v.([]any)
		return slices.ContainsFunc(list, func(o any) bool { return !strings.HasPrefix(fmt.Sprint(o), "no-new-privileges") })
	case "services.*.platform", "services.*.pull_policy":
		return false // of the image, of which enough is said
	case "services.*.volumes[].volume.nocopy":
		return text == "true"
	}
	return true
}

// pullsByAge says whether a pull policy depends on how old an image is.
func pullsByAge(policy string) bool {
	return among("daily weekly", policy) || strings.HasPrefix(policy, "every_")
}

func (c *checker) service(path string) Service {
	parts := SplitPath(path)
	if len(parts) < 2 || parts[0] != "services" {
		return Service{}
	}
	return c.p.Services[parts[1]]
}
