package detect

import (
	"fmt"
	"strconv"
	"strings"

	"trellis/compose"
	"trellis/compose/edit"
	"trellis/lazyregexp"
)

// startingMemory is the ceiling for a service of which nothing says how much it needs.
const startingMemory = "512M"

var memorySettings = []struct {
	name  string
	value *lazyregexp.Regexp
	bytes int64 // of the unit where the text has none
}{
	{"NODE_OPTIONS", lazyregexp.New(`--max[-_]old[-_]space[-_]size=([0-9]+)()`), 1 << 20},
	{"GOMEMLIMIT", lazyregexp.New(`^([0-9]+)(KiB|MiB|GiB)?`), 1},
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
// there is one, a route would be a second one, and no more is said than how to put several behind one address. A port
// that is published nowhere is mounted on the gateway: the only one for every path, several by host.
func (t *tree) proposeRoutes(p compose.Project, r *Report) {
	var doors, without []string
	gateway := p.Trellis.Gateway != nil
	taken := false
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		for _, port := range s.Ports {
			gateway = gateway || len(port.Trellis.Routes) > 0
			taken = taken || port.Published == "8080"
		}
		if !speaks(s, r) || len(s.Ports) == 0 || s.Ports[0].Protocol == "udp" {
			continue
		}
		if published := s.Ports[0].Published; published != "" {
			doors = append(doors, fmt.Sprintf("%s at %s", name, published))
		} else if len(s.Ports) == 1 {
			without = append(without, name)
		}
	}
	if gateway || taken && len(without) > 0 {
		return
	}
	if len(doors) > 1 {
		r.note("", "no routes: the published ports are the doors (%s); x-trellis.routes on a port in the long form puts several behind one address", strings.Join(doors, ", "))
	}
	for _, name := range without {
		route := edit.Map{{Key: "path", Value: "/*"}, {Key: "auth", Value: "none"}}
		if len(without) > 1 {
			route[0] = edit.Entry{Key: "host", Value: name + ".localhost"}
		}
		r.Proposals = append(r.Proposals, Proposal{KindRoutes, name, serviceAt(name) + ".ports[0].x-trellis.routes", []any{route},
			"it speaks HTTP and its port is published nowhere: the gateway is its door, and 'auth: none' lets everyone in"})
	}
}

// speaks says that a service surely speaks HTTP: it is probed so.
func speaks(s compose.Service, r *Report) bool {
	if s.Trellis.Probe != nil {
		return s.Trellis.Probe.HTTP != "" && s.Trellis.Probe.Scheme != "https"
	}
	for _, p := range r.Proposals {
		if m, ok := p.Value.(edit.Map); ok && p.Service == s.Name && p.Kind == KindProbe {
			return m[0].Key == "http" && m[len(m)-1].Key != "scheme"
		}
	}
	return false
}
