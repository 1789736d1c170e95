package engine

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"trellis/compose"
)

// The kinds of Drift.
const (
	DriftScaled  = "scaled"  // another number of instances was asked for than the file says
	DriftStopped = "stopped" // a service was stopped
	DriftGone    = "gone"    // fewer instances run than are wanted
	DriftChanged = "changed" // a running instance is not what it was started as
	DriftPort    = "port"    // a published port is somebody else's
	DriftObject  = "object"  // an object of the cluster that no instance is made of is another than was applied
)

// Drift is one place where the world is not what the revision in force says. From of its Change is what the revision says,
// To what is there, and Effect what bringing it back does to what runs.
type Drift struct {
	Change
	Kind     string     `json:"kind"`
	Service  string     `json:"service"`
	Instance InstanceID `json:"instance,omitempty"`
	Reason   string     `json:"reason"` // in one sentence: what was seen, or who did it
	// Heals says that the engine is bringing it back by itself.
	Heals bool `json:"heals"`
	// Adoptable says that a file can say what is there: To is a value for Path, nil where Path is to be taken out.
	Adoptable bool `json:"adoptable"`
}

// Place is where it was found, for people: its path, and which instance it is about.
func (d Drift) Place() string {
	if d.Instance == "" {
		return d.Path
	}
	return d.Path + " of " + string(d.Instance)
}

// Words says in words what is another.
func (d Drift) Words() string {
	value := func(v any) string {
		if v == nil {
			return "nothing"
		}
		return fmt.Sprint(v)
	}
	return fmt.Sprintf("%s in place of %s: %s", value(d.To), value(d.From), d.Reason)
}

// The kinds of the events about drift: there is some, a place is as the revision says again, it was brought back.
const (
	EventDriftFound    = "drift.found"
	EventDriftGone     = "drift.gone"
	EventDriftReverted = "drift.reverted"
)

// ToldDrift is what was told of drift: what is there, by place. It is told when it is new or another, and when it is gone. What
// heals by itself is not told: its events are those of healing.
type ToldDrift map[string]string

// Next returns what there is to tell when that was found, and what will have been told then.
func (t ToldDrift) Next(found []Drift) (now ToldDrift, fresh []Drift, gone []string) {
	now = ToldDrift{}
	for _, one := range found {
		if one.Heals {
			continue
		}
		place, there := one.Place(), fmt.Sprint(one.To)
		now[place] = there
		if was, known := t[place]; !known || was != there {
			fresh = append(fresh, one)
		}
	}
	for _, place := range slices.Sorted(maps.Keys(t)) {
		if _, still := now[place]; !still {
			gone = append(gone, place)
		}
	}
	return now, fresh, gone
}

// DriftedServices returns in how many places each service differs, without what heals by itself and services that do not.
func DriftedServices(found []Drift) map[string]int {
	count := map[string]int{}
	for _, one := range found {
		if !one.Heals {
			count[one.Service]++
		}
	}
	return count
}

// Masked returns a value found at a Compose path without what looks like a secret, and whether nothing had to be taken out.
func Masked(path string, v any) (shown any, whole bool) {
	if v == nil {
		return nil, true
	}
	shown = masked(path, v)
	return shown, bytes.Equal(encode(shown), encode(v))
}

// ReplacedEffect is the effect of replacing the instances of a service: EffectRollout, or EffectStopFirst.
func ReplacedEffect(svc compose.Service) string {
	if first, _ := StopFirst(svc, Replicas(svc)); first {
		return EffectStopFirst
	}
	return EffectRollout
}
