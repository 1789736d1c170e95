package fake

import (
	"os"
	"slices"
	"time"

	"trellis/driver"
)

// instance is one instance; the world's mutex guards it.
type instance struct {
	burnt   time.Duration // CPU time up to burntAt
	burntAt time.Time
	driver.Instance
	spec     driver.Spec
	script   Script
	lines    []driver.LogLine
	timers   []*time.Timer
	stopping bool
	killAt   time.Time // while stopping
	hung     bool
	revival  driver.Revival // of the run that goes on
	// deviations are what Examine says.
	deviations []driver.Deviation
	moved      chan struct{} // closed and replaced at each change, new output included
}

const maxLines = 10000 // of output kept, the cap of the log files that do not exist

func exitOf(code int, signal string) driver.Exit {
	switch signal {
	case "SIGKILL":
		code = 128 + 9
	case "SIGTERM":
		code = 128 + 15
	case "SIGINT":
		code = 128 + 2
	case "SIGQUIT":
		code = 128 + 3
	}
	return driver.Exit{Code: code, Signal: signal}
}

// after runs f under the world's lock, unless the run of the instance it was set for is over by then.
func (w *World) after(inst *instance, d time.Duration, f func()) {
	run := inst.Restarts
	if d <= 0 {
		f()
		return
	}
	inst.timers = append(inst.timers, time.AfterFunc(d, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if inst.Restarts == run && inst.State != driver.Exited {
			f()
		}
	}))
}

// begin sets the program of a new run going.
func (w *World) begin(inst *instance) {
	s := inst.script
	inst.State = driver.Running
	w.starts++
	w.nextPID++
	inst.PID = w.nextPID
	if s.PrintEnv {
		for _, kv := range slices.Sorted(slices.Values(inst.spec.Env)) {
			inst.print("stdout", "env "+kv)
		}
	}
	for _, text := range s.Print {
		inst.print("stdout", text)
	}
	for _, text := range s.PrintErr {
		inst.print("stderr", text)
	}
	if s.Touch != "" {
		_ = os.WriteFile(s.Touch, nil, 0o644)
	}
	w.after(inst, s.ListenAfter, func() {
		inst.Listening = s.Listen
		if inst.Listening == nil {
			inst.Listening = inst.spec.Ports
		}
		inst.Listening = slices.Sorted(slices.Values(inst.Listening))
		w.changed(inst)
	})
	if s.Tick > 0 {
		w.tick(inst)
	}
	if s.Exits {
		exit := exitOf(s.ExitCode, s.ExitSignal)
		exit.OOM = s.OOM
		w.after(inst, s.ExitAfter, func() { w.end(inst, exit) })
	}
	w.postStart(inst)
	w.changed(inst)
}

func (w *World) tick(inst *instance) {
	w.after(inst, inst.script.Tick, func() {
		for range inst.script.Children + 1 {
			inst.print("stdout", "tick")
		}
		w.changed(inst)
		w.tick(inst)
	})
}

// postStart runs the hooks: one that fails ends the instance.
func (w *World) postStart(inst *instance) {
	var wait time.Duration
	for _, h := range inst.spec.PostStart {
		s, _ := parse(h.Command)
		wait += s.ExitAfter
		if s.Exits && s.ExitCode != 0 {
			exit := exitOf(0, "SIGKILL")
			exit.Error = "post_start hook failed"
			w.after(inst, wait, func() { w.end(inst, exit) })
			return
		}
	}
}

// end makes an instance exited.
func (w *World) end(inst *instance, exit driver.Exit) {
	if inst.State == driver.Exited {
		return
	}
	exit.Time = time.Now()
	exit.Asked = exit.Asked || inst.stopping
	inst.State, inst.PID, inst.Listening, inst.Exit = driver.Exited, 0, nil, &exit
	for _, t := range inst.timers {
		t.Stop()
	}
	inst.timers = nil
	if w.revives(inst) {
		w.revive(inst)
	}
	w.changed(inst)
}

func (w *World) revives(inst *instance) bool {
	e := inst.Exit
	return inst.revival != driver.ReviveNever && !e.Asked && e.Error == "" && (e.Code != 0 || inst.revival == driver.ReviveAlways)
}

// revive begins the next run of an instance that has just ended, before anybody is told of the end.
func (w *World) revive(inst *instance) {
	inst.Before, inst.Exit, inst.revival = inst.Exit, nil, driver.ReviveNever
	inst.Restarts++
	inst.script = w.script(inst.spec, inst.Restarts)
	inst.State, inst.StartedAt, inst.hung = driver.Starting, time.Now(), false
	w.after(inst, inst.script.StartAfter, func() { w.begin(inst) })
}

// signal sends the stop signal to the program.
func (w *World) signal(inst *instance) {
	if inst.script.IgnoreStop {
		return
	}
	name := inst.spec.StopSignal
	if name == "" {
		name = "SIGTERM"
	}
	exit := exitOf(0, name)
	if inst.script.StopCode != nil {
		exit = exitOf(*inst.script.StopCode, "")
	}
	w.after(inst, inst.script.StopAfter, func() { w.end(inst, exit) })
}

func (inst *instance) print(stream, text string) {
	if len(inst.lines) >= maxLines {
		inst.lines = slices.Delete(inst.lines, 0, maxLines/2)
	}
	inst.lines = append(inst.lines, driver.LogLine{Time: time.Now(), Stream: stream, Text: text})
}

// view returns a copy that the caller may keep.
func (inst *instance) view() driver.Instance {
	v := inst.Instance
	if v.Exit != nil {
		e := *v.Exit
		v.Exit = &e
	}
	if v.Before != nil {
		e := *v.Before
		v.Before = &e
	}
	return v // Listening and PortMap are replaced, never changed
}
