package compose

import (
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

var (
	routeHost  = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?$`)
	routeParam = regexp.MustCompile(`^\{[A-Za-z_][A-Za-z0-9_]*\}$`)
	httpToken  = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
	percentile = regexp.MustCompile(`^p(\d{1,2}|\d{2}\d+)$`)
)

// checkTrellis checks the x-trellis keys of a service.
func (l *loading) checkTrellis(p Project, s Service, at string) {
	x := at + ".x-trellis"
	l.checkProcess(s, x+".process")
	l.checkProbe(s, x+".probe")
	l.checkBackup(s, x+".backup")
	if o := s.Trellis.Objective; o != nil {
		for name := range o.Latency {
			if !percentile.MatchString(name) {
				l.errorPath(JoinPath(x+".objective.latency", name), "%s is not a percentile: write p50, p90, p99 or p999", quoted(name))
			}
		}
	}
	if m := s.Trellis.Metrics; m != nil {
		if m.Path != "" && !strings.HasPrefix(m.Path, "/") {
			l.errorPath(x+".metrics.path", "%s is not a path: begin it with /", quoted(m.Path))
		}
		if m.Port < 0 || m.Port > 65535 {
			l.errorPath(x+".metrics.port", "%d is not a port: write 1 to 65535", m.Port)
		}
	}
	for i, name := range s.Trellis.Calls {
		l.known("services", name, indexPath(x+".calls", i))
	}
	l.checkIdentity(s, at)
	if b := s.Trellis.Breaker; b != nil && *b == (Breaker{}) {
		l.errorPath(x+".breaker", "bounds nothing: set concurrency, pending or failures")
	}
	if len(s.Trellis.Calls) > 0 && s.NetworkMode == "host" {
		l.warnPath(x+".calls", "is not enforced for %s: on the machine's own network nobody can tell who calls", s.Name)
	}
	for i, topic := range s.Trellis.Publishes {
		l.knownTopic(topic, indexPath(x+".publishes", i))
	}
	for i, sub := range s.Trellis.Subscribes {
		where := indexPath(x+".subscribes", i)
		l.knownTopic(sub.Topic, where)
		if !strings.HasPrefix(sub.Path, "/") {
			l.errorPath(where, "path must begin with /: the events are posted to it")
		}
	}
	if a := s.Deploy.Trellis.Autoscale; a != nil {
		l.checkAutoscale(s, a, at+".deploy.x-trellis.autoscale")
	}
	if c := s.Deploy.Trellis.Canary; c != nil {
		l.checkCanary(s, c, at+".deploy")
	}
	for i, port := range s.Ports {
		for j, r := range port.Trellis.Routes {
			if port.Protocol == "udp" {
				l.errorPath(indexPath(at+".ports", l.portIndex(s.Name, port, i)), "a route needs a tcp port: requests are HTTP")
			}
			l.checkRoute(p, r, l.routePath(s.Name, port, i, j))
		}
	}
}

// routePath returns where a route of a port stands, in the port itself or in one that was joined to it.
func (l *loading) routePath(service string, p Port, i, j int) string {
	list, at := l.root.at("services", service, "ports"), JoinPath("services", service)+".ports"
	for _, k := range l.partsOf(service, p) {
		routes := list.items[k].at("x-trellis", "routes")
		if routes == nil {
			continue
		}
		if j < len(routes.items) {
			return indexPath(indexPath(at, k)+".x-trellis.routes", j)
		}
		j -= len(routes.items)
	}
	return indexPath(indexPath(at, i)+".x-trellis.routes", j)
}

// portPath returns where a key of a port's x-trellis stands, in the port itself or in the last one that was joined to it and has it.
func (l *loading) portPath(service string, p Port, i int, key string) string {
	list := l.root.at("services", service, "ports")
	i = l.portIndex(service, p, i)
	for _, k := range l.partsOf(service, p) {
		if list.items[k].at("x-trellis", key) != nil {
			i = k
		}
	}
	return indexPath(JoinPath("services", service)+".ports", i) + ".x-trellis." + key
}

// partsOf returns where in the files' list the ports stand that a port is made of: itself, and those that were joined to it.
func (l *loading) partsOf(service string, p Port) []int {
	l.portMarks(service)
	joined := p
	joined.Published, joined.HostIP = "", ""
	all := l.portParts[service]
	parts := all[modelPortKey(p)]
	if key := modelPortKey(joined); key != modelPortKey(p) && len(all[key]) > 0 {
		parts = slices.Sorted(slices.Values(slices.Concat(parts, all[key])))
	}
	return parts
}

// What a cluster may have besides Kubernetes, as an environment says it.
const (
	Istio              = "istio"
	Linkerd            = "linkerd"
	KEDA               = "keda"
	PrometheusOperator = "prometheus-operator"
)

// The formats of alerts.
const (
	FormatAlertmanager = "alertmanager"
	FormatSlack        = "slack"
)

func (l *loading) checkAlerts(p Project) {
	if p.Trellis.Alerts == nil {
		return
	}
	a, where := p.Trellis.Alerts, "x-trellis.alerts"
	if a.Webhook != "" && !receiver(a.Webhook, true) {
		l.errorPath(where+".webhook", "%s is not the URL of a receiver: write one such as https://hooks.example.org/ops", quoted(a.Webhook))
	}
	if a.WebhookSecret != "" {
		if a.Webhook != "" {
			l.errorPath(where+".webhook_secret", "says a second time where alerts go: leave out webhook, or this")
		}
		if l.known("secrets", a.WebhookSecret, where+".webhook_secret") && p.Secrets[a.WebhookSecret].External {
			l.errorPath(where+".webhook_secret", "secret %s is external: its content is not known here", a.WebhookSecret)
		}
	}
	if a.Format != "" && !slices.Contains([]string{FormatAlertmanager, FormatSlack}, a.Format) {
		l.errorPath(where+".format", "%s is no format of alerts: write %s or %s", quoted(a.Format), FormatAlertmanager, FormatSlack)
	}
	for i, name := range a.Rules {
		at := indexPath("x-trellis.alerts.rules", i)
		if l.known("configs", name, at) && p.Configs[name].External {
			l.errorPath(at, "config %s is external: its content is not known here", name)
		}
	}
}

func (l *loading) checkForward(p Project) {
	f := p.Trellis.Forward
	if f == nil {
		return
	}
	const at = "x-trellis.forward"
	if f.OTLP == "" && f.RemoteWrite == nil {
		l.errorPath(at, "names no receiver: write otlp or remote_write")
	}
	if f.OTLP != "" && !receiver(f.OTLP, false) {
		l.errorPath(at+".otlp", "%s is not the URL of a receiver: write one such as https://otlp.example.org", quoted(f.OTLP))
	}
	l.checkHeaders(p, f.Headers, at+".headers")
	if r := f.RemoteWrite; r != nil {
		if !receiver(r.URL, true) {
			l.errorPath(at+".remote_write.url", "%s is not the URL of a receiver: write one such as https://prometheus.example.org/api/v1/write", quoted(r.URL))
		}
		l.checkHeaders(p, r.Headers, at+".remote_write.headers")
	}
}

// receiver says whether a text is the address of a receiver, which may have a query.
func receiver(text string, query bool) bool {
	u, err := url.Parse(text)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") && (query || u.RawQuery == "") && u.Fragment == ""
}

// checkHeaders checks headers whose values are secrets.
func (l *loading) checkHeaders(p Project, headers map[string]string, at string) {
	for name, secret := range headers {
		where := JoinPath(at, name)
		if !httpToken.MatchString(name) {
			l.errorPath(where, "%s is not the name of a header", quoted(name))
		}
		if l.known("secrets", secret, where) && p.Secrets[secret].External {
			l.errorPath(where, "secret %s is external: its content is not known here", secret)
		}
	}
}

func (l *loading) knownTopic(topic, at string) {
	if l.root.at("x-trellis", "topics", topic) == nil {
		hint := didYouMean(topic, l.root.at("x-trellis", "topics").keys())
		if hint == "" {
			hint = ": declare it under x-trellis.topics"
		}
		l.errorPath(at, "there is no topic %s%s", quoted(topic), hint)
	}
}

// What a program's timers may be late by: with more its timeouts would no longer be what it was written for.
const (
	minSlack = time.Microsecond
	maxSlack = 100 * time.Millisecond
)

func (l *loading) checkProcess(s Service, at string) {
	p := s.Trellis.Process
	if p == nil {
		return
	}
	for i, a := range p.Artifacts {
		if !filepath.IsLocal(a) {
			l.errorPath(indexPath(at+".artifacts", i), "%s is not a path below the process's directory", quoted(a))
		}
	}
	if p.Command != nil && (len(p.Command) == 0 || p.Command[0] == "") {
		l.errorPath(at+".command", "is empty: write the program and its arguments as a list")
	}
	if p.Base != "" && len(p.Artifacts) == 0 {
		l.errorPath(at+".base", "has nothing put upon it: write artifacts, or image at the service to run it as it is")
	}
	if slack := p.TimerSlack.Or(minSlack); slack < minSlack || slack > maxSlack {
		l.errorPath(at+".timer_slack", "is %s: it can be from %s to %s", slack, minSlack, maxSlack)
	}
}

func (l *loading) checkBackup(s Service, at string) {
	b := s.Trellis.Backup
	if b == nil {
		return
	}
	for _, c := range []struct {
		key     string
		command ShellCommand
	}{{"command", b.Command}, {"restore", b.Restore}} {
		if c.command == nil {
			continue
		}
		if last := len(c.command) - 1; last < 0 || c.command[0] == "" || strings.TrimSpace(c.command[last]) == "" {
			l.errorPath(at, "%s is empty: write a line for the shell, or a program and its arguments as a list", c.key)
		}
	}
	if b.Command != nil && b.Restore == nil {
		l.warnPath(at, "%s says how to save its data and not how to put it back: trellis restore will leave it in a file; add restore", s.Name)
	}
}

func (l *loading) checkProbe(s Service, at string) {
	p := s.Trellis.Probe
	if p == nil {
		return
	}
	var set []string
	for key, on := range map[string]bool{"http": p.HTTP != "", "tcp": p.TCP, "grpc": p.GRPC != ""} {
		if on {
			set = append(set, key)
		}
	}
	sort.Strings(set)
	switch {
	case len(set) == 0:
		l.errorPath(at, "asks nothing: set one of http, tcp, grpc")
	case len(set) > 1:
		l.errorPath(at, "sets %s: keep one of them", strings.Join(set, " and "))
	}
	if p.HTTP != "" && !strings.HasPrefix(p.HTTP, "/") {
		l.errorPath(at+".http", "%s must be a path that begins with /", quoted(p.HTTP))
	}
	if p.Scheme != "" && p.Scheme != "http" && p.Scheme != "https" {
		l.errorPath(at+".scheme", "%s is not known: it may be http or https", quoted(p.Scheme))
	}
	if p.Port > 65535 {
		l.errorPath(at+".port", "is %d: it must be from 1 to 65535", p.Port)
	}
	if p.Port == 0 && len(s.Ports) == 0 && len(s.Expose) == 0 && len(set) == 1 {
		l.errorPath(at, "does not know which port to ask: set port here, or ports or expose on the service")
	}
}

// minWindow is the shortest window of an autoscaler: a tenth of it still holds a few measurements.
const minWindow = 10 * time.Second

func (l *loading) checkAutoscale(s Service, a *Autoscale, at string) {
	if a.Max < 1 {
		l.errorPath(at, "max must be at least 1")
	}
	if a.Max > maxReplicas {
		l.errorPath(at+".max", "is %d: at most %d are run", a.Max, maxReplicas)
	}
	if a.Min < 0 {
		l.errorPath(at+".min", "is %d: it must be 0 or more", a.Min)
	}
	if a.Window != nil && time.Duration(*a.Window) < minWindow {
		l.errorPath(at+".window", "is %s: it must be at least %s", a.Window, minWindow)
	}
	if a.Min > a.Max {
		l.errorPath(at, "min is %d and max is %d: min cannot be more", a.Min, a.Max)
	}
	for key, v := range a.Target {
		if !slices.Contains([]string{"concurrency", "rps", "cpu"}, key) {
			l.errorPath(JoinPath(at+".target", key), "unknown key%s", didYouMean(key, []string{"concurrency", "rps", "cpu"}))
		} else if v <= 0 {
			l.errorPath(JoinPath(at+".target", key), "must be more than 0")
		}
	}
	if len(a.Target) == 0 {
		l.errorPath(at, "needs a target: concurrency, rps or cpu")
	}
	if _, cpu := a.Target["cpu"]; cpu && s.Deploy.Resources.Limits.CPUs <= 0 {
		l.errorPath(at+".target.cpu", "is a share of the service's limit, and there is none: set deploy.resources.limits.cpus")
	}
	if s.ContainerName != "" && a.Max > 1 {
		l.errorPath(JoinPath("services", s.Name)+".container_name", "cannot be set on a service that is scaled: remove it")
	}
}

// checkCanary checks the canary of a deploy section.
func (l *loading) checkCanary(s Service, c *Canary, deploy string) {
	at := deploy + ".x-trellis.canary"
	if len(c.Steps) == 0 {
		l.errorPath(at, "needs at least one step: write steps: [5%%, 25%%, 50%%]")
	}
	for i, share := range c.Steps {
		switch {
		case share <= 0 || share >= 1:
			l.errorPath(indexPath(at+".steps", i), "must be more than 0%% and less than 100%%: the rest follows by itself")
		case i > 0 && share <= c.Steps[i-1]:
			l.errorPath(indexPath(at+".steps", i), "is not more than the step before: the parts must grow")
		}
	}
	if u := s.Deploy.UpdateConfig; u != nil && u.Order == StopFirst {
		l.errorPath(at, "cannot be combined with update_config.order stop-first: old and new instances run beside each other in a canary")
	}
}

// badRoutePath says what is wrong with a path of a route, "" where nothing is.
func badRoutePath(path string) string {
	if !strings.HasPrefix(path, "/") {
		return "must begin with /"
	}
	if controlCharacter(path) != "" || strings.ContainsAny(path, "?# ") {
		return "is not a path: it holds a query, a fragment or a space"
	}
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		switch {
		case s == "*" && i == len(segments)-1:
		case strings.ContainsAny(s, "*"):
			return "may hold * only as its last part: /prefix/*"
		case strings.ContainsAny(s, "{}") && !routeParam.MatchString(s):
			return "has a parameter that is not a whole part: write /a/{name}/b"
		case s == "." || s == "..":
			return "may not hold . or .. as a part"
		}
	}
	return ""
}

// checkGateway checks the x-trellis keys of the project.
func (l *loading) checkGateway(p Project) {
	if g := p.Trellis.Gateway; g != nil {
		for key, address := range map[string]string{"http": g.HTTP, "https": g.HTTPS} {
			if address == "" {
				continue
			}
			_, port, err := net.SplitHostPort(address)
			if n, bad := strconv.Atoi(port); err != nil || bad != nil || n < 0 || n > 65535 {
				l.errorPath("x-trellis.gateway."+key, "%s is not a listen address: write :8080 or 127.0.0.1:8080", quoted(address))
			}
		}
		if g.AccessLog < 0 || g.AccessLog > 1 {
			l.errorPath("x-trellis.gateway.access_log", "%v is not a share of requests: write 1 for all of them, 0.01 for one in a hundred", g.AccessLog)
		}
		l.checkTLS(p, g)
		l.checkBalancers(g.ProxyProtocol, "x-trellis.gateway.proxy_protocol")
		l.checkBalancers(g.TrustedProxies, "x-trellis.gateway.trusted_proxies")
		l.checkShift(p, g.Shift)
		for i, h := range g.Hosts {
			if !routeHost.MatchString(h) {
				l.errorPath(indexPath("x-trellis.gateway.hosts", i), "%s is not a host name", quoted(h))
			}
		}
		if g.Policy != nil {
			if g.Policy.Auth != "" {
				l.checkAuth(g.Policy.Auth, "x-trellis.gateway.policy.auth")
			}
			l.checkPolicy(*g.Policy, "x-trellis.gateway.policy")
		}
	}
	for name, a := range p.Trellis.Auth {
		l.checkScheme(p, a, JoinPath("x-trellis.auth", name))
	}
	for name, e := range p.Trellis.Environments {
		for key, of := range map[string]struct {
			word  string
			known []string
		}{"on": {e.On, []string{"local", "kubernetes"}}, "autoscaler": {e.Autoscaler, []string{KEDA}}, "mesh": {e.Mesh, []string{Istio, Linkerd}}, "monitoring": {e.Monitoring, []string{PrometheusOperator}}} {
			if of.word != "" && !slices.Contains(of.known, of.word) {
				l.errorPath(JoinPath("x-trellis.environments", name)+"."+key, "%s is not known%s", quoted(of.word), didYouMean(of.word, of.known))
			}
		}
		if e.TTL != nil && *e.TTL <= 0 {
			l.errorPath(JoinPath("x-trellis.environments", name)+".ttl", "is no time to live: write 72h, say, or leave it out")
		}
	}
	for name, profile := range p.Trellis.Load {
		at := JoinPath("x-trellis.load", name)
		if len(profile.Stages) == 0 {
			l.errorPath(at, "has no stages")
		}
		if known := []string{"constant", "poisson"}; profile.Arrivals != "" && !slices.Contains(known, profile.Arrivals) {
			l.errorPath(at+".arrivals", "%s is not known%s", quoted(profile.Arrivals), didYouMean(profile.Arrivals, known))
		}
		for i, stage := range profile.Stages {
			where := indexPath(at+".stages", i)
			if stage.For <= 0 {
				l.errorPath(where, "needs for: how long it lasts")
			}
			if stage.Ramp != nil && *stage.Ramp > stage.For {
				l.errorPath(where+".ramp", "is longer than the stage")
			}
		}
	}
}
