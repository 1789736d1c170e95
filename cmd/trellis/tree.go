package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"trellis/engine"
)

// treeView is everything that one picture of a project on its way shows. Its lines are a pure function of it.
type treeView struct {
	Title    string // "shop r8"
	Elapsed  time.Duration
	Frame    int // of the spinner
	Services []engine.Service
	// Took says how long each service took until it was what it is, or how long it has been on its way.
	Took map[string]time.Duration
}

// fitting is the room for a picture.
type fitting struct {
	width, height int // in characters
	style
}

const narrow = 60 // columns: below, an answer stands on a line of its own

var spinner = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

// lines returns the picture, no line wider and no more of them than f has room for.
func (v treeView) lines(f fitting) []string {
	head := v.head(f)
	for _, detail := range []struct{ instances, healthy bool }{{true, true}, {false, true}, {false, false}} {
		body := v.body(f, detail.instances, detail.healthy)
		if len(body)+1 <= f.height {
			return append([]string{head}, body...)
		}
		if !detail.healthy {
			room := max(f.height-2, 0)
			rest := fmt.Sprintf("  %s and %d more lines", f.glyph("…", "..."), len(body)-room)
			return append(append([]string{head}, body[:room]...), f.dim(f.fit(rest, f.width)))
		}
	}
	return nil
}

func (v treeView) head(f fitting) string {
	done := 0
	for _, svc := range v.Services {
		if settledWell(svc) {
			done++
		}
	}
	count := fmt.Sprintf("%d/%d", done, len(v.Services))
	elapsed := shortly(v.Elapsed)
	room := f.width - columns(count) - columns(elapsed) - 4
	if room < 4 {
		return f.fit(v.Title, f.width)
	}
	return f.bold(f.fit(v.Title, room)) + "  " + count + "  " + f.dim(elapsed)
}

// body returns the services' lines; without healthy those that are well become one line.
func (v treeView) body(f fitting, instances, healthy bool) []string {
	var lines []string
	names := v.nameColumn(f)
	hidden := 0
	for _, svc := range v.Services {
		if !healthy && settledWell(svc) {
			hidden++
			continue
		}
		lines = append(lines, v.service(f, svc, names)...)
		if instances && !settledWell(svc) {
			lines = append(lines, branches(f, svc)...)
		}
	}
	if hidden > 0 {
		lines = append(lines, f.dim(f.fit(fmt.Sprintf("%s %d more are well", f.glyph("✔", "+"), hidden), f.width)))
	}
	return lines
}

// nameColumn returns the width of the column of names.
func (v treeView) nameColumn(f fitting) int {
	widest := 4
	for _, svc := range v.Services {
		widest = max(widest, columns(svc.Name))
	}
	return min(widest, max(f.width*3/8, 8))
}

func (v treeView) service(f fitting, svc engine.Service, names int) []string {
	mark, paint := v.mark(f, svc.State)
	name := pad(f.fit(svc.Name, names), names)
	state := pad(svc.State, len(engine.ServiceCrashLooping))
	ready := fmt.Sprintf("%5s", fmt.Sprintf("%d/%d", svc.Ready, svc.Want))
	plain := mark + " " + name + "  " + state + " " + ready
	painted := paint(mark) + " " + name + "  " + paint(state) + " " + ready
	if took := fmt.Sprintf(" %6s", shortly(v.Took[svc.Name])); columns(plain)+columns(took) <= f.width {
		plain, painted = plain+took, painted+f.dim(took)
	}
	note := ""
	if !settledWell(svc) {
		note = noteOf(svc)
	}
	room := f.width - columns(plain) - 2
	switch {
	case room < -2:
		return []string{f.fit(plain, f.width)}
	case note == "":
		return []string{painted}
	case f.width < narrow || room < 12:
		return []string{painted, "  " + f.dim(f.fit(note, f.width-2))}
	}
	return []string{painted + "  " + f.dim(f.fit(note, room))}
}

// mark returns the sign and the colour of a service's state.
func (v treeView) mark(f fitting, state string) (string, func(string) string) {
	switch state {
	case engine.ServiceHealthy:
		return f.glyph("✔", "+"), f.green
	case engine.ServiceCompleted:
		return f.glyph("✔", "+"), f.dim
	case engine.ServiceCrashLooping, engine.ServiceFailed:
		return f.glyph("✘", "x"), f.red
	case engine.ServiceDegraded:
		return "!", f.yellow
	case engine.ServiceStopped:
		return f.glyph("■", "-"), f.dim
	}
	return f.glyph(spinner[v.Frame%len(spinner)], string(`|/-\`[v.Frame%4])), f.cyan
}

// branches returns one line for each instance of a service that has several, or one that was started again.
func branches(f fitting, svc engine.Service) []string {
	if len(svc.Instances) < 2 {
		return nil
	}
	var lines []string
	for i, in := range svc.Instances {
		bend := f.glyph("├", "|")
		if i == len(svc.Instances)-1 {
			bend = f.glyph("└", "`")
		}
		text := fmt.Sprintf("  %s %d %-8s", bend, in.Slot, in.State)
		if in.Restarts > 0 {
			text += fmt.Sprintf("  restarts %d", in.Restarts)
		}
		if answer := answerOf(in); answer != "" && !in.Ready {
			text += "  " + answer
		}
		lines = append(lines, f.dim(f.fit(strings.TrimRight(text, " "), f.width)))
	}
	return lines
}

// settledWell says that a service is where it is wanted.
func settledWell(svc engine.Service) bool {
	switch svc.State {
	case engine.ServiceHealthy, engine.ServiceCompleted:
		return true
	case engine.ServiceStopped:
		return !slices.ContainsFunc(svc.Instances, func(in engine.Instance) bool { return in.State != engine.InstanceExited })
	}
	return false
}

// noteOf says why a service is not well: its reason, else the last answer of an instance that is not ready.
func noteOf(svc engine.Service) string {
	if svc.Reason != "" {
		return oneLine(svc.Reason)
	}
	for _, in := range svc.Instances {
		if answer := answerOf(in); answer != "" && !in.Ready {
			return answer
		}
	}
	return ""
}

// answerOf is what an instance said last: its end, or the answer to the last probe.
func answerOf(in engine.Instance) string {
	switch {
	case in.Exit != nil && in.Exit.Error != "":
		return oneLine(in.Exit.Error)
	case in.Exit != nil && in.Exit.OOM:
		return "killed for want of memory"
	case in.Exit != nil && in.Exit.Signal != "":
		return "ended by " + in.Exit.Signal
	case in.Exit != nil:
		return fmt.Sprintf("exit code %d", in.Exit.Code)
	}
	return oneLine(in.Probe)
}
