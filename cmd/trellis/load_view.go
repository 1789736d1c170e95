package main

import (
	"fmt"
	"strings"
	"time"

	"trellis/load"
)

// plainEvery is how often a line of progress is written where there is no terminal.
const plainEvery = 10 * time.Second

// loadView shows a run while it goes on: a picture on a terminal, a line now and then elsewhere.
type loadView struct {
	p        *program
	cfg      load.Config
	length   time.Duration
	live     bool
	canvas   *screen
	nextLine time.Duration
}

func (p *program) newLoadView(cfg load.Config) *loadView {
	v := &loadView{p: p, cfg: cfg, live: terminal(p.stderr) && p.getenv("TERM") != "dumb", nextLine: plainEvery}
	for _, s := range cfg.Stages {
		v.length += s.For
	}
	v.canvas = &screen{w: p.stderr, size: func() (int, int) { return sizeOf(p.stderr) }}
	return v
}

func (v *loadView) show(now load.Progress) {
	if v.live {
		width, _ := sizeOf(v.p.stderr)
		v.canvas.draw(v.picture(now, v.p.styleOf(v.p.stderr), width))
	} else if now.Elapsed >= v.nextLine {
		v.nextLine += plainEvery
		v.p.progressf("%s", v.line(now))
	}
}

func (v *loadView) clear() { v.canvas.clear() }

// unit is what the rate counts.
func (v *loadView) unit() string {
	if v.cfg.Scenario != nil {
		return "visits/s"
	}
	if strings.HasPrefix(v.cfg.URL, "ws") {
		return "messages/s"
	}
	return "requests/s"
}

// reached is the rate of the last second in that unit.
func (v *loadView) reached(now load.Progress) float64 {
	if v.cfg.Scenario != nil {
		return now.VisitRate
	}
	if now.Last.Rate == nil {
		return 0
	}
	return *now.Last.Rate
}

func (v *loadView) line(now load.Progress) string {
	return fmt.Sprintf("%s of %s  %.0f of %.0f %s  p50 %s  p99 %s  %s sent, %s failed, %s lost", shortly(now.Elapsed), shortly(v.length),
		v.reached(now), now.Target, v.unit(), ms(now.Last.Latency.P50), ms(now.Last.Latency.P99),
		number(now.Total.Sent), number(now.Total.Failed), number(now.Total.Lost()))
}

// picture is the run as it stands: how far it is, what is wanted and reached, how the last second went, what failed.
func (v *loadView) picture(now load.Progress, s style, width int) []string {
	total := max(v.length, now.Elapsed)
	head := fmt.Sprintf("%s of %s  ", shortly(now.Elapsed), shortly(v.length))
	stage := ""
	if len(v.cfg.Stages) > 1 {
		stage = fmt.Sprintf("  stage %d of %d", now.Stage+1, len(v.cfg.Stages))
	}
	bar := max(min(width-columns(head+stage), 40), 0)
	done := int(float64(bar) * float64(now.Elapsed) / float64(max(total, 1)))
	lines := []string{head + s.cyan(strings.Repeat(s.glyph("█", "#"), done)) + s.dim(strings.Repeat(s.glyph("░", "."), bar-done)) + stage}
	rate := fmt.Sprintf("rate         %.0f %s, %.0f wanted", v.reached(now), v.unit(), now.Target)
	flight := fmt.Sprintf("in flight    %d", now.InFlight)
	if now.InFlight == now.Limit {
		flight = s.yellow(flight + " (all there may be: starts wait)")
	}
	if v.cfg.Scenario != nil {
		flight += fmt.Sprintf(", visits %d", now.Visits)
	}
	lines = append(lines, s.fit(rate, width), flight,
		s.fit(fmt.Sprintf("last second  p50 %s, p99 %s, max %s", ms(now.Last.Latency.P50), ms(now.Last.Latency.P99), ms(now.Last.Latency.Max)), width),
		s.fit(fmt.Sprintf("in all       p50 %s, p99 %s, max %s", ms(now.Total.Latency.P50), ms(now.Total.Latency.P99), ms(now.Total.Latency.Max)), width))
	result := fmt.Sprintf("result       %s sent, %s failed, %s lost", number(now.Total.Sent), number(now.Total.Failed), number(now.Total.Lost()))
	if v.cfg.Scenario != nil && now.Total.Visits != nil {
		result += fmt.Sprintf("; visits %s done, %s failed", number(now.Total.Visits.Completed), number(now.Total.Visits.Failed))
	}
	result = s.fit(result, width)
	if now.Total.Failed+now.Total.Missed > 0 {
		result = s.red(result)
	}
	return append(lines, result)
}

// ms prints a latency.
func ms(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v < 10:
		return fmt.Sprintf("%.1f ms", *v)
	case *v < 10_000:
		return fmt.Sprintf("%.0f ms", *v)
	}
	return fmt.Sprintf("%.1f s", *v/1000)
}
