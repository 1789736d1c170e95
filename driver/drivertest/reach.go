package drivertest

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"trellis/driver"
	"trellis/errdefs"
)

// reachSentences are about Logs, Exec and Stats.
func reachSentences() []sentence {
	return []sentence{
		{name: "LogsReturnOutput", run: logsReturnOutput},
		{name: "LogsKeepEarlierRuns", run: logsKeepEarlierRuns},
		{name: "LogsFollowEndsAtExit", run: logsFollowEndsAtExit},
		{name: "LogsFollowEndsAtClose", run: logsFollowEndsAtClose},
		{name: "LogsTail", run: logsTail},
		{name: "LogsSince", run: logsSince},
		{name: "LogsUnknownIsNotFound", run: logsUnknownIsNotFound},
		{name: "ExecReturnsExitCode", run: execReturnsExitCode},
		{name: "ExecPassesInputOutputAndEnvironment", run: execPasses},
		{name: "ExecUnknownIsNotFound", run: execUnknownIsNotFound},
		{name: "StatsOfRunning", run: statsOfRunning},
		{name: "StatsUnknownIsNotFound", run: statsUnknownIsNotFound},
	}
}

func (w *world) awaitOutput(id driver.ID, line string) {
	w.Helper()
	w.eventually("output "+line, func() (bool, any) {
		got := texts(w.lines(id, driver.LogOptions{}), "stdout")
		return slices.Contains(got, line), got
	})
}

func logsReturnOutput(w *world) {
	out := []string{"first", "", "  third, with spaces ", "ünïcode € \"quoted\" \\", strings.Repeat("long ", 1000)}
	spec := w.spec("job", Behaviour{Print: out, PrintErr: []string{"to standard error"}, End: &End{}})
	before := time.Now().Add(-time.Minute)
	w.start(spec)
	w.exited(spec)
	lines := w.lines(spec.ID, driver.LogOptions{})
	if got := texts(lines, "stdout"); !slices.Equal(got, out) {
		w.Errorf("stdout %q, want %q", got, out)
	}
	if got := texts(lines, "stderr"); !slices.Equal(got, []string{"to standard error"}) {
		w.Errorf("stderr %q", got)
	}
	for _, l := range lines {
		if l.Time.Before(before) || l.Time.After(time.Now().Add(time.Minute)) {
			w.Errorf("line %q has time %s", l.Text, l.Time)
		}
	}
}

func logsKeepEarlierRuns(w *world) {
	spec := w.spec("job", Behaviour{Print: []string{"run"}, End: &End{}})
	w.start(spec)
	w.exited(spec)
	if err := w.d.Start(w.ctx(), spec); err != nil {
		w.Fatalf("start again: %v", err)
	}
	w.await(spec, "second exit", func(i driver.Instance) bool { return i.Restarts == 1 && i.State == driver.Exited })
	if got := texts(w.lines(spec.ID, driver.LogOptions{}), "stdout"); !slices.Equal(got, []string{"run", "run"}) {
		w.Errorf("output %q, want that of both runs", got)
	}
}

func logsFollowEndsAtExit(w *world) {
	spec := w.spec("job", Behaviour{Print: []string{"first"}, Tick: 20 * time.Millisecond, End: &End{After: 150 * time.Millisecond}})
	w.start(spec)
	r, err := w.d.Logs(w.ctx(), spec.ID, driver.LogOptions{Follow: true})
	if err != nil {
		w.Fatalf("logs: %v", err)
	}
	defer r.Close()
	done := make(chan []string, 1)
	go func() { done <- texts(w.decode(r), "stdout") }()
	select {
	case got := <-done:
		if len(got) < 2 || got[0] != "first" || got[len(got)-1] != "tick" {
			w.Errorf("output %q: want the first line and what came later", got)
		}
		if all := texts(w.lines(spec.ID, driver.LogOptions{}), "stdout"); !slices.Equal(got, all) {
			w.Errorf("followed %q, there is %q", got, all)
		}
	case <-time.After(w.cfg.Wait):
		w.Fatal("the reader did not end after the exit")
	}
}

func logsFollowEndsAtClose(w *world) {
	spec := w.spec("web", Behaviour{Print: []string{"first"}})
	w.start(spec)
	r, err := w.d.Logs(w.ctx(), spec.ID, driver.LogOptions{Follow: true})
	if err != nil {
		w.Fatalf("logs: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 4096); ; {
			if _, err := r.Read(buf); err != nil {
				return
			}
		}
	}()
	time.Sleep(20 * time.Millisecond)
	if err := r.Close(); err != nil {
		w.Errorf("close: %v", err)
	}
	select {
	case <-done:
	case <-time.After(w.cfg.Wait):
		w.Fatal("a read went on after Close")
	}
}

func logsTail(w *world) {
	spec := w.spec("job", Behaviour{Print: []string{"1", "2", "3", "4", "5"}, End: &End{}})
	w.start(spec)
	w.exited(spec)
	all := w.lines(spec.ID, driver.LogOptions{})
	if got := w.lines(spec.ID, driver.LogOptions{Tail: 2}); !slices.Equal(got, all[len(all)-2:]) {
		w.Errorf("tail 2: %v of %v", got, all)
	}
	if got := w.lines(spec.ID, driver.LogOptions{Tail: 100}); !slices.Equal(got, all) {
		w.Errorf("tail 100: %v of %v", got, all)
	}
	if got := w.lines(spec.ID, driver.LogOptions{Tail: -1}); len(got) != 0 {
		w.Errorf("tail none: %v", got)
	}
}

func logsSince(w *world) {
	spec := w.spec("job", Behaviour{Print: []string{"1"}, Tick: 50 * time.Millisecond, End: &End{After: 300 * time.Millisecond}})
	w.start(spec)
	w.exited(spec)
	all := w.lines(spec.ID, driver.LogOptions{})
	since := all[len(all)-1].Time
	got := w.lines(spec.ID, driver.LogOptions{Since: since})
	if len(got) == 0 || len(got) == len(all) {
		w.Errorf("since %s: %d lines of %d", since, len(got), len(all))
	}
	for _, l := range got {
		if l.Time.Before(since) {
			w.Errorf("line of %s, asked for since %s", l.Time, since)
		}
	}
	if got := w.lines(spec.ID, driver.LogOptions{Since: time.Now().Add(time.Hour)}); len(got) != 0 {
		w.Errorf("since the future: %v", got)
	}
}

func logsUnknownIsNotFound(w *world) {
	_, err := w.d.Logs(w.ctx(), project+"/nobody-1-00000000", driver.LogOptions{})
	w.wantKind("logs of an unknown instance", err, errdefs.ErrNotFound)
}

// args returns a command line that does b inside an instance.
func (w *world) args(b Behaviour) []string {
	return w.cfg.Spec(w.T, b, driver.Spec{}).Command
}

func execReturnsExitCode(w *world) {
	spec := w.spec("web", Behaviour{})
	w.start(spec)
	for _, code := range []int{0, 1, 42} {
		got, err := w.d.Exec(w.ctx(), spec.ID, driver.Command{Args: w.args(Behaviour{End: &End{Code: code}})})
		if err != nil || got != code {
			w.Errorf("exec: code %d, %v; want %d", got, err, code)
		}
	}
	if inst := w.running(spec); inst.Restarts != 0 {
		w.Errorf("exec touched the instance: %+v", inst)
	}
}

func execPasses(w *world) {
	spec := w.spec("web", Behaviour{})
	spec.Env = append(spec.Env, "OF_INSTANCE=1")
	w.start(spec)
	var out, errs bytes.Buffer
	code, err := w.d.Exec(w.ctx(), spec.ID, driver.Command{
		Args:   w.args(Behaviour{Env: true, PrintErr: []string{"complaint"}, Copy: true, End: &End{}}),
		Env:    []string{"OF_EXEC=2"},
		Stdin:  strings.NewReader("line in\n"),
		Stdout: &out,
		Stderr: &errs,
	})
	if err != nil || code != 0 {
		w.Fatalf("exec: code %d, %v, %s", code, err, errs.String())
	}
	for _, want := range []string{"env OF_INSTANCE=1\n", "env OF_EXEC=2\n", "line in\n"} {
		if !strings.Contains(out.String(), want) {
			w.Errorf("output %q lacks %q", out.String(), want)
		}
	}
	if errs.String() != "complaint\n" {
		w.Errorf("standard error %q", errs.String())
	}
}

func execUnknownIsNotFound(w *world) {
	_, err := w.d.Exec(w.ctx(), project+"/nobody-1-00000000", driver.Command{Args: w.args(Behaviour{End: &End{}})})
	w.wantKind("exec in an unknown instance", err, errdefs.ErrNotFound)
	spec := w.spec("job", Behaviour{End: &End{}})
	w.start(spec)
	w.exited(spec)
	_, err = w.d.Exec(w.ctx(), spec.ID, driver.Command{Args: w.args(Behaviour{End: &End{}})})
	w.wantKind("exec in an exited instance", err, errdefs.ErrNotFound)
}

func statsOfRunning(w *world) {
	spec := w.spec("web", Behaviour{Children: 2, Print: []string{"up"}})
	w.start(spec)
	w.awaitOutput(spec.ID, "up")
	w.eventually("usage of three processes", func() (bool, any) {
		u, err := w.d.Stats(w.ctx(), spec.ID)
		return err == nil && u.Processes >= 3 && u.Memory > 0 && u.CPU > 0, u
	})
	u, err := w.d.Stats(w.ctx(), spec.ID)
	if err != nil {
		w.Fatalf("stats: %v", err)
	}
	if !u.Enforced && u.Why == "" {
		w.Errorf("usage %+v: limits are not enforced and nothing says why", u)
	}
}

func statsUnknownIsNotFound(w *world) {
	_, err := w.d.Stats(w.ctx(), project+"/nobody-1-00000000")
	w.wantKind("stats of an unknown instance", err, errdefs.ErrNotFound)
	spec := w.spec("job", Behaviour{End: &End{}})
	w.start(spec)
	w.exited(spec)
	_, err = w.d.Stats(w.ctx(), spec.ID)
	w.wantKind("stats of an exited instance", err, errdefs.ErrNotFound)
}
