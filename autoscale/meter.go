package autoscale

import "time"

// Meter is the recent load of one service as one source tells it, for whoever decides elsewhere. The zero value knows nothing. It is
// not safe for concurrent use.
type Meter struct{ series series }

// Observe takes a reading in and forgets what is older than a window before it. One that is older than the newest is dropped.
func (m *Meter) Observe(r Reading, window time.Duration) { m.series.add(r, window) }

// Average is how much there was of a metric over the window before now, or over as much of it as was observed. It is not known where
// the newest reading is older than fresh, or where there is no second one.
func (m *Meter) Average(of Metric, now time.Time, window, fresh time.Duration) (v float64, known bool) {
	return m.series.average(of, now, window, fresh)
}

// Aim is the load that one replica is to have where it should carry a target: as far below it as a Config without a Utilisation has it.
func Aim(t Target) float64 { return Config{}.withDefaults().aim(t) }
