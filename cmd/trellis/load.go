package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"trellis/errdefs"
	"trellis/load"
)

// loadFlags are the flags of load.
type loadFlags struct {
	url, rate, method, body, scenario, out, instanceHeader, grpc string
	length, ramp, timeout                                        span
	connections, streams, visits                                 int
	seed                                                         uint64
	headers, expect                                              []string
	insecure, idempotent, quiet, http2, raw                      bool
	arrivals                                                     *choice
}

func (p *program) loadCommand() *cobra.Command {
	f := loadFlags{
		length: span(30 * time.Second), timeout: span(load.DefaultTimeout), rate: "50/s",
		visits:   load.DefaultVisits,
		arrivals: &choice{value: "constant", allowed: []string{"constant", "poisson"}},
	}
	cmd := &cobra.Command{
		Use:   "load URL|PROFILE",
		Short: "Send requests at a fixed rate and say what became of each",
		Long: `Load starts requests by the clock, however the target answers, and measures each
one from the moment it should have started: a target that stalls for a second
shows that second. Nothing is ever sent twice.

Every start is missed (never sent), or completed, or failed. Lost are those a
user would call lost: no whole answer, or a 5xx that the program did not write.
The exit code is 0 whatever the target answered, unless --expect says what it has
to hold: then it is 2 where something does not.

A PROFILE is a shape of traffic of the file's x-trellis.load, sent to the gateway
of the running project:

  x-trellis:
    load:
      peak:
        stages: [{rate: 50/s, for: 1m}, {rate: 600/s, for: 2m, ramp: 10s}]
        scenario: load/visit.yaml

A scenario is what one visitor does, request by request; then the rate is that of
visits, and the result counts visits and the requests of each step:

  steps:
    - path: /courses
      save: {course: {regexp: 'href="(/courses/[a-z0-9-]+)"', pick: random}}
    - {path: "{course}", think: 1s-3s}
    - path: /signin
      form: {email: "learner-{visit}@example.org", password: secret}
      expect: 303`,
		Example: `  trellis load http://localhost:8080/ --rate 500/s --for 30s --ramp 5s
  trellis load http://localhost:8080/orders --method POST --body @order.json \
      --header 'Content-Type: application/json'
  trellis load http://localhost:8080/ --scenario load/visit.yaml --rate 20/s
  trellis load https://localhost:8443/ --http2 -k
  trellis load http://localhost:9000 --grpc shop.v1.Cart/Add --body '{"item": "book"}'
  trellis load ws://localhost:8080/chat --body hello -c 100   messages on 100 WebSockets
  trellis load peak --expect 'p99<250ms,failed=0' --out peak.csv`,
		Args:              arguments(1, 1),
		ValidArgsFunction: p.completeProfiles,
	}
	f.add(cmd.Flags())
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		objectives, err := f.objectives()
		if err != nil {
			return usageError{err.Error(), cmd.CommandPath()}
		}
		cfg, err := p.loadConfig(cmd, &f, args[0])
		if err != nil {
			return err
		}
		for _, o := range objectives {
			if err := o.Of(cfg.Scenario); err != nil {
				return usageError{"--expect: " + plain{err}.Error(), cmd.CommandPath()}
			}
		}
		report, err := p.drive(cmd.Context(), &f, cfg)
		if err != nil && report.Sent+report.Missed == 0 {
			return err
		}
		if ctx := cmd.Context(); report.Partial && (len(objectives) > 0 || !interrupted(ctx)) {
			err = errors.Join(err, fmt.Errorf("the run was cut short: %w", context.Cause(ctx)))
		}
		missed := judge(&report, objectives)
		var written error
		if format.json() {
			written = p.writeJSON(report)
		} else {
			written = report.WriteText(p.stdout)
		}
		return errors.Join(err, written, missed)
	}
	return p.project(cmd)
}

func (f *loadFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.rate, "rate", f.rate, "starts per time as `N/s`, N/m or N/h")
	fs.Var(&f.length, "for", "send for this `DURATION`")
	fs.Var(&f.ramp, "ramp", "begin at 0 and reach the rate after this `DURATION`")
	fs.Var(f.arrivals, "arrivals", "`HOW` starts arrive: constant (evenly spaced) or poisson (as independent visitors do)")
	fs.Uint64Var(&f.seed, "seed", 0, "draw what is random from `N`, so that a second run is the same")
	fs.IntVarP(&f.connections, "connections", "c", 0, "at most `N` requests at once, each on a connection of its own (default 64; 4 with --streams 16)")
	fs.BoolVar(&f.http2, "http2", false, "send HTTP/2 only, in the clear to an http target")
	fs.IntVar(&f.streams, "streams", 0, "at most `N` requests at once on a connection of HTTP/2 (default 16)")
	fs.StringVar(&f.grpc, "grpc", "", "call the unary `METHOD` package.Service/Method with --body as JSON, by the server's reflection")
	fs.BoolVar(&f.raw, "raw", false, "the body of --grpc is the encoded message itself")
	fs.StringVar(&f.url, "url", "", "send a profile to `URL` instead of the project's gateway")
	fs.StringVarP(&f.method, "method", "X", "", "HTTP `METHOD` (default GET, or POST with a body)")
	fs.VarP((*list)(&f.headers), "header", "H", "send `'NAME: VALUE'`; repeatable")
	fs.StringVar(&f.body, "body", "", "send `TEXT`, or the content of a file as @FILE")
	fs.StringVar(&f.scenario, "scenario", "", "each start is a visit as `FILE` says")
	fs.IntVar(&f.visits, "visits", f.visits, "at most `N` visits of a scenario at once")
	fs.Var(&f.timeout, "timeout", "a request without a whole answer after this `DURATION` has failed")
	fs.BoolVar(&f.idempotent, "idempotency-key", false, "send an Idempotency-Key that is unique to each request")
	fs.BoolVarP(&f.insecure, "insecure", "k", false, "do not verify the certificate of an https target")
	fs.Var((*list)(&f.expect), "expect", "exit 2 unless `OBJECTIVES` such as 'p99<250ms,failed=0' hold; repeatable")
	fs.StringVar(&f.out, "out", "", "write every result to `FILE` as it comes: lines of JSON, or CSV for a name in .csv")
	fs.StringVar(&f.instanceHeader, "instance-header", load.InstanceHeader, "answers name their instance in header `NAME`")
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "no progress, only the result")
}

func (f *loadFlags) objectives() ([]load.Objective, error) {
	var all []load.Objective
	for _, s := range f.expect {
		objectives, err := load.ParseObjectives(s)
		if err != nil {
			return nil, fmt.Errorf("--expect: %w", plain{err})
		}
		all = append(all, objectives...)
	}
	return all, nil
}

// loadConfig makes a run of the flags and of what is named on the command line.
func (p *program) loadConfig(cmd *cobra.Command, f *loadFlags, name string) (load.Config, error) {
	wrong := func(err error) (load.Config, error) { return load.Config{}, usageError{err.Error(), cmd.CommandPath()} }
	header, err := headerOf(f.headers)
	if err != nil {
		return wrong(err)
	}
	cfg := load.Config{
		URL: name, Connections: f.connections, Timeout: time.Duration(f.timeout), Seed: f.seed, Poisson: f.arrivals.value == "poisson",
		Method: strings.ToUpper(f.method), Header: header, IdempotencyKey: f.idempotent, Insecure: f.insecure,
		Visits: f.visits, InstanceHeader: f.instanceHeader, HTTP2: f.http2, Streams: f.streams,
	}
	script := f.scenario
	if strings.Contains(name, "://") {
		if f.url != "" {
			return wrong(fmt.Errorf("--url is for a profile: %s says already where to", name))
		}
		if cfg.Stages, err = f.stages(); err != nil {
			return wrong(err)
		}
	} else {
		for _, flag := range []string{"rate", "for", "ramp"} {
			if cmd.Flags().Changed(flag) {
				return wrong(fmt.Errorf("--%s: the stages of a profile say it; for a run of your own name a URL", flag))
			}
		}
		from, err := p.loadProfile(cmd.Context(), f, name, &cfg, cmd.Flags().Changed("arrivals"))
		if err != nil {
			return load.Config{}, err
		}
		if script == "" {
			script = from
		}
	}
	if err := f.idle(cmd, script); err != nil {
		return wrong(err)
	}
	if script != "" {
		if f.method != "" || f.body != "" || f.grpc != "" {
			return wrong(errors.New("a scenario says itself what is sent: leave out --method, --body and --grpc"))
		}
		cfg.Scenario, err = load.ReadScenario(script)
		return cfg, err
	}
	if cfg.Body, err = bodyOf(f.body); err != nil || f.grpc == "" {
		return cfg, err
	}
	return cfg, f.call(cmd.Context(), &cfg)
}

// idle says which flag would have no effect.
func (f *loadFlags) idle(cmd *cobra.Command, script string) error {
	switch {
	case f.raw && f.grpc == "":
		return errors.New("--raw says what the body of --grpc is: leave it out, or name a method with --grpc")
	case cmd.Flags().Changed("visits") && script == "":
		return errors.New("--visits bounds those of a scenario, and there is none: --connections bounds requests")
	case cmd.Flags().Changed("streams") && !f.http2 && f.grpc == "":
		return errors.New("--streams share a connection of HTTP/2: add --http2")
	}
	return nil
}

// call makes cfg a gRPC call.
func (f *loadFlags) call(ctx context.Context, cfg *load.Config) (err error) {
	message := cfg.Body
	if !f.raw {
		if message == nil {
			message = []byte("{}")
		}
		if message, err = load.EncodeGRPC(ctx, cfg.URL, f.grpc, message, f.insecure); err != nil {
			return plain{err}
		}
	}
	cfg.GRPC, cfg.Body = &load.GRPCCall{Method: f.grpc, Message: message}, nil
	return nil
}

// stages is the one stage that --rate, --for and --ramp say.
func (f *loadFlags) stages() ([]load.Stage, error) {
	perSecond, err := rateOf(f.rate)
	switch {
	case err != nil:
		return nil, err
	case f.length == 0:
		return nil, errors.New("--for: want more than 0")
	case f.ramp > f.length:
		return nil, errors.New("--ramp: is longer than --for")
	}
	return []load.Stage{{Rate: perSecond, For: time.Duration(f.length), Ramp: time.Duration(f.ramp)}}, nil
}

// drive carries the run out, shows how it goes, and keeps its results.
func (p *program) drive(ctx context.Context, f *loadFlags, cfg load.Config) (load.Report, error) {
	if f.out != "" {
		record, err := load.CreateRecord(f.out)
		if err != nil {
			return load.Report{}, err
		}
		cfg.Record = record
	}
	view := p.newLoadView(cfg)
	if !f.quiet {
		cfg.OnProgress = view.show
	}
	report, err := load.Run(ctx, cfg)
	view.clear()
	if cfg.Record != nil {
		err = errors.Join(err, cfg.Record.Close(err == nil && !report.Partial))
		if err != nil || report.Partial {
			p.progressf("the results until then are in %s", cfg.Record.Path())
		}
	}
	return report, err
}

// judge adds the verdicts to report; the error names the objectives that it misses.
func judge(report *load.Report, objectives []load.Objective) error {
	var missed []string
	for _, o := range objectives {
		v := o.Judge(*report)
		report.Objectives = append(report.Objectives, v)
		if !v.Held {
			missed = append(missed, v.String())
		}
	}
	if len(missed) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", errdefs.ErrObjective, strings.Join(missed, ", "))
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
