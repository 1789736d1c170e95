package main

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
)

// usageView is one instance in the JSON of top. What was not measured is null.
type usageView struct {
	Service   string            `json:"service"`
	Instance  engine.InstanceID `json:"instance"`
	State     string            `json:"state"`
	Rate      *float64          `json:"requests_per_second"` // over the last half minute
	Errors    *float64          `json:"error_ratio"`         // of these; null: there were none
	P95       *float64          `json:"p95_ms"`
	InFlight  *float64          `json:"in_flight"`
	CPU       *float64          `json:"cpu_percent"` // of one CPU, over the sampling time; null: it was not there at its start
	CPUTime   *float64          `json:"cpu_seconds"` // since start; this and others null where an engine does not know them
	Memory    int64             `json:"memory_bytes"`
	Processes *int              `json:"processes"`
	Restarts  int               `json:"restarts"`
	Read      *int64            `json:"read_bytes"` // since start
	Written   *int64            `json:"write_bytes"`
	Enforced  bool              `json:"limits_enforced"`
	Why       string            `json:"limits_why,omitempty"`
}

func (p *program) topCommand() *cobra.Command {
	var once bool
	interval := span(2 * time.Second)
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show the requests, CPU, memory and restarts of services and instances, live",
		Long: `Top shows what each service and each of its instances does: requests a second, the
share that failed and the 95th percentile of their times, over the last half minute;
how many are under way now; CPU in percent of one CPU and memory as charged or
resident, the whole tree of processes counted; restarts; bytes read and written. In a cluster it shows what its metrics API measured
last, which is CPU and memory.`,
		Example: `  trellis top                live, until Ctrl-C
  trellis top --no-stream    once, over one second; so too with --format json`,
		Args: arguments(0, 0),
	}
	cmd.Flags().BoolVar(&once, "no-stream", false, "print one measurement and end")
	cmd.Flags().Var(&interval, "interval", "`DURATION` between measurements")
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if interval < span(100*time.Millisecond) {
			return usageError{"--interval: want at least 100ms", cmd.CommandPath()}
		}
		ctx := cmd.Context()
		return p.withControl(ctx, func(control api.Control, l location) error {
			live := !once && !format.json() && terminal(p.stdout)
			canvas := &screen{w: p.stdout, size: func() (int, int) { return sizeOf(p.stdout) }}
			pause := min(time.Duration(interval), time.Second)
			var before measurement
			for {
				now, err := measure(ctx, control)
				if err != nil {
					return ended(ctx, err)
				}
				if before.usage != nil {
					views := now.since(before)
					switch {
					case format.json():
						err = p.writeJSON(views)
					case live:
						canvas.draw(p.topPicture(l.Project, now, views))
					default:
						t := topTable(p.styleOf(p.stdout), now, views)
						err = t.write(p.stdout, p.styleOf(p.stdout))
					}
					if err != nil || !live {
						return err
					}
					pause = time.Duration(interval)
				}
				before = now
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(pause):
				}
			}
		})
	}
	return p.project(cmd)
}

// ended returns nil where ctx is done: whoever stops a view has seen enough.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// measurement is what the instances have used up to a moment, and what they are asked.
type measurement struct {
	at       time.Time
	usage    []engine.Usage
	services []engine.Service
	recent   api.Recent         // of the last half minute
	inFlight map[string]float64 // by instance
}

// errSeen ends following the traffic after what is remembered.
var errSeen = errors.New("seen")

// measure asks for everything that is shown. Of what cannot be told yet nothing is shown.
func measure(ctx context.Context, control api.Control) (measurement, error) {
	m := measurement{usage: []engine.Usage{}, inFlight: map[string]float64{}}
	usage, err := control.Top(ctx)
	if err != nil {
		return m, err
	}
	m.at, m.usage = time.Now(), append(m.usage, usage...)
	status, err := control.Status(ctx)
	if err != nil {
		return m, err
	}
	m.services = status.Services
	err = control.Traffic(ctx, func(steps []api.TrafficStep) error {
		if n := len(steps); n > 0 && steps[n-1].Recent != nil {
			m.recent = *steps[n-1].Recent
		}
		return errSeen
	})
	if errors.Is(err, errdefs.ErrUnsupported) || errors.Is(err, errdefs.ErrUnavailable) { // nothing measures requests there, or not now
		return m, nil
	}
	if err != nil && !errors.Is(err, errSeen) {
		return m, err
	}
	under, err := control.Metrics(ctx, api.MetricQuery{Query: "sum by (instance) (trellis_requests_in_flight)"})
	if err != nil && !errors.Is(err, errdefs.ErrUnavailable) { // the store is being opened
		return m, err
	}
	m.inFlight = byInstance(under)
	return m, nil
}

// byInstance reads an instant vector.
func byInstance(r api.MetricResult) map[string]float64 {
	var vector []struct {
		Metric map[string]string `json:"metric"`
		Value  [2]any            `json:"value"`
	}
	values := map[string]float64{}
	if json.Unmarshal(r.Result, &vector) != nil {
		return values
	}
	for _, one := range vector {
		text, _ := one.Value[1].(string)
		if v, err := strconv.ParseFloat(text, 64); err == nil && one.Metric["instance"] != "" {
			values[one.Metric["instance"]] = v
		}
	}
	return values
}

// since returns what was used from before to m.
func (m measurement) since(before measurement) []usageView {
	was := map[engine.InstanceID]time.Duration{}
	for _, u := range before.usage {
		was[u.Instance] = u.Usage.CPU
	}
	views := []usageView{}
	for _, u := range m.usage {
		v := usageView{Service: u.Service, Instance: u.Instance, Memory: u.Usage.Memory, Enforced: u.Usage.Enforced, Why: u.Usage.Why}
		if rate := u.Usage.Rate; rate != nil {
			percent := 100 * *rate
			v.CPU = &percent
		} else {
			v.consumed(u.Usage)
			if cpu, ok := was[u.Instance]; ok && m.at.After(before.at) {
				percent := max(0, 100*float64(u.Usage.CPU-cpu)/float64(m.at.Sub(before.at)))
				v.CPU = &percent
			}
		}
		if n, ok := m.inFlight[string(u.Instance)]; ok {
			v.InFlight = &n
		}
		v.Rate, v.Errors, v.P95 = m.flow(m.recent.Instances[string(u.Instance)])
		for _, svc := range m.services {
			for _, in := range svc.Instances {
				if in.ID == u.Instance {
					v.State, v.Restarts = in.State, in.Restarts
				}
			}
		}
		views = append(views, v)
	}
	return views
}

// consumed fills in what an instance has used since its start.
func (v *usageView) consumed(u driver.Usage) {
	seconds := u.CPU.Seconds()
	v.CPUTime, v.Processes, v.Read, v.Written = &seconds, &u.Processes, &u.ReadBytes, &u.WriteBytes
}

// flow returns the rate, the share of errors and the 95th percentile of what was asked; nil what there is none of.
func (m measurement) flow(f api.Flow) (rate, failed, p95 *float64) {
	if m.recent.Seconds <= 0 {
		return nil, nil, nil
	}
	r := float64(f.Requests) / m.recent.Seconds
	if f.Requests == 0 {
		return &r, nil, nil
	}
	e := float64(f.Failed) / float64(f.Requests)
	return &r, &e, &f.P95
}
