package detect

import (
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"trellis/compose"
	"trellis/lazyregexp"
)

// probeOf finds out how a component is asked whether it is ready: as its health check asks over HTTP, else at a path
// that its code answers, else whether it accepts a connection.
func (t *tree) probeOf(c component, f facts, r *Report) probe {
	s := c.service
	if s.Trellis.Probe != nil {
		return probe{}
	}
	test, where := []string(nil), ""
	if h := s.Healthcheck; h != nil {
		if h.Disable || len(h.Test) > 0 && h.Test[0] == "NONE" {
			return probe{} // somebody wanted none
		}
		test, where = h.Test, "healthcheck.test in the file"
	}
	if len(test) == 0 && c.docker != nil {
		if img := c.docker.image(c.docker.final(c.target), c.args); img.health.argv != nil {
			kind := "CMD"
			if img.health.shell {
				kind = "CMD-SHELL"
			}
			test, where = append([]string{kind}, img.health.argv...), "HEALTHCHECK in "+place(c.docker.name, img.health.line)
		}
	}
	if len(test) > 1 {
		if p, ok := httpTest(test, c.name); ok {
			p.reason = where + ", asked without a program"
			return p
		}
		if !strings.HasPrefix(where, "HEALTHCHECK") {
			return probe{} // the command counts
		}
		r.note(c.name, "%s is not carried out by a process: copy it into healthcheck of the file, if it is meant to count", where)
	}
	if s.Build == nil {
		return imageProbe(s)
	}
	if f.language == "" {
		if f.port.number > 0 {
			return probe{port: f.port.number, reason: f.port.reason}
		}
		return probe{}
	}
	if f.port.number == 0 {
		if len(tcpPorts(s)) > 1 {
			r.note(c.name, "no probe: it has several ports, and nothing says which one to ask")
		} else {
			r.note(c.name, "no probe: no port is seen in the file, the image or the code, so it is ready when it runs")
		}
		return probe{}
	}
	if p, where := t.healthPath(f, c.others); p != "" {
		return probe{path: p, port: f.port.number, reason: fmt.Sprintf("%s answers %s; %s", where, p, f.port.reason)}
	}
	return probe{port: f.port.number, reason: f.port.reason + "; no health path is seen in the code"}
}

var httpCommand = lazyregexp.New(`^(?:curl|wget)((?: +-{1,2}[A-Za-z-]+(?:[ =][0-9]+| +-|[ =]/dev/null)?)*) +['"]?((?:https?://)?[^-\s'"|;&][^\s'"|;&]+)['"]?((?: +-{1,2}[A-Za-z-]+(?: +[0-9]+| +/dev/null)?)*) *(?:>/dev/null)?(?: *2>&1)? *(?:\|\| *(?:exit 1|false|kill 1))?$`)

// httpTest reads a health check that is one GET of the service itself.
func httpTest(test []string, name string) (probe, bool) {
	line := strings.Join(test[1:], " ")
	m := httpCommand.FindStringSubmatch(strings.TrimSpace(line))
	if m == nil {
		return probe{}, false
	}
	for _, option := range strings.Fields(m[1] + " " + m[3]) {
		option, _, _ = strings.Cut(option, "=")
		if slices.Contains([]string{"-X", "-d", "-H", "-u", "-b", "-F", "--data", "--header", "--request", "--user", "-G", "--post-data"}, option) {
			return probe{}, false
		}
	}
	if !strings.Contains(m[2], "://") {
		m[2] = "http://" + m[2]
	}
	u, err := url.Parse(m[2])
	if err != nil || !slices.Contains([]string{"localhost", "127.0.0.1", "0.0.0.0", "::1", name}, u.Hostname()) || strings.Contains(m[2], "$") {
		return probe{}, false
	}
	p := probe{path: u.RequestURI(), scheme: u.Scheme, port: portNumber(u.Port())}
	if p.port == 0 {
		p.port = 80
		if u.Scheme == "https" {
			p.port = 443
		}
	}
	return p, true
}

// healthNames are the last parts of paths that tell of health, the most telling first.
var healthNames = []string{"readyz", "ready", "readiness", "healthz", "health", "healthcheck", "health-check", "_health", "livez", "live", "ping", "up"}

const healthPath = `(/(?:[A-Za-z0-9_.-]+/)*(?:readyz|ready|readiness|healthz|health|healthcheck|health-check|_health|livez|live|ping|up)/?)`

// registering are the ways in which code says that it answers a path, by language. Only those at the top of a server
// count: what a group or router answers has a prefix that is written elsewhere.
var registering = map[string][]*lazyregexp.Regexp{
	"go": {
		lazyregexp.New(`\.(?:HandleFunc|Handle)\(\s*"(?:GET )?` + healthPath + `(?:\{\$\})?"`),
		lazyregexp.New(`\b(?:r|e|app|router|mux|engine|server|srv)\.(?:GET|Get)\(\s*"` + healthPath + `"`),
	},
	"node": {
		lazyregexp.New("\\b(?:app|server|fastify)\\.(?:get|all|use)\\(\\s*['\"`]" + healthPath + "['\"`]"),
		lazyregexp.New("\\b(?:req|request)\\.url\\s*={2,3}\\s*['\"`]" + healthPath + "['\"`]"),
		lazyregexp.New("\\bpathname\\s*={2,3}\\s*['\"`]" + healthPath + "['\"`]"),
	},
	"python": {
		lazyregexp.New(`@app\.(?:route|get)\(\s*['"]` + healthPath + `['"]`),
		lazyregexp.New(`self\.path\s*==\s*['"]` + healthPath + `['"]`),
	},
}

// prefixed says that code mounts routes below a prefix, so that a path in it may not be the whole one.
var prefixed = lazyregexp.New(`StripPrefix\(|\.(?:Group|Route|Mount|PathPrefix)\(|Blueprint\(|APIRouter\(|express\.Router\(`)

// healthPath returns the path of a component that tells of its health, and where it stands in its code.
func (t *tree) healthPath(f facts, others []string) (string, string) {
	best := health{rank: len(healthNames)}
	t.code(f, others, func(file, text string) {
		h := once(t, "health in "+f.language, file, func() health { return healthIn(f.language, file, text) })
		if h.path != "" && h.tellsMore(best) {
			best = h
		}
	})
	return best.path, best.where
}

// health is a path that code answers; rank is where its name stands in healthNames.
type health struct {
	path, where string
	rank        int
}

func (h health) tellsMore(o health) bool {
	return h.rank < o.rank || h.rank == o.rank && len(h.path) < len(o.path)
}

// healthIn returns the path of a file that tells most of health; none is "".
func healthIn(language, file, text string) health {
	best := health{rank: len(healthNames)}
	if prefixed.MatchString(text) {
		return best
	}
	for _, re := range registering[language] {
		for _, m := range re.FindAllStringSubmatchIndex(text, 32) {
			h := health{path: text[m[2]:m[3]]}
			if h.rank = slices.Index(healthNames, path.Base(h.path)); h.rank >= 0 && h.tellsMore(best) && !commented(text, m[0]) {
				h.where = place(file, lineAt(text, m[0]))
				best = h
			}
		}
	}
	return best
}

// commented says that an offset is behind a comment sign in its line.
func commented(text string, at int) bool {
	line := text[strings.LastIndexByte(text[:at], '\n')+1 : at]
	trimmed := strings.TrimSpace(line)
	return strings.HasPrefix(trimmed, "//") || strings.HasPrefix(trimmed, "#") || strings.HasPrefix(trimmed, "*")
}

// known are images whose program listens on one well-known port, 0 where their configuration says on which.
var known = map[string]int{
	"postgres": 5432, "postgis": 5432, "timescaledb": 5432, "mysql": 3306, "mariadb": 3306, "redis": 6379, "valkey": 6379,
	"mongo": 27017, "rabbitmq": 5672, "memcached": 11211, "nats": 4222, "elasticsearch": 9200, "opensearch": 9200,
	"nginx": 0, "httpd": 0, "caddy": 0, "traefik": 0, "haproxy": 0, "kafka": 0, "zookeeper": 2181, "minio": 9000,
}

// imageProbe is the probe of a service that is an image of somebody else.
func imageProbe(s compose.Service) probe {
	ports := tcpPorts(s)
	name := imageName(s.Image)
	number, isKnown := known[name]
	switch {
	case isKnown && number > 0 && (len(ports) == 0 || slices.Contains(ports, number)):
		return probe{port: number, reason: fmt.Sprintf("%s listens on %d", name, number)}
	case len(ports) == 1:
		return probe{port: ports[0], reason: "ports or expose in the file"}
	}
	return probe{}
}

// imageName is the last part of an image's name, without tag and digest.
func imageName(image string) string {
	image, _, _ = strings.Cut(image, "@")
	name := path.Base(image)
	name, _, _ = strings.Cut(name, ":")
	return name
}
