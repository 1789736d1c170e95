package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/engine"
)

// usageView is one instance in the JSON of top.
type usageView struct {
	Service   string            `json:"service"`
	Instance  engine.InstanceID `json:"instance"`
	CPU       *float64          `json:"cpu_percent"` // of one CPU, over the sampling time; null: it was not there at its start
	CPUTime   float64           `json:"cpu_seconds"` // since start
	Memory    int64             `json:"memory_bytes"`
	Processes int               `json:"processes"`
	Read      int64             `json:"read_bytes"` // since start
	Written   int64             `json:"write_bytes"`
	Enforced  bool              `json:"limits_enforced"`
	Why       string            `json:"limits_why,omitempty"`
}

func (p *program) topCommand() *cobra.Command {
	var once bool
	interval := span(2 * time.Second)
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show the CPU, memory and I/O of each instance, live",
		Long: `Top shows what each instance uses, its whole tree of processes counted: CPU in
percent of one CPU, memory as charged or resident, bytes read and written.`,
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
						canvas.draw(p.topPicture(l.Project, views))
					default:
						t := topTable(views)
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

// measurement is what the instances have used up to a moment.
type measurement struct {
	at    time.Time
	usage []engine.Usage
}

func measure(ctx context.Context, control api.Control) (measurement, error) {
	usage, err := control.Top(ctx)
	if usage == nil {
		usage = []engine.Usage{}
	}
	return measurement{time.Now(), usage}, err
}

// since returns what was used from before to m.
func (m measurement) since(before measurement) []usageView {
	was := map[engine.InstanceID]time.Duration{}
	for _, u := range before.usage {
		was[u.Instance] = u.Usage.CPU
	}
	views := []usageView{}
	for _, u := range m.usage {
		v := usageView{
			Service: u.Service, Instance: u.Instance, CPUTime: u.Usage.CPU.Seconds(), Memory: u.Usage.Memory,
			Processes: u.Usage.Processes, Read: u.Usage.ReadBytes, Written: u.Usage.WriteBytes, Enforced: u.Usage.Enforced,
			Why: u.Usage.Why,
		}
		if cpu, ok := was[u.Instance]; ok && m.at.After(before.at) {
			percent := max(0, 100*float64(u.Usage.CPU-cpu)/float64(m.at.Sub(before.at)))
			v.CPU = &percent
		}
		views = append(views, v)
	}
	return views
}

func topTable(views []usageView) table {
	t := table{
		head:  []string{"INSTANCE", "CPU %", "MEMORY", "PROCS", "READ", "WRITTEN"},
		right: map[int]bool{1: true, 2: true, 3: true, 4: true, 5: true},
	}
	for _, v := range views {
		cpu := "-"
		if v.CPU != nil {
			cpu = fmt.Sprintf("%.1f", *v.CPU)
		}
		t.add(string(v.Instance), cpu, bytesOf(v.Memory), fmt.Sprint(v.Processes), bytesOf(v.Read), bytesOf(v.Written))
	}
	return t
}

// topPicture returns the live view's lines, cut to the terminal.
func (p *program) topPicture(project string, views []usageView) []string {
	width, height := sizeOf(p.stdout)
	var cpu float64
	var memory int64
	for _, v := range views {
		if v.CPU != nil {
			cpu += *v.CPU
		}
		memory += v.Memory
	}
	s := p.styleOf(p.stdout)
	lines := []string{s.fit(fmt.Sprintf("%s  %d instances  %.1f %% CPU  %s", project, len(views), cpu, bytesOf(memory)), width)}
	t := topTable(views)
	for _, line := range t.lines(style{ascii: s.ascii}) {
		lines = append(lines, s.fit(line, width))
	}
	if len(lines) > height-1 {
		more := len(lines) - height + 2
		lines = append(lines[:height-2], fmt.Sprintf("%s %d more", s.glyph("…", "..."), more))
	}
	return lines
}
