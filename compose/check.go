package compose

import (
	"fmt"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// check reports what is inconsistent in a resolved project. Names are looked up in the merged tree, so that a service
// that is wrong itself is not also called unknown.
func (l *loading) check(p Project) {
	for _, name := range p.ServiceNames() {
		s, at := p.Services[name], JoinPath("services", name)
		l.checkRunnable(s, at)
		l.checkReferences(p, s, at)
		l.checkAmounts(s, at)
		l.checkMounts(s, at)
		l.checkLife(s, at)
		l.checkPorts(s, at)
		l.checkTrellis(p, s, at)
	}
	l.checkPublished(p)
	l.checkCycles(p)
	l.checkGateway(p)
	l.checkAlerts(p)
	l.checkForward(p)
}

// has says whether the files set a key of a service, right or wrong.
func (l *loading) has(service string, keys ...string) bool {
	return l.root.at(append([]string{"services", service}, keys...)...) != nil
}

func (l *loading) checkRunnable(s Service, at string) {
	process := s.Trellis.Process
	if s.Image == "" && s.Build == nil && process == nil && !s.Provided() && !l.has(s.Name, "extends") {
		if l.has(s.Name, "image") {
			l.errorPath(at+".image", "is empty: say what the service runs")
		} else {
			l.errorPath(at, "has neither image nor build nor x-trellis.process: say what it runs")
		}
	}
	if process != nil && len(process.Command) == 0 && len(s.Command) == 0 && len(s.Entrypoint) == 0 &&
		!l.has(s.Name, "x-trellis", "process", "command") {
		l.errorPath(at+".x-trellis.process", "has no command: set command here or on the service")
	}
	if b := s.Build; b != nil {
		if b.DockerfileInline != "" && l.has(s.Name, "build", "dockerfile") {
			l.errorPath(at+".build.dockerfile", "is set beside dockerfile_inline: leave out one of them")
		}
		if s.Platform != "" && len(b.Platforms) > 0 && !slices.Contains(b.Platforms, s.Platform) {
			l.errorPath(at+".build.platforms", "lacks the service's own platform %s: add it", s.Platform)
		}
		for key, context := range b.AdditionalContexts {
			if other, ok := strings.CutPrefix(context, "service:"); ok {
				l.known("services", other, at+".build.additional_contexts."+key)
			}
		}
	}
}

// known reports a name that a section of the files lacks.
func (l *loading) known(section, name, at string) bool {
	if l.root.at(section, name) != nil {
		return true
	}
	if l.moreErrors {
		return false // before all names are searched for one like it
	}
	l.errorPath(at, "there is no %s %q%s", strings.TrimSuffix(section, "s"), cut(name, 80), orDeclare(didYouMean(name, l.root.at(section).keys()), section))
	return false
}

func orDeclare(hint, section string) string {
	if hint == "" {
		return ": declare it under " + section
	}
	return hint
}

func (l *loading) checkReferences(p Project, s Service, at string) {
	for name, d := range s.DependsOn {
		where := JoinPath(at+".depends_on", name)
		if _, written := (Positions{root: l.root}).find(where); !written {
			continue // brought by links, network_mode or volumes_from, checked below
		}
		_, enabled := p.Services[name]
		switch {
		case enabled || (l.root.at("services", name) != nil && !d.Required):
			l.checkCondition(p, s, name, d, where)
		case slices.Contains(p.DisabledServices, name):
			l.errorPath(where, "%s is not active: its profiles are %s; activate one of them, or set required: false", name,
				strings.Join(texts(l.root.at("services", name, "profiles")), ", "))
		case l.root.at("jobs", name) != nil:
			l.errorPath(where, "%s is a job: a service can only depend on services", name)
		case d.Required:
			l.known("services", name, where)
		default:
			l.warnPath(where, "there is no service %q: nothing is waited for", cut(name, 80))
		}
	}
	for name := range s.Networks {
		if name != "default" {
			l.known("networks", name, JoinPath(at+".networks", name))
		}
	}
	if s.NetworkMode != "" && l.has(s.Name, "networks") {
		l.errorPath(at+".network_mode", "is set beside networks: leave out one of them")
	}
	for key, ref := range map[string]string{"network_mode": s.NetworkMode, "pid": s.Pid, "ipc": s.Ipc} {
		if other, ok := strings.CutPrefix(ref, "service:"); ok {
			l.known("services", other, at+"."+key)
		}
	}
	for i, link := range s.Links {
		other, _, _ := strings.Cut(link, ":")
		l.known("services", other, indexPath(at+".links", i))
	}
	for i, v := range s.Volumes {
		if v.Type == MountVolume && v.Source != "" {
			l.known("volumes", v.Source, indexPath(at+".volumes", i))
		}
	}
	for i, f := range s.Secrets {
		l.known("secrets", f.Source, indexPath(at+".secrets", i))
	}
	for i, f := range s.Configs {
		l.known("configs", f.Source, indexPath(at+".configs", i))
	}
	if models, ok := s.Other["models"].(map[string]any); ok {
		for name := range models {
			l.known("models", name, JoinPath(at+".models", name))
		}
	}
	if from, ok := s.Other["volumes_from"].([]any); ok {
		for i, v := range from {
			if other, _, _ := strings.Cut(fmt.Sprint(v), ":"); other != "container" {
				l.known("services", other, indexPath(at+".volumes_from", i))
			}
		}
	}
}

func texts(m *mark) []string {
	if m == nil {
		return nil
	}
	var out []string
	for _, item := range m.items {
		out = append(out, item.text())
	}
	return out
}

// checkCondition warns of a condition that a process service can never tell.
func (l *loading) checkCondition(p Project, s Service, name string, d Dependency, at string) {
	to, ok := p.Services[name]
	if ok && d.Condition == ServiceHealthy && to.Trellis.Process != nil && to.Trellis.Probe == nil &&
		(to.Healthcheck == nil || to.Healthcheck.Disable || len(to.Healthcheck.Test) == 0) {
		l.warnPath(at, "%s has no probe and no healthcheck.test: it counts as healthy as soon as it runs; add x-trellis.probe to it", name)
	}
}

func (l *loading) checkAmounts(s Service, at string) {
	scale, replicas := l.root.at("services", s.Name, "scale"), l.root.at("services", s.Name, "deploy", "replicas")
	if scale != nil && replicas != nil && scale.text() != replicas.text() {
		l.errorMark(scale, at+".scale", "is %s and deploy.replicas is %s: leave out one of them", scale.text(), replicas.text())
	}
	if n := s.Deploy.Replicas; n != nil && *n < 0 {
		l.errorPath(firstSet(scale, at+".scale", at+".deploy.replicas"), "is %d: it cannot be negative", *n)
	} else if n != nil && *n > maxReplicas {
		l.errorPath(firstSet(scale, at+".scale", at+".deploy.replicas"), "is %d: at most %d are run", *n, maxReplicas)
	}
	if n := s.Deploy.Replicas; n != nil && *n > 1 && s.ContainerName != "" {
		l.errorPath(at+".container_name", "cannot be set with %d replicas, which need names of their own: remove it", *n)
	}
	limits, reservations := s.Deploy.Resources.Limits, s.Deploy.Resources.Reservations
	for _, older := range []struct{ key, now string }{
		{"cpus", "limits.cpus"}, {"mem_limit", "limits.memory"}, {"pids_limit", "limits.pids"}, {"mem_reservation", "reservations.memory"},
	} {
		kind, amount, _ := strings.Cut(older.now, ".")
		old, now := l.root.at("services", s.Name, older.key), l.root.at("services", s.Name, "deploy", "resources", kind, amount)
		if old != nil && now != nil && !sameAmount(old.text(), now.text()) {
			l.errorMark(old, at+"."+older.key, "is %s and deploy.resources.%s is %s: leave out one of them", old.text(), older.now, now.text())
		}
	}
	if limits.CPUs < 0 || limits.Memory < 0 || reservations.CPUs < 0 || reservations.Memory < 0 {
		l.errorPath(at+".deploy.resources", "has a negative amount")
	}
	if limits.Memory > 0 && reservations.Memory > limits.Memory {
		l.errorPath(at+".deploy.resources.reservations.memory", "is more than the limit: lower it, or raise limits.memory")
	}
	if limits.Memory > 0 && limits.Memory < 6<<20 {
		l.errorPath(firstSet(l.root.at("services", s.Name, "mem_limit"), at+".mem_limit", at+".deploy.resources.limits.memory"),
			"is %d bytes: no program starts with less than 6 MiB; write a unit, such as 128M", limits.Memory)
	}
	for name, u := range s.Ulimits {
		if u.Hard >= 0 && (u.Soft > u.Hard || u.Soft < 0) {
			l.errorPath(JoinPath(at+".ulimits", name), "has a soft limit of %d above the hard one of %d: lower soft, or raise hard", u.Soft, u.Hard)
		}
	}
}

func firstSet(m *mark, path, otherwise string) string {
	if m != nil {
		return path
	}
	return otherwise
}

func sameAmount(a, b string) bool {
	if a == b {
		return true
	}
	x, errX := parseAmount(a)
	y, errY := parseAmount(b)
	return errX == nil && errY == nil && x == y
}

func (l *loading) checkMounts(s Service, at string) {
	seen := map[string]string{}
	use := func(target, where string) {
		switch {
		case !strings.HasPrefix(target, "/"):
			l.errorPath(where, "the target %s is not an absolute path", quoted(target))
		case slices.Contains(strings.Split(target, "/"), ".."):
			l.errorPath(where, "the target %s holds ..: write the path without it", quoted(target))
		case path.Clean(target) == "/":
			l.errorPath(where, "nothing can be mounted over /")
		case seen[path.Clean(target)] != "":
			l.errorPath(where, "%s is already mounted by %s: remove one of them", target, seen[path.Clean(target)])
		}
		seen[path.Clean(target)] = where
	}
	for i, t := range s.Tmpfs {
		target, _, _ := strings.Cut(t, ":")
		use(target, indexPath(at+".tmpfs", i))
	}
	for i, v := range s.Volumes {
		where := indexPath(at+".volumes", i)
		use(v.Target, where)
		if slices.Contains(strings.Split(v.Subpath, "/"), "..") || strings.HasPrefix(v.Subpath, "/") {
			l.errorPath(where, "the subpath %s leads out of the volume", quoted(v.Subpath))
		}
		if v.Type == MountBind && v.Source == "" {
			l.errorPath(where, "a bind mount needs a source: write the path on this machine")
		}
	}
	for i, f := range s.Secrets {
		l.checkTarget(f, "/run/secrets/", indexPath(at+".secrets", i), use)
	}
	for i, f := range s.Configs {
		l.checkTarget(f, "/", indexPath(at+".configs", i), use)
	}
}

func (l *loading) checkTarget(f FileMount, base, where string, use func(target, where string)) {
	target := f.Target
	if target == "" {
		target = f.Source
	}
	if !strings.HasPrefix(target, "/") {
		target = base + target
	}
	use(target, where)
	for _, id := range []string{f.UID, f.GID} {
		if n, err := strconv.ParseUint(id, 10, 32); id != "" && (err != nil || n > 1<<31) {
			l.errorPath(where, "%s is not a user or group number", quoted(id))
		}
	}
}

// checkPorts checks each port by itself.
func (l *loading) checkPorts(s Service, at string) {
	for i, p := range s.Ports {
		where := indexPath(at+".ports", l.portIndex(s.Name, p, i))
		if p.Target < 1 || p.Target > 65535 {
			l.errorPath(where, "the target port is %d: it must be from 1 to 65535", p.Target)
		}
		if p.Protocol != "tcp" && p.Protocol != "udp" {
			l.errorPath(where, "the protocol %s is not known: it may be tcp or udp", quoted(p.Protocol))
		}
		if p.Mode != "" && p.Mode != "ingress" && p.Mode != "host" {
			l.errorPath(where, "the mode %s is not known: it may be ingress or host", quoted(p.Mode))
		}
		if p.Published != "" {
			if lo, hi, ok := portRange(p.Published); !ok {
				l.errorPath(where, "the published port %s must be from 1 to 65535, or a range such as 8000-8010", quoted(p.Published))
			} else if lo > hi {
				l.errorPath(where, "the published range %s ends before it begins", p.Published)
			}
		}
		if n := s.Deploy.Replicas; p.Mode == "host" && p.Published != "" && n != nil && *n > 1 {
			l.errorPath(where, "only one of %d replicas can have the port in mode host: remove mode", *n)
		}
	}
	for i, e := range s.Expose {
		number, protocol, _ := strings.Cut(e, "/")
		if lo, hi, ok := portRange(number); !ok || lo > hi || (protocol != "" && protocol != "tcp" && protocol != "udp") {
			l.errorPath(indexPath(at+".expose", i), "%s is not a port from 1 to 65535", quoted(e))
		}
	}
}

// portIndex returns where a port stands in the files' list, which also holds those that were joined.
func (l *loading) portIndex(service string, p Port, otherwise int) int {
	if m := l.portMarks(service)[modelPortKey(p)]; m != nil {
		return l.portAt[m]
	}
	return otherwise
}

func portRange(s string) (lo, hi int, ok bool) {
	first, last, is := strings.Cut(s, "-")
	lo, err := strconv.Atoi(first)
	hi = lo
	if is && err == nil {
		hi, err = strconv.Atoi(last)
	}
	return lo, hi, err == nil && lo >= 1 && lo <= 65535 && hi >= 1 && hi <= 65535
}

// checkPublished reports two ports that cannot both be published.
func (l *loading) checkPublished(p Project) {
	type listener struct{ host, path string }
	taken := map[string][]listener{}
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		for i, port := range s.Ports {
			if port.Published == "" || strings.Contains(port.Published, "-") {
				continue
			}
			key := port.Published + "/" + port.Protocol
			where := indexPath(JoinPath("services", name)+".ports", l.portIndex(name, port, i))
			for _, other := range taken[key] {
				if sameHost(port.HostIP, other.host) {
					l.errorPath(where, "publishes %s, which %s publishes too: choose another port for one of them", key, other.path)
					break
				}
			}
			taken[key] = append(taken[key], listener{port.HostIP, where})
		}
	}
}

// sameHost says that two addresses cannot both be listened on with one port.
func sameHost(a, b string) bool {
	every := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	v6 := func(ip string) bool { return strings.Contains(ip, ":") }
	switch {
	case a == "" || b == "" || a == b:
		return true
	case v6(a) != v6(b):
		return false
	}
	return every(a) || every(b)
}

// checkCycles reports every cycle of depends_on once.
func (l *loading) checkCycles(p Project) {
	state := map[string]int{} // 1 on the way, 2 done
	var trail []string
	var visit func(name string)
	visit = func(name string) {
		state[name] = 1
		trail = append(trail, name)
		next := make([]string, 0, len(p.Services[name].DependsOn))
		for dependency := range p.Services[name].DependsOn {
			next = append(next, dependency)
		}
		sort.Strings(next)
		for _, dependency := range next {
			if _, ok := p.Services[dependency]; !ok {
				continue
			}
			switch state[dependency] {
			case 0:
				visit(dependency)
			case 1:
				cycle := append(slices.Clone(trail[slices.Index(trail, dependency):]), dependency)
				l.errorPath(JoinPath(JoinPath("services", name)+".depends_on", dependency),
					"the services wait for each other: %s; remove one of these depends_on", strings.Join(cycle, " -> "))
			}
		}
		trail = trail[:len(trail)-1]
		state[name] = 2
	}
	for _, name := range p.ServiceNames() {
		if state[name] == 0 {
			visit(name)
		}
	}
}
