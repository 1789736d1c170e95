package drivertest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Behaviour is what a program of the suite does, in the order of the fields. Its zero value runs until it is stopped
// and dies of the stop signal.
type Behaviour struct {
	Missing    bool          `json:"-"`                     // there is no such program
	Marker     string        `json:"marker,omitempty"`      // stands in the command line of it and its children
	IgnoreStop bool          `json:"ignore_stop,omitempty"` // SIGTERM and SIGINT have no effect
	Env        bool          `json:"env,omitempty"`         // prints "env NAME=VALUE" for each variable
	Print      []string      `json:"print,omitempty"`       // lines on standard output
	PrintErr   []string      `json:"print_err,omitempty"`   // lines on standard error
	Touch      string        `json:"touch,omitempty"`       // makes this file
	Copy       bool          `json:"copy,omitempty"`        // copies standard input to standard output, to its end
	Children   int           `json:"children,omitempty"`    // so many children, each in a session of its own, deaf to signals
	Listen     []int         `json:"listen,omitempty"`      // TCP ports; the first is PORT where that is set
	Tick       time.Duration `json:"tick,omitempty"`        // prints "tick" at this interval; children too
	End        *End          `json:"end,omitempty"`         // nil: never
}

// End is how and when a program ends by itself.
type End struct {
	After  time.Duration `json:"after,omitempty"`
	Code   int           `json:"code,omitempty"`
	Signal string        `json:"signal,omitempty"` // dies of it: SIGKILL or SIGTERM
}

const programArg = "drivertest-program"

// Command returns a command line that carries b out on this machine: the test binary itself, which must call Program
// first thing in its TestMain.
func Command(b Behaviour) []string {
	if b.Missing {
		return []string{"/nonexistent/program"}
	}
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	text, err := json.Marshal(b)
	if err != nil {
		panic(err)
	}
	return []string{exe, programArg, string(text)}
}

// Program returns at once in a test binary. In a process that Command describes it carries the behaviour out and never
// returns.
func Program() {
	if len(os.Args) != 3 || os.Args[1] != programArg {
		return
	}
	var b Behaviour
	if err := json.Unmarshal([]byte(os.Args[2]), &b); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125)
	}
	b.run()
}

func (b Behaviour) run() {
	if b.IgnoreStop {
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	}
	if b.Env {
		env := os.Environ()
		sort.Strings(env)
		for _, kv := range env {
			fmt.Println("env " + kv)
		}
	}
	for _, line := range b.Print {
		fmt.Println(line)
	}
	for _, line := range b.PrintErr {
		fmt.Fprintln(os.Stderr, line)
	}
	if b.Touch != "" {
		must(os.WriteFile(b.Touch, nil, 0o644))
	}
	if b.Copy {
		_, err := io.Copy(os.Stdout, os.Stdin)
		must(err)
	}
	for range b.Children {
		child := Behaviour{Marker: b.Marker, IgnoreStop: true, Tick: b.Tick}
		args := Command(child)
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		must(cmd.Start())
	}
	for i, port := range b.Listen {
		must(listen(i, port))
	}
	b.live()
}

// listen opens a port and answers every connection with "hello\n".
func listen(i, port int) error {
	if own, err := strconv.Atoi(os.Getenv("PORT")); err == nil && i == 0 {
		port = own
	}
	l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello\n")
			_ = c.Close()
		}
	}()
	return nil
}

func (b Behaviour) live() {
	var tick, end <-chan time.Time
	if b.Tick > 0 {
		tick = time.Tick(b.Tick)
	}
	if b.End != nil {
		end = time.After(b.End.After)
	}
	forever := time.Tick(time.Hour) // or the runtime calls it a deadlock
	for {
		select {
		case <-tick:
			fmt.Println("tick")
		case <-forever:
		case <-end:
			if b.End.Signal != "" {
				_ = syscall.Kill(os.Getpid(), signals[b.End.Signal])
				select {}
			}
			os.Exit(b.End.Code)
		}
	}
}

var signals = map[string]syscall.Signal{"SIGKILL": syscall.SIGKILL, "SIGTERM": syscall.SIGTERM}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(124)
	}
}

// Processes counts the processes of this machine whose command line holds marker, zombies aside.
func Processes(marker string) int {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	n := 0
	for _, d := range dirs {
		if _, err := strconv.Atoi(d.Name()); err != nil {
			continue
		}
		line, err := os.ReadFile("/proc/" + d.Name() + "/cmdline") // empty for a zombie
		// The supervisor of an instance may carry the same words: only the program itself counts.
		if err == nil && strings.Contains(string(line), "\x00"+programArg+"\x00") && strings.Contains(string(line), marker) {
			n++
		}
	}
	return n
}
