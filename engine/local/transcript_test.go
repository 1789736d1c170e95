package local

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/driver"
)

var rewrite = flag.Bool("rewrite", false, "write what the planner does into testdata; read every difference before you commit it")

// TestTranscripts plays testdata/*.txt. A file is a list of commands, each with its input below it and, after a line of
// dashes, what came out:
//
//	want       services, one a line (sim_test.go says which keys there are); "want revision=N" sets the revision,
//	           "want rollout" makes the next one after a healthy one, whose rollouts are watched and may go back
//	promote web, abort web    what a person does to a rollout
//	have       instances: "web-1-a ready", "web-2-a running|exited:CODE|stopped|hung|draining|idle|busy [failures=N]"
//	behave     "web ready=2s exit=5s:1 drain=3s": what becomes of every run of a service
//	plan       what one plan says, carried out by nobody
//	run        plans and carries out until nothing is left to do; prints the steps, with the time since the beginning
//	run 10s    the same for as long
//	crash      the loop loses its memory
//	state      the state of every service
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		})
	}
}

// play returns text with the output of each command replaced by what really came out.
func play(t *testing.T, text string) string {
	s := newSim()
	table := map[string]behaviour{}
	s.behave = func(i seen) behaviour {
		for _, name := range []string{fmt.Sprintf("%s-%d-%s", i.service, i.slot, i.hash), i.service + "-" + i.hash, i.service} {
			if b, ok := table[name]; ok && i.hook == 0 {
				return b
			}
		}
		if b, ok := table[i.service+"-hook"]; i.hook > 0 && ok {
			return b
		} else if i.hook > 0 {
			return behaviour{readyAfter: -1, exitAfter: time.Second}
		}
		return behaviour{readyAfter: time.Second}
	}
	var out strings.Builder
	for _, block := range strings.Split(strings.TrimSpace(text), "\n\n") {
		lines := strings.Split(block, "\n")
		input := lines
		if i := slices.Index(lines, "----"); i >= 0 {
			input = lines[:i]
		}
		out.WriteString(strings.Join(input, "\n") + "\n")
		for len(input) > 0 && strings.HasPrefix(input[0], "#") {
			input = input[1:]
		}
		if len(input) > 0 {
			if answer := s.command(t, table, input[0], input[1:]); answer != "" {
				out.WriteString("----\n" + answer)
			}
		}
		out.WriteString("\n")
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

func (s *sim) command(t *testing.T, table map[string]behaviour, command string, input []string) string {
	name, arg, _ := strings.Cut(command, " ")
	s.trace = nil
	switch name {
	case "want":
		if n, ok := strings.CutPrefix(arg, "revision="); ok {
			revision, err := strconv.ParseInt(n, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			s.want.revision = revision
			s.progress = map[string]time.Time{}
			s.want.pending = false
		}
		if arg == "rollout" {
			s.healthy = slices.Clone(s.want.services)
			s.revise(s.want.services)
			s.want.goal = s.want.revision - 1
		}
		s.want.deleting = arg == "deleting"
		if len(input) > 0 {
			s.want.services = parseWant(t, input)
		}
		return ""
	case "have":
		for _, line := range input {
			s.put(t, strings.Fields(line))
		}
		return ""
	case "behave":
		for _, line := range input {
			fields := strings.Fields(line)
			table[fields[0]] = parseBehaviour(t, fields[1:])
		}
		return ""
	case "crash":
		s.crash()
		return ""
	case "promote", "abort":
		r, err := instruct(s.rollouts[arg], name, "ann@desk", s.now)
		if err != nil {
			return err.Error() + "\n"
		}
		s.rollouts[arg] = r
		return ""
	case "plan":
		return s.words(s.plan())
	case "state":
		return s.states()
	case "run":
		return s.play(t, arg)
	}
	t.Fatalf("unknown command %q", command)
	return ""
}

func parseBehaviour(t *testing.T, fields []string) behaviour {
	b := behaviour{readyAfter: time.Second}
	for _, f := range fields {
		key, value, _ := strings.Cut(f, "=")
		if value == "never" {
			b.readyAfter = -1
			continue
		}
		value, code, _ := strings.Cut(value, ":")
		d, err := time.ParseDuration(value)
		if err != nil {
			t.Fatal(err)
		}
		switch key {
		case "ready":
			b.readyAfter = d
		case "drain":
			b.drain = d
		case "worse":
			b.worse = d
		case "exit":
			b.exitAfter = d
			b.code, _ = strconv.Atoi(code)
		}
	}
	return b
}

// put makes an instance as a line of "have" describes it.
func (s *sim) put(t *testing.T, fields []string) {
	parts := strings.Split(fields[0], "-")
	slot, err := strconv.Atoi(parts[1])
	if err != nil {
		t.Fatalf("%s: %v", fields[0], err)
	}
	inst := &seen{
		id: driver.ID(s.want.project + "/" + fields[0]), service: parts[0], slot: slot, hash: parts[2], startable: true,
		revision: s.want.revision, state: driver.Running, readySince: s.now.Add(-time.Minute),
	}
	for _, f := range fields[1:] {
		word, value, _ := strings.Cut(f, "=")
		word, code, _ := strings.Cut(word, ":")
		switch word {
		case "ready":
			inst.ready, inst.wasReady = true, true
		case "running":
		case "hung":
			inst.wasReady, inst.hung, inst.said = true, true, "no answer within 1s"
		case "draining":
			inst.drainSince = s.now
		case "idle":
			inst.drainSince, inst.idle = s.now, true
		case "busy":
			inst.busy = stepKind(value)
		case "exited":
			inst.state = driver.Exited
			n, _ := strconv.Atoi(code)
			inst.exit = &driver.Exit{Code: n, Time: s.now}
			inst.failures = max(inst.failures, 1)
		case "stopped":
			inst.state, inst.exit = driver.Exited, &driver.Exit{Code: 143, Signal: "SIGTERM", Asked: true, Time: s.now}
		case "failures":
			inst.failures, _ = strconv.Atoi(value)
		default:
			t.Fatalf("unknown word %s", f)
		}
	}
	s.instances[inst.id] = inst
}

func (s *sim) words(d decision) string {
	var b strings.Builder
	for _, st := range d.steps {
		fmt.Fprintln(&b, s.describe(st))
	}
	if len(d.steps) == 0 {
		fmt.Fprintln(&b, "nothing to do")
	}
	if !d.wake.IsZero() {
		fmt.Fprintf(&b, "again in %s\n", d.wake.Sub(s.now).Round(time.Millisecond))
	}
	if d.failed != "" {
		fmt.Fprintf(&b, "failed: %s\n", d.failed)
	}
	return b.String()
}

func (s *sim) states() string {
	var b strings.Builder
	for _, v := range s.plan().services {
		fmt.Fprintf(&b, "%s %s", v.name, v.state)
		if v.reason != "" {
			fmt.Fprintf(&b, ": %s", v.reason)
		}
		b.WriteString("\n")
	}
	for _, id := range slices.Sorted(maps.Keys(s.instances)) {
		inst := s.instances[id]
		fmt.Fprintf(&b, "  %s %s", strings.TrimPrefix(string(id), s.want.project+"/"), inst.state)
		if inst.ready {
			b.WriteString(" ready")
		}
		if inst.draining() {
			b.WriteString(" draining")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// play carries plans out until nothing is left to do or the time is over.
func (s *sim) play(t *testing.T, arg string) string {
	began, end := s.now, s.now.Add(time.Hour)
	if arg != "" {
		d, err := time.ParseDuration(arg)
		if err != nil {
			t.Fatal(err)
		}
		end = s.now.Add(d)
	}
	var b strings.Builder
	failed := ""
	for range 10000 {
		d := s.plan()
		at := func() time.Duration { return s.now.Sub(began).Round(time.Millisecond) }
		for _, st := range d.steps {
			s.do(st)
			fmt.Fprintf(&b, "%8s  %s\n", at(), s.describe(st))
		}
		if d.failed != failed {
			if failed = d.failed; failed != "" {
				fmt.Fprintf(&b, "%8s  failed: %s\n", at(), failed)
			}
		}
		told, pending := len(s.trace), s.want.pending
		s.turn(d)
		for _, line := range s.trace[told:] {
			fmt.Fprintf(&b, "%8s  %s\n", at(), line)
		}
		if len(d.steps) > 0 || len(s.trace) > told || pending != s.want.pending {
			continue
		}
		if d.done && s.quiet() {
			fmt.Fprintf(&b, "%8s  done\n", s.now.Sub(began).Round(time.Millisecond))
			return b.String()
		}
		if !s.now.Before(end) || arg == "" && d.wake.IsZero() && s.quiet() {
			fmt.Fprintf(&b, "%8s  not done\n", s.now.Sub(began).Round(time.Millisecond))
			return b.String()
		}
		s.live(s.next(d, end))
	}
	return b.String() + "no end\n"
}

// next returns when something happens: the planner's wake or the first event of an instance, not after end.
func (s *sim) next(d decision, end time.Time) time.Time {
	next := end
	if !d.wake.IsZero() && d.wake.Before(next) {
		next = d.wake
	}
	for _, inst := range s.instances {
		if at, f := s.event(inst); f != nil && at.Before(next) {
			next = at.Add(time.Nanosecond)
		}
		if worse := inst.readySince.Add(s.behave(*inst).worse); inst.ready && worse.After(s.now) && worse.Before(next) {
			next = worse
		}
	}
	return latest(next, s.now.Add(time.Nanosecond))
}
