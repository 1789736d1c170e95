package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
)

// risks returns what a person has to agree to before a plan is carried out, one sentence each: volumes that
// are let go, removed services, routes that open without auth. before is the project as applied last, nil for none.
func risks(changes []engine.Change, before *compose.Project, after compose.Project) []string {
	var all []string
	say := func(format string, args ...any) {
		if s := fmt.Sprintf(format, args...); !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	for _, c := range changes {
		if c.Effect == engine.EffectDataLoss {
			say("lets go of %s: no service has its data any more, which stays until somebody deletes it", c.Path)
		}
	}
	for _, c := range changes {
		if path := compose.SplitPath(c.Path); len(path) == 2 && path[0] == "services" && c.Action == engine.Remove {
			say("removes service %s", path[1])
		}
	}
	was := map[string]bool{}
	if before != nil {
		for _, r := range openRoutes(*before) {
			was[r] = true
		}
	}
	for _, r := range openRoutes(after) {
		if !was[r] {
			say("opens a route without auth: %s", r)
		}
	}
	return all
}

// openRoutes returns the routes that anybody may use, in words.
func openRoutes(p compose.Project) []string {
	fallback := ""
	if p.Trellis.Gateway != nil && p.Trellis.Gateway.Policy != nil {
		fallback = p.Trellis.Gateway.Policy.Auth
	}
	var open []string
	for _, name := range p.ServiceNames() {
		for _, port := range p.Services[name].Ports {
			for _, r := range port.Trellis.Routes {
				auth := r.Auth
				if auth == "" {
					auth = fallback
				}
				if auth != "none" {
					continue
				}
				path := r.Path
				if path == "" {
					path = "/*"
				}
				methods := "any method"
				if len(r.Methods) > 0 {
					methods = strings.Join(r.Methods, ",")
				}
				open = append(open, fmt.Sprintf("%s%s (%s) to %s:%d", r.Host, path, methods, name, port.Target))
			}
		}
	}
	return open
}

var errDeclined = errors.New("not done, as you wished")

// agree asks a person whether to go on in spite of risks. Without risks, or with yes, it does not ask; without a
// terminal it fails.
func (p *program) agree(ctx context.Context, what string, risks []string, yes bool) error {
	if len(risks) == 0 {
		return nil
	}
	s := p.styleOf(p.stderr)
	p.progressf("%s", s.bold(what))
	for _, r := range risks {
		p.progressf("  %s %s", s.yellow("!"), r)
	}
	if yes {
		return nil
	}
	question, done := p.asking()
	if question == nil {
		return withHint(fmt.Errorf("%s needs an agreement, and there is no terminal to ask", what), "repeat with --yes to agree to the above")
	}
	defer done()
	return p.answer(ctx, question, "Go on?")
}

// answer puts a question to the person at the terminal and waits; no is errDeclined.
func (p *program) answer(ctx context.Context, w io.Writer, question string) error {
	fmt.Fprint(w, question+" [y/N] ")
	answer := make(chan string, 1)
	go func() {
		// Reading a terminal cannot be interrupted: after a signal this goroutine ends with the program.
		line, _ := bufio.NewReader(p.stdin).ReadString('\n')
		answer <- line
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(w)
		return context.Cause(ctx)
	case line := <-answer:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return nil
		}
		return errDeclined
	}
}

// asking returns where a question to the person at the terminal is written, nil where nobody is there to answer.
func (p *program) asking() (w io.Writer, done func()) {
	if !terminal(p.stdin) {
		return nil, nil
	}
	if terminal(p.stderr) {
		return p.stderr, func() {}
	}
	tty, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0) // standard error goes elsewhere
	if err != nil {
		return nil, nil
	}
	return tty, func() { _ = tty.Close() }
}

// appliedLast returns the project of the newest revision, nil where there is none.
func appliedLast(ctx context.Context, control api.Control) (*compose.Project, error) {
	revisions, err := control.History(ctx, 1)
	if err != nil || len(revisions) == 0 {
		return nil, err
	}
	return &revisions[0].Project, nil
}
