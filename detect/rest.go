package detect

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"trellis/compose"
	"trellis/compose/edit"
)

// startingMemory is the ceiling for a service of which nothing says how much it needs.
const startingMemory = "512M"

var memorySettings = []struct {
	name  string
	value *regexp.Regexp
	bytes int64 // of the unit where the text has none
}{
	{"NODE_OPTIONS", regexp.MustCompile(`--max[-_]old[-_]space[-_]size=([0-9]+)()`), 1 << 20},
	{"GOMEMLIMIT", regexp.MustCompile(`^([0-9]+)(KiB|MiB|GiB)?`), 1},
}

// memoryOf returns a limit for a component's memory: what its settings ask for with a third on top, else a ceiling to
// start from.
func memoryOf(c component, f facts) (value, reason string) {
	for _, setting := range memorySettings {
		text, where := c.service.Environment[setting.name], "the environment"
		for _, v := range f.env {
			if text == "" && v.name == setting.name {
				text, where = v.value, v.where
			}
		}
		m := setting.value.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		n, err := strconv.ParseInt(m[1], 10, 32)
		unit := map[string]int64{"": setting.bytes, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[m[2]]
		if mib := n * unit / (1 << 20) * 4 / 3; err == nil && mib > 0 {
			return fmt.Sprintf("%dM", mib), fmt.Sprintf("%s in %s, and a third on top", setting.name, where)
		}
	}
	return startingMemory, "a ceiling to start from, not measured, so that a leak ends one instance and not the machine"
}

// proposeRoutes proposes routes for the HTTP ports of a project that has none. A published port is a door already: where
// there is one, a route would be a second one. Several services behind one address each get a host name.
func (t *tree) proposeRoutes(p compose.Project, r *Report) {
	var doors []string
	gateway := p.Trellis.Gateway != nil
	for _, name := range p.ServiceNames() {
		for _, port := range p.Services[name].Ports {
			gateway = gateway || len(port.Trellis.Routes) > 0
		}
		if port, ok := httpPort(p.Services[name], r); ok {
			doors = append(doors, fmt.Sprintf("%s at %s", name, port))
		}
	}
	if len(doors) > 1 && !gateway {
		r.note("", "no routes: the published ports are the doors (%s); x-trellis.routes on a port in the long form puts several behind one address", strings.Join(doors, ", "))
	}
}

// httpPort returns the published port at which a service answers HTTP, as far as that is known.
func httpPort(s compose.Service, r *Report) (string, bool) {
	http := s.Trellis.Probe != nil && s.Trellis.Probe.HTTP != ""
	for _, p := range r.Proposals {
		if m, ok := p.Value.(edit.Map); ok && p.Service == s.Name && p.Kind == KindProbe {
			http = http || m[0].Key == "http"
		}
	}
	for _, p := range s.Ports {
		if http && p.Protocol != "udp" && p.Published != "" {
			return p.Published, true
		}
	}
	return "", false
}
