package local

import (
	"fmt"

	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
)

// attribute is what a Deviation is in a Compose file: a path below the service ("" the service as a whole).
type attribute struct {
	path      string
	adoptable bool
}

// limitPaths are the Compose paths of limits, by the key of a Deviation.
var limitPaths = map[string]string{
	"cpus": "deploy.resources.limits.cpus", "memory": "deploy.resources.limits.memory", "pids": "deploy.resources.limits.pids",
	"cpu_shares": "cpu_shares", "cpuset": "cpuset", "mem_reservation": "deploy.resources.reservations.memory",
}

// driftOf tells a deviation of an instance in Compose terms.
func driftOf(p compose.Project, svc compose.Service, inst driver.Instance, dev driver.Deviation) engine.Drift {
	at := attributeOf(p, svc, dev)
	path := compose.JoinPath("services", svc.Name)
	if at.path != "" {
		path += "." + at.path
	}
	one := engine.Drift{
		Change: engine.Change{Path: path, Action: engine.Modify, Effect: engine.ReplacedEffect(svc)},
		Kind:   engine.DriftChanged, Service: svc.Name, Instance: short(inst.Project, inst.ID), Reason: dev.Message,
	}
	var whole bool
	one.From, _ = engine.Masked(path, dev.Want)
	one.To, whole = engine.Masked(path, dev.Have)
	one.Adoptable = at.adoptable && whole
	switch {
	case one.From == nil:
		one.Action = engine.Add
	case one.To == nil:
		one.Action = engine.Remove
	}
	if one.Reason == "" {
		one.Reason = "it was changed in the running instance"
	}
	return one
}

func attributeOf(p compose.Project, svc compose.Service, dev driver.Deviation) attribute {
	switch dev.Field {
	case driver.DeviatesLimit:
		return attribute{limitPaths[dev.Key], true}
	case driver.DeviatesUlimit:
		return attribute{"ulimits." + dev.Key + ".hard", true}
	case driver.DeviatesOom:
		return attribute{"oom_score_adj", true}
	case driver.DeviatesMount, driver.DeviatesAccess:
		return mountAttribute(svc, dev)
	case driver.DeviatesFile, driver.DeviatesMode:
		return fileAttribute(svc, dev)
	case driver.DeviatesHost:
		if _, own := svc.ExtraHosts[dev.Key]; own {
			return attribute{path: compose.JoinPath("extra_hosts", dev.Key)}
		}
		return attribute{path: "networks"} // names come with the networks that services share
	case driver.DeviatesEnv:
		return attribute{compose.JoinPath("environment", dev.Key), true}
	case driver.DeviatesImage:
		return attribute{"image", true}
	case driver.DeviatesCommand:
		return attribute{path: "command"}
	case driver.DeviatesRestart:
		return attribute{path: "restart"}
	case driver.DeviatesNetwork:
		for _, n := range networksOf(p, svc) {
			if n.Name == dev.Key {
				return attribute{path: compose.JoinPath("networks", n.Key)}
			}
		}
		return attribute{path: "networks"}
	}
	return attribute{}
}

func mountAttribute(svc compose.Service, dev driver.Deviation) attribute {
	for i, m := range svc.Volumes {
		if m.Target == dev.Key {
			if dev.Field == driver.DeviatesAccess {
				return attribute{fmt.Sprintf("volumes[%d].read_only", i), true}
			}
			return attribute{path: fmt.Sprintf("volumes[%d]", i)}
		}
	}
	for i, text := range svc.Tmpfs {
		if tmpfsOf(text).Target == dev.Key {
			return attribute{path: fmt.Sprintf("tmpfs[%d]", i)}
		}
	}
	return attribute{path: "volumes"}
}

func fileAttribute(svc compose.Service, dev driver.Deviation) attribute {
	of := func(section string, uses []compose.FileMount, target func(compose.FileMount) string) (attribute, bool) {
		for i, use := range uses {
			if target(use) == dev.Key {
				path := fmt.Sprintf("%s[%d]", section, i)
				if dev.Field == driver.DeviatesMode {
					path += ".mode"
				}
				return attribute{path, dev.Field == driver.DeviatesMode}, true
			}
		}
		return attribute{}, false
	}
	if at, ok := of("secrets", svc.Secrets, engine.SecretTarget); ok {
		return at
	}
	if at, ok := of("configs", svc.Configs, engine.ConfigTarget); ok {
		return at
	}
	return attribute{path: "configs"}
}
