package fake

import (
	"encoding/json"
	"time"

	"trellis/driver"
)

// Script is what one run of an instance does. Its zero value starts at once, listens on its Ports at once, is ready at
// once, and runs until it is stopped, then dies of the stop signal.
type Script struct {
	StartError string        // it cannot be started at all: an exit with this Error
	StartAfter time.Duration // how long Start takes; it is Starting until then

	Print     []string      // lines on standard output, once it runs
	PrintErr  []string      // lines on standard error, after those
	PrintEnv  bool          // "env NAME=VALUE" for each variable, first
	Tick      time.Duration // prints "tick" at this interval
	Touch     string        // makes this file once it runs
	CopyInput bool          // standard input to standard output (Exec)

	Listen      []int // nil: the Ports of the Spec
	ListenAfter time.Duration
	// ReadyAfter and HangAfter are what Probe answers by, from the start: not ready before the one, and never an answer
	// again after the other. 0: at once, and never.
	ReadyAfter time.Duration
	HangAfter  time.Duration
	NeverReady bool

	Exits      bool // by itself, ExitAfter its start
	ExitAfter  time.Duration
	ExitCode   int
	ExitSignal string // "SIGKILL" or "SIGTERM", instead of ExitCode
	OOM        bool

	IgnoreStop bool          // lives until it is killed
	StopAfter  time.Duration // from the stop signal to the exit
	StopCode   *int          // exit code after the stop signal; nil: it dies of the signal

	Children int // counted by Stats, and print "tick" too
}

// Command returns a command line that makes an instance follow s, whatever scripts its service has.
func Command(s Script) []string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // plain data
	}
	return []string{"fake", string(text)}
}

// parse returns the script in a command line made by Command.
func parse(command []string) (Script, bool) {
	var s Script
	if len(command) != 2 || command[0] != "fake" || json.Unmarshal([]byte(command[1]), &s) != nil {
		return Script{}, false
	}
	return s, true
}

// Chooser returns the script of a run of an instance; run counts from 0 for each ID.
type Chooser func(spec driver.Spec, run int) Script
