//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/load"
)

// second is what happened to the requests that should have started within one second.
type second struct {
	took []time.Duration
	lost int
}

func (s second) p99() time.Duration {
	slices.Sort(s.took)
	if len(s.took) == 0 {
		return 0
	}
	return s.took[(len(s.took)*99)/100]
}

// BenchmarkStepOfLoad is the time from a step of load, 20 to 400 requests a second at a service of which one instance does
// 50, until the objective (p99 250 ms, none lost) holds again and goes on to hold. The floor is the time that one instance
// takes to start. For comparison, as published: Knative decides every 2 s and panics after 6 s of load, the Kubernetes HPA
// looks every 15 s. STEP_PICTURE names a file that the run is drawn into.
func BenchmarkStepOfLoad(b *testing.B) {
	const (
		before, after    = 20, 400 // requests a second
		lead, length     = 5, 20   // seconds
		objective        = 250 * time.Millisecond
		knative, hpaLook = 8 * time.Second, 15 * time.Second
	)
	port := freePort(b)
	p := newProject(b, map[string]string{
		"compose.yaml": autoscaled(b, port, "{min: 1, max: 12, target: {concurrency: 1}}"), "ledger/.keep": "",
	})
	began := time.Now()
	p.run("up", "-d")
	floor := time.Since(began)
	var until []time.Duration
	for range b.N {
		eventually(b, 5*time.Minute, "one replica", func() string {
			if n := serviceOf(b, p.ps(), "web").Ready; n != 1 {
				return fmt.Sprint(n, " are ready")
			}
			return ""
		})
		seconds := make([]second, lead+length)
		ready := make([]int, lead+length)
		ctx, cancel := context.WithCancel(context.Background())
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for i := range ready {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				ready[i] = serviceOf(b, p.ps(), "web").Ready
			}
		}()
		report, err := load.Run(ctx, load.Config{
			URL: url(port), Stages: []load.Stage{{Rate: before, For: lead * time.Second}, {Rate: after, For: length * time.Second}},
			Connections: 512, Timeout: 15 * time.Second, Mix: []load.Request{{Method: "GET", Path: "/slow?for=20ms"}},
			OnResult: func(r *load.Result) {
				s := &seconds[min(int(r.Intended/time.Second), len(seconds)-1)]
				s.took = append(s.took, r.Latency())
				if r.Kind != "" {
					s.lost++
				}
			},
		})
		cancel()
		<-watched
		if err != nil {
			b.Fatal(err)
		}
		holds := 0
		for i := len(seconds) - 1; i >= lead && seconds[i].lost == 0 && seconds[i].p99() <= objective; i-- {
			holds = i
		}
		switch {
		case holds == 0:
			b.Fatalf("the objective never held again: %s", drawn(seconds, ready))
		case slices.Max(ready) < 8:
			b.Fatalf("that many replicas cannot do it: the load was not what it should be: %s", drawn(seconds, ready))
		}
		until = append(until, time.Duration(holds-lead)*time.Second)
		b.ReportMetric(float64(report.Lost()), "lost")
		b.Logf("%s", drawn(seconds, ready))
		if file := os.Getenv("STEP_PICTURE"); file != "" {
			if err := os.WriteFile(filepath.Clean(file), []byte(picture(seconds, ready, objective)), 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(median(until).Seconds(), "s-until-objective")
	b.ReportMetric(ms(floor), "floor-ms")
	b.ReportMetric(median(until).Seconds()/knative.Seconds(), "of-knative")
	b.ReportMetric(median(until).Seconds()/hpaLook.Seconds(), "of-hpa")
	b.ReportMetric(0, "ns/op")
}

// drawn is a run as text, a line a second.
func drawn(seconds []second, ready []int) string {
	var w strings.Builder
	for i, s := range seconds {
		fmt.Fprintf(&w, "\n%2d s  %4d requests  %2d lost  p99 %8s  %2d ready  %s", i, len(s.took), s.lost, s.p99().Round(100*time.Microsecond),
			ready[i], strings.Repeat("#", ready[i]))
	}
	return w.String()
}

// picture is a run as a drawing: the p99 of each second as bars, the replicas that serve as a line above them.
func picture(seconds []second, ready []int, objective time.Duration) string {
	const width, height, left, bottom = 760, 300, 48, 34
	worst, most := 2*objective, 1
	for i, s := range seconds {
		worst, most = max(worst, s.p99()), max(most, ready[i])
	}
	column := float64(width-2*left) / float64(len(seconds))
	y := func(share float64) float64 { return height - bottom - share*(height-2*bottom) }
	var w, line strings.Builder
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="p99 latency and replicas after a step of load">
<style>
text { font: 12px system-ui, sans-serif; fill: #333 }
.bar { fill: #7aa5d8 } .line { fill: none; stroke: #c2571a; stroke-width: 2 } .goal { stroke: #777; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) { text { fill: #ccc } .bar { fill: #4d7db5 } .line { stroke: #f0964d } .goal { stroke: #888 } }
</style>
`, width, height)
	for i, s := range seconds {
		x, top := left+float64(i)*column, y(float64(s.p99())/float64(worst))
		fmt.Fprintf(&w, "<rect class=\"bar\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", x+1, top, column-2, height-bottom-top)
		fmt.Fprintf(&line, "%.1f,%.1f %.1f,%.1f ", x, y(float64(ready[i])/float64(most)), x+column, y(float64(ready[i])/float64(most)))
		if i%5 == 0 {
			fmt.Fprintf(&w, "<text x=\"%.1f\" y=\"%d\">%d s</text>\n", x, height-bottom+16, i)
		}
	}
	goal := y(float64(objective) / float64(worst))
	fmt.Fprintf(&w, "<line class=\"goal\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n", left, width-left, goal, goal)
	fmt.Fprintf(&w, "<text x=\"4\" y=\"%.1f\">%d ms</text>\n", goal+4, objective.Milliseconds())
	fmt.Fprintf(&w, "<text x=\"4\" y=\"%.1f\">%d ms</text>\n", y(1)+4, worst.Milliseconds())
	fmt.Fprintf(&w, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%d ready</text>\n", width-left, y(1)-8, most)
	fmt.Fprintf(&w, "<polyline class=\"line\" points=\"%s\"/>\n", strings.TrimSpace(line.String()))
	fmt.Fprintf(&w, "<text x=\"%d\" y=\"18\">20, then 400 requests a second: p99 of each second (bars), replicas that serve (line)</text>\n</svg>\n", left)
	return w.String()
}
