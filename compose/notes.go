package compose

import (
	"path/filepath"
	"strings"
)

// interpreters are programs that run code which lies beside them, so that their own file says nothing of it.
const interpreters = "ash bash bun bundle dash deno dotnet elixir erl flask go gunicorn java jruby lua luajit make node nodejs npm " +
	"npx perl php pnpm poetry puma py pypy python python2 python3 rackup rails ruby sh swift tclsh ts-node tsx uv uvicorn yarn zsh"

// Notes returns what `trellis check` says of a project although everything in it is carried out: services that only a
// process can run, and code that a rollback cannot bring back. They are no reason to stop, and no part of Check.
func Notes(p Project) []Diagnostic {
	var out []Diagnostic
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		if s.Trellis.Process == nil {
			continue
		}
		at := JoinPath("services", name) + ".x-trellis.process"
		say := func(message string) {
			d := Diagnostic{Path: at, Message: message}
			d.File, d.Line, d.Column = p.Positions.short(at)
			out = append(out, d)
		}
		if s.Image == "" && s.Build == nil {
			say("only a process can run the service, and Docker Compose refuses the file: add image or build to keep other ways open")
		}
		if len(s.Trellis.Process.Artifacts) == 0 && ownCode(*s.Trellis.Process, s) {
			say("has no artifacts: a rollback starts the command again, but cannot bring back the code as it was; list the files it consists of")
		}
	}
	return out
}

// ownCode says that a command runs code of the project, not a program of the machine.
func ownCode(p Process, s Service) bool {
	command := p.Command
	if len(command) == 0 {
		command = append(append(command, s.Entrypoint...), s.Command...)
	}
	if len(command) == 0 {
		return false
	}
	program := command[0]
	if strings.Contains(program, "/") && (!filepath.IsAbs(program) || strings.HasPrefix(program, p.Dir+"/")) {
		return true
	}
	name := strings.TrimRight(filepath.Base(program), "0123456789.")
	return among(interpreters, name) || among(interpreters, filepath.Base(program))
}
