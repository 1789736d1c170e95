package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"trellis/load"
)

func (p *program) loadCommand() *cobra.Command {
	var rate, method, body, script string
	var seed uint64
	var headers []string
	var insecure, idempotent, quiet bool
	connections, visits := load.DefaultConnections, load.DefaultVisits
	length, timeout := span(30*time.Second), span(load.DefaultTimeout)
	cmd := &cobra.Command{
		Use:   "load URL",
		Short: "Send requests at a fixed rate and say what became of each",
		Long: `Load starts requests by the clock, however the target answers, and measures each
one from the moment it should have started: a target that stalls for a second
shows that second. Nothing is ever sent twice.

Every start is missed (never sent), or completed, or failed. Lost are those a
user would call lost: no whole answer, or a 5xx that the program did not write.
The exit code is 0 whatever the target answered; look at "failed" and "lost".`,
		Example: `  trellis load http://localhost:8080/ --rate 500/s --for 30s
  trellis load http://localhost:8080/orders --method POST --body @order.json \
      --header 'Content-Type: application/json'

A scenario is what one visitor does, request by request; then the rate is that of
visits, and the result counts visits and the requests of each step:

  trellis load http://localhost:8080/ --scenario load/visit.yaml --rate 20/s

  steps:
    - path: /courses
      save: {course: {regexp: 'href="(/courses/[a-z0-9-]+)"', pick: random}}
    - {path: "{course}", think: 1s-3s}
    - path: /signin
      form: {email: "learner-{visit}@example.org", password: secret}
      expect: 303`,
		Args: arguments(1, 1),
	}
	cmd.Flags().StringVar(&rate, "rate", "50/s", "starts per time as `N/s`, N/m or N/h")
	cmd.Flags().Var(&length, "for", "send for this `DURATION`")
	cmd.Flags().IntVarP(&connections, "connections", "c", connections, "at most `N` requests at once, each on a connection of its own")
	cmd.Flags().StringVarP(&method, "method", "X", "", "HTTP `METHOD` (default GET, or POST with a body)")
	cmd.Flags().VarP((*list)(&headers), "header", "H", "send `'NAME: VALUE'`; repeatable")
	cmd.Flags().StringVar(&body, "body", "", "send `TEXT`, or the content of a file as @FILE")
	cmd.Flags().Var(&timeout, "timeout", "a request without a whole answer after this `DURATION` has failed")
	cmd.Flags().BoolVar(&idempotent, "idempotency-key", false, "send an Idempotency-Key that is unique to each request")
	cmd.Flags().StringVar(&script, "scenario", "", "each start is a visit as `FILE` says")
	cmd.Flags().IntVar(&visits, "visits", visits, "at most `N` visits of a scenario at once")
	cmd.Flags().Uint64Var(&seed, "seed", 0, "draw what is random in a scenario from `N`, so that a second run is the same")
	cmd.Flags().BoolVarP(&insecure, "insecure", "k", false, "do not verify the certificate of an https target")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "no progress, only the result")
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		perSecond, err := rateOf(rate)
		if err == nil && length == 0 {
			err = fmt.Errorf("--for: want more than 0")
		}
		var header http.Header
		if err == nil {
			header, err = headerOf(headers)
		}
		if err != nil {
			return usageError{err.Error(), cmd.CommandPath()}
		}
		if script != "" && (method != "" || body != "") {
			return usageError{"--scenario says itself what is sent: leave out --method and --body", cmd.CommandPath()}
		}
		content, err := bodyOf(body)
		if err != nil {
			return err
		}
		var scenario *load.Scenario
		if script != "" {
			if scenario, err = load.ReadScenario(script); err != nil {
				return err
			}
		}
		cfg := load.Config{
			URL: args[0], Rate: perSecond, Duration: time.Duration(length), Connections: connections, Timeout: time.Duration(timeout),
			Method: strings.ToUpper(method), Header: header, Body: content, IdempotencyKey: idempotent, Insecure: insecure,
			Scenario: scenario, Visits: visits, Seed: seed,
		}
		canvas := &screen{w: p.stderr, size: func() (int, int) { return sizeOf(p.stderr) }}
		if !quiet && terminal(p.stderr) {
			cfg.OnProgress = func(now load.Progress) { canvas.draw(p.loadPicture(now, time.Duration(length))) }
		}
		report, err := load.Run(cmd.Context(), cfg)
		canvas.clear()
		if err != nil {
			return err
		}
		if format.json() {
			return p.writeJSON(report)
		}
		return report.WriteText(p.stdout)
	}
	return cmd
}

// loadPicture is the progress of a run.
func (p *program) loadPicture(now load.Progress, length time.Duration) []string {
	width, _ := sizeOf(p.stderr)
	line := fmt.Sprintf("%s of %s  %s sent, %s failed, %s lost", shortly(now.Elapsed), shortly(length),
		number(now.Total.Sent), number(now.Total.Failed), number(now.Total.Lost()))
	if l := now.Last.Latency.P99; l != nil {
		line += fmt.Sprintf("  last second: p99 %.1f ms", *l)
	}
	return []string{p.styleOf(p.stderr).fit(line, width)}
}

// rateOf reads "500/s"; a bare number is per second.
func rateOf(s string) (float64, error) {
	amount, unit, _ := strings.Cut(s, "/")
	seconds := map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600}[unit]
	n, err := strconv.ParseFloat(amount, 64)
	if err != nil || seconds == 0 || !(n > 0 && n <= 1e9) {
		return 0, fmt.Errorf("--rate %q: want a number of starts per time, such as 500/s or 30/m", s)
	}
	return n / seconds, nil
}

func headerOf(lines []string) (http.Header, error) {
	header := http.Header{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, fmt.Errorf("--header %q: want 'NAME: VALUE'", line)
		}
		header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return header, nil
}

func bodyOf(text string) ([]byte, error) {
	file, ok := strings.CutPrefix(text, "@")
	if !ok {
		if text == "" {
			return nil, nil
		}
		return []byte(text), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	return b, nil
}
