package engine

import (
	"bytes"
	"fmt"

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

// What events tell of drift: that there is some, that there is none any more, and that it was brought back.
const (
	EventDriftFound    = "drift.found"
	EventDriftGone     = "drift.gone"
	EventDriftReverted = "drift.reverted"
)

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
