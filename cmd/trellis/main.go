// Trellis runs Compose projects so that they scale, heal and deploy without losing a request. This is its command
// line: one file a command, each a client of the control plane that `trellis up` starts.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"trellis/errdefs"
	"trellis/server"
)

func main() {
	// Go keeps every call path by which it has seen memory taken, for good: 2 MB of each process after some hours. Who wants the profile
	// says so to the runtime.
	if !strings.Contains(os.Getenv("GODEBUG"), "memprofilerate=") {
		runtime.MemProfileRate = 0
	}
	if len(os.Args) > 1 && os.Args[1] == server.ShimVerb {
		os.Exit(beShim(os.Args[2:]))
	}
	os.Exit(run(newProgram(platform{})))
}

// run carries out the command line with signals: the first one asks the command to end, the second one insists, the
// third one is the end.
func run(p *program) (code int) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as after nohup
		signal.Notify(signals, syscall.SIGHUP)
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	again := make(chan struct{})
	go func() {
		cancel(signalled{<-signals})
		<-signals
		close(again)
		<-signals
		os.Exit(errdefs.ExitFailed)
	}()
	p.again, p.resized = again, resized
	p.outlive = func() func() {
		broken := make(chan os.Signal, 1)
		signal.Notify(broken, syscall.SIGPIPE) // what is started meanwhile would begin with one that is ignored
		return func() { signal.Stop(broken) }
	}
	err := p.execute(ctx, os.Args[1:])
	p.report(err)
	return exitCode(err)
}
