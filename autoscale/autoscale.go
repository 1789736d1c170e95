// Package autoscale decides how many replicas a service should have: measurements of its load go in, a number and the
// reason in words come out. A Scaler reads no clock and does nothing: the same readings and moments give the same
// decisions.
//
// The shape is that of Knative's pod autoscaler (knative.dev/serving, config-autoscaler): a stable window of 60 s and a
// panic window of 6 s, panic at twice of what the ready replicas can carry, 70 % of the target as the load aimed at,
// bounded steps, and a scale-down that waits. Beside concurrency and requests a second a target may be CPU; of several
// targets the one that asks for most replicas wins.
package autoscale

import (
	"fmt"
	"math"
	"time"

	"trellis/errdefs"
)

// Metric is what a target is measured in.
type Metric string

// The metrics. Each is a sum over the instances of a service that grows with its load, so that the sum divided by the
// target of one replica is the number of replicas.
const (
	Concurrency Metric = "concurrency" // requests being worked on or waiting, on average
	RPS         Metric = "rps"         // requests arriving a second
	CPU         Metric = "cpu"         // share of one replica's limit that is used; 0.8 is 80 % of it
)

// Target is the load that one replica should carry.
type Target struct {
	Metric Metric
	Value  float64 // in the metric's unit, more than 0
}

// Config bounds and shapes the decisions for one service. A zero duration or factor takes its default.
type Config struct {
	Min, Max int // replicas; Min may be 0
	Targets  []Target

	StableWindow   time.Duration // 60 s
	PanicWindow    time.Duration // 6 s; that of CPU is no shorter, unless the stable one is
	PanicThreshold float64       // 2: the panic window asks for this many times the ready replicas
	// Utilisation is the share of a concurrency or rps target that is aimed at, so that there is room while a replica
	// starts: 0.7. A CPU target is aimed at itself, as the Kubernetes HPA does.
	Utilisation float64
	MaxUp       float64 // at most this many times the ready replicas in one decision: 1000
	MaxDown     float64 // at least the ready replicas divided by this in one decision: 2
	// DownDelay is how long a lower wish has to last before it is followed: 30 s. It is Knative's scale-down-delay, whose
	// own default of 0 lets a trickle start and stop replicas again and again.
	// Where Min is 0 the last replica goes when nothing has arrived for a stable window and this delay.
	DownDelay time.Duration
}

// Defaults of Config; the sources are named there.
const (
	DefaultStableWindow   = 60 * time.Second
	DefaultPanicWindow    = 6 * time.Second
	DefaultPanicThreshold = 2.0
	DefaultUtilisation    = 0.7
	DefaultMaxUp          = 1000.0
	DefaultMaxDown        = 2.0
	DefaultDownDelay      = 30 * time.Second
)

// tolerance is how far a CPU wish may be from what is there and be left alone: a tenth, as in the HPA.
const tolerance = 0.1

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	factor := func(f *float64, v float64) {
		if *f == 0 {
			*f = v
		}
	}
	set(&c.StableWindow, DefaultStableWindow)
	set(&c.PanicWindow, DefaultPanicWindow)
	set(&c.DownDelay, DefaultDownDelay)
	factor(&c.PanicThreshold, DefaultPanicThreshold)
	factor(&c.Utilisation, DefaultUtilisation)
	factor(&c.MaxUp, DefaultMaxUp)
	factor(&c.MaxDown, DefaultMaxDown)
	return c
}

// Validate says what is wrong with c, as ErrInvalid.
func (c Config) Validate() error {
	c = c.withDefaults()
	problem := ""
	switch {
	case c.Min < 0:
		problem = fmt.Sprintf("min is %d; want 0 or more", c.Min)
	case c.Max < 1 || c.Max < c.Min:
		problem = fmt.Sprintf("max is %d; want at least 1 and at least min, %d", c.Max, c.Min)
	case len(c.Targets) == 0:
		problem = "no target; want concurrency, rps or cpu"
	case c.PanicWindow <= 0 || c.StableWindow < c.PanicWindow:
		problem = fmt.Sprintf("windows are %s and %s; want the stable one to hold the panic one", c.StableWindow, c.PanicWindow)
	case c.Utilisation < 0 || c.Utilisation > 1 || c.PanicThreshold < 1 || c.MaxUp <= 1 || c.MaxDown <= 1 || c.DownDelay < 0:
		problem = "a factor or delay is out of its range"
	}
	for _, t := range c.Targets {
		switch {
		case t.Metric != Concurrency && t.Metric != RPS && t.Metric != CPU:
			problem = fmt.Sprintf("target %q is unknown; want concurrency, rps or cpu", t.Metric)
		case !(t.Value > 0) || math.IsInf(t.Value, 0):
			problem = fmt.Sprintf("target %s is %v; want a number above 0", t.Metric, t.Value)
		}
	}
	if problem != "" {
		return fmt.Errorf("autoscale: %w: %s", errdefs.ErrInvalid, problem)
	}
	return nil
}

// aim is the load of one replica that is aimed at.
func (c Config) aim(t Target) float64 {
	if t.Metric == CPU {
		return t.Value
	}
	return t.Value * c.Utilisation
}
