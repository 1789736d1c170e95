package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/telemetry"
)

func (p *program) logsCommand() *cobra.Command {
	var follow, timestamps, noPrefix bool
	var lines, from string
	var search telemetry.RecordFilter
	var trace string
	var revision int64
	cmd := &cobra.Command{
		Use:   "logs [SERVICE...]",
		Short: "Show the output of services, also of instances that are gone",
		Long: `Logs prints what the instances of the services wrote to standard output and
standard error, oldest first. Without a service: of all. SERVICE may also be one
place of a service, such as web-2.

With --grep, --trace or --level it searches what is kept of all instances, also of
those that are gone, with what programs sent by OTLP and the requests that the data
plane recorded: the last hour, unless --since says else. Secrets are taken out.`,
		Example: `  trellis logs -f web           follow web, new instances too
  trellis logs --tail 100       the last 100 lines of each instance
  trellis logs --since 10m api  the last ten minutes of api
  trellis logs --revision 7     only instances of revision 7
  trellis logs --grep 'order [0-9]+ failed' --since 1h
  trellis logs --trace 4bf92f3577b34da6a3ce929d0e0e4736`,
		Args:              arguments(0, -1),
		ValidArgsFunction: p.completeServices,
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as more is written")
	cmd.Flags().StringVarP(&lines, "tail", "n", "all", "at most `N` last lines of each instance, or all")
	cmd.Flags().StringVar(&from, "since", "", "only what is newer than `TIME`: 10m (ago) or 2026-11-23T15:04:05Z")
	cmd.Flags().Int64Var(&revision, "revision", 0, "only instances of this revision `N`")
	cmd.Flags().BoolVarP(&timestamps, "timestamps", "t", false, "write each line's time before it")
	cmd.Flags().BoolVar(&noPrefix, "no-log-prefix", false, "leave out the instance before each line")
	cmd.Flags().StringVar(&search.Grep, "grep", "", "only what matches the regular expression `PATTERN`")
	cmd.Flags().StringVar(&trace, "trace", "", "only what belongs to the trace `ID`")
	cmd.Flags().StringVar(&search.Severity, "level", "", "only what is of `LEVEL` or graver: trace, debug, info, warn, error, fatal")
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		req := api.LogsRequest{Follow: follow, Revision: revision}
		var err error
		if req.Tail, err = tailOf(lines); err != nil {
			return usageError{err.Error(), cmd.CommandPath()}
		}
		if req.Since, err = moment(from, p.now()); err != nil {
			return usageError{err.Error(), cmd.CommandPath()}
		}
		if trace != "" {
			if search.Trace, err = telemetry.ParseTraceID(trace); err != nil {
				return usageError{err.Error(), cmd.CommandPath()}
			}
		}
		return p.withControl(cmd.Context(), func(control api.Control, l location) error {
			status, err := control.Status(cmd.Context())
			if err != nil {
				return err
			}
			if err := logTargets(status.State, names, &req); err != nil {
				return err
			}
			look := logStyle{prefix: !noPrefix, times: timestamps, json: format.json()}
			if search.Grep != "" || search.Severity != "" || !search.Trace.IsZero() {
				err := p.searchLogs(cmd.Context(), control, searchOf(req, search, p.now()), follow, look)
				if follow && cmd.Context().Err() != nil {
					return nil
				}
				return err
			}
			err = p.showLogs(cmd.Context(), control, p.gone(l), req, look)
			if follow && cmd.Context().Err() != nil {
				return nil
			}
			return err
		})
	}
	return p.project(cmd)
}

// searchOf adds to a search what is asked of output.
func searchOf(req api.LogsRequest, f telemetry.RecordFilter, now time.Time) telemetry.RecordFilter {
	f.Services, f.Instance, f.Revision, f.Since, f.Limit = req.Services, string(req.Instance), req.Revision, req.Since, max(req.Tail, 0)
	if f.Limit == 0 {
		f.Limit = telemetry.MaxRecordLimit
	}
	if req.Tail < 0 {
		f.Since = now // nothing of what there is
	}
	return f
}

// searchLogs prints the log records that match.
func (p *program) searchLogs(ctx context.Context, control api.Control, f telemetry.RecordFilter, follow bool, look logStyle) error {
	s := p.styleOf(p.stdout)
	return control.Records(ctx, f, follow, func(r telemetry.Record) error {
		if look.json {
			return p.writeJSONLine(r)
		}
		_, err := fmt.Fprintln(p.stdout, p.recordLine(s, r, look))
		return err
	})
}

// tailOf reads --tail: 0 lines are the request's -1.
func tailOf(s string) (int, error) {
	if s == "all" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	switch {
	case err != nil || n < 0:
		return 0, fmt.Errorf("--tail %q: want a number of lines, or all", s)
	case n == 0:
		return -1, nil
	}
	return n, nil
}

// logTargets puts services, or the one instance that is named, into req.
func logTargets(s engine.State, names []string, req *api.LogsRequest) error {
	services := serviceNames(s)
	if len(names) == 1 && !slices.Contains(services, names[0]) {
		if in, ok := instanceOf(s, names[0]); ok {
			req.Instance = in.ID
			return nil
		}
	}
	req.Services = names
	return known(names, services)
}

// instanceOf returns the instance with that ID, or the newest one in that place ("web-2").
func instanceOf(s engine.State, name string) (found engine.Instance, ok bool) {
	for _, svc := range s.Services {
		for _, in := range svc.Instances {
			if string(in.ID) == name {
				return in, true
			}
			if place(svc.Name, in.Slot) == name && (!ok || in.StartedAt.After(found.StartedAt)) {
				found, ok = in, true
			}
		}
	}
	return found, ok
}

// place names one replica's place: "web-2".
func place(service string, slot int) string { return service + "-" + strconv.Itoa(slot) }

// logStyle says how lines of output look.
type logStyle struct {
	prefix, times, json bool
}

// showLogs prints output until it ends or ctx is done. What is followed ends only where no control plane goes on with it: one that is
// restarted or replaced meanwhile is asked for what is newer than the newest line. That the project is gone is an end in order.
func (p *program) showLogs(ctx context.Context, control api.Control, gone func(context.Context) bool, req api.LogsRequest, look logStyle) error {
	w := bufio.NewWriter(p.stdout)
	defer w.Flush()
	printer := linePrinter{w: w, style: p.styleOf(p.stdout), look: look, terminal: terminal(p.stdout)}
	var away absence
	for begin := time.Now(); ; {
		seen, asked := printer.newest, time.Now()
		err := printer.all(ctx, control, req, w)
		if ctx.Err() != nil && (err == nil || cutOff(err)) {
			return nil
		}
		if !req.Follow || err != nil && !cutOff(err) {
			return err
		}
		if away.heard(asked); printer.newest.After(seen) {
			away.back()
		}
		if gone(ctx) {
			return nil
		}
		if away.over(ctx) {
			return err
		}
		switch {
		case !printer.newest.IsZero():
			req.Tail, req.Since = 0, printer.newest.Add(time.Nanosecond)
		case req.Tail < 0:
			req.Tail, req.Since = 0, begin
		}
	}
}

// cutOff says whether an answer was not whole, or there was none, because whoever gives it went away.
func cutOff(err error) bool {
	return errors.Is(err, errdefs.ErrUnavailable) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// all prints the output that one request is answered with.
func (l *linePrinter) all(ctx context.Context, control api.Control, req api.LogsRequest, w *bufio.Writer) error {
	out, err := control.Logs(ctx, req)
	if err != nil {
		return err
	}
	defer out.Close()
	stop := context.AfterFunc(ctx, func() { _ = out.Close() })
	defer stop()
	reader := bufio.NewReaderSize(out, 64<<10)
	for {
		line, err := reader.ReadBytes('\n')
		if len(line) > 0 && (err == nil || errors.Is(err, io.EOF)) { // of what is cut off, half a line comes again
			if perr := l.print(line); perr != nil {
				return perr
			}
			if reader.Buffered() == 0 {
				if ferr := w.Flush(); ferr != nil {
					return fmt.Errorf("write output: %w", ferr)
				}
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read output: %w", err)
		}
	}
}

// linePrinter writes lines of output with who wrote them.
type linePrinter struct {
	w     io.Writer
	style style
	look  logStyle
	wide  int // columns of the widest name so far
	// terminal says that what a program wrote is not to be carried out.
	terminal bool
	newest   time.Time // of the lines of instances
	told     string    // what the control plane said of itself last
}

func (l *linePrinter) print(raw []byte) error {
	var line api.LogLine
	err := json.Unmarshal(raw, &line)
	if err == nil && line.Instance == "" && line.Stream == "system" {
		if line.Text == l.told {
			return nil // it is so still
		}
		l.told = line.Text
	} else if line.Time.After(l.newest) {
		l.newest = line.Time
	}
	if l.look.json {
		_, err := l.w.Write(raw)
		return err
	}
	if err != nil {
		return fmt.Errorf("read output: %w", err)
	}
	var b strings.Builder
	if l.look.prefix {
		name := shortName(line.Service, line.Instance)
		l.wide = max(l.wide, columns(name))
		b.WriteString(l.style.paint(colourOf(line.Service), pad(name, l.wide)) + " " + l.style.dim("|") + " ")
	}
	if l.look.times {
		b.WriteString(l.style.dim(exact(line.Time)) + " ")
	}
	text := strings.TrimRight(line.Text, "\r\n")
	if l.terminal {
		text = coloured(text)
	}
	if line.Stream == "system" {
		text = l.style.dim(text)
	}
	b.WriteString(text + "\n")
	_, err = io.WriteString(l.w, b.String())
	return err
}

// exact is the whole of a moment, for --timestamps.
func exact(t time.Time) string { return t.Local().Format(time.RFC3339Nano) }

// shortName leaves the generation out of an instance's name: "web-2-5f3a9c01" is "web-2".
func shortName(service string, id engine.InstanceID) string {
	rest, ok := strings.CutPrefix(string(id), service+"-")
	if !ok {
		return string(id)
	}
	slot, _, _ := strings.Cut(rest, "-")
	return service + "-" + slot
}

// colourOf returns the colour of a service's name, the same each time.
func colourOf(service string) string {
	colours := []string{"36", "33", "32", "35", "34", "96", "93", "92", "95", "94"}
	h := fnv.New32a()
	_, _ = h.Write([]byte(service))
	return colours[h.Sum32()%uint32(len(colours))]
}
