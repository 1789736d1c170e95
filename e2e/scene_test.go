//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"
)

// scene is a folder that any user may use, and what is typed in it.
type scene struct {
	t    *testing.T
	dir  string
	env  []string
	as   []string // a command line before trellis: another user
	from string   // the folder it is typed in
}

func newScene(t *testing.T) *scene {
	t.Helper()
	dir, err := os.MkdirTemp(built.dir, "scene-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, dir: dir, from: dir}
	t.Cleanup(func() {
		s.env = nil
		if out, _ := s.typed("down", "--now", "--volumes", "--yes"); s.runs() {
			t.Errorf("still there after down: %s", out)
		} else if left := s.registered(); left != "" {
			t.Errorf("%s is left after down: %s", left, out)
		}
		_ = os.RemoveAll(dir)
	})
	return s
}

// runs says whether a holder of the scene's project is there.
func (s *scene) runs() bool {
	out, _ := exec.Command("pgrep", "-f", filepath.Join(s.dir, ".trellis")).Output()
	return len(out) > 0
}

// registered returns the runtime directory of the scene's project, "" where there is none.
func (s *scene) registered() string {
	for _, pattern := range []string{"/run/trellis/*/project.json", "/tmp/trellis-65534/*/project.json"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			if b, err := os.ReadFile(name); err == nil && strings.Contains(string(b), s.dir+`"`) {
				return filepath.Dir(name)
			}
		}
	}
	return ""
}

func (s *scene) file(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// service writes a Compose file of one service web with these lines.
func (s *scene) service(lines ...string) {
	s.t.Helper()
	s.file("compose.yaml", "services:\n  web:\n    "+strings.Join(lines, "\n    ")+"\n")
}

// nobody has what follows typed by an ordinary user.
func (s *scene) nobody() *scene {
	s.as = []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}
	s.env = []string{"HOME=" + s.dir, "XDG_RUNTIME_DIR="}
	return s
}

// typed runs trellis and returns what it said and its exit code.
func (s *scene) typed(args ...string) (said string, exit int) {
	s.t.Helper()
	return s.typedUntil("", nil, args...)
}

// typedUntil is typed that calls then once it has said something.
func (s *scene) typedUntil(something string, then func(), args ...string) (said string, exit int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	line := append(append(append([]string{}, s.as...), built.trellis), args...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Dir, cmd.Env = s.from, append(append(os.Environ(), "NO_COLOR=1"), s.env...)
	out := &listener{something: something, then: then}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		s.t.Fatalf("%v: %v\n%s", line, err, out.all.String())
	}
	return out.all.String(), cmd.ProcessState.ExitCode()
}

// listener keeps what is written to it, and calls then once something is part of it.
type listener struct {
	all       bytes.Buffer // not embedded: its ReadFrom would be used instead of Write
	something string
	then      func()
}

func (l *listener) Write(b []byte) (int, error) {
	n, err := l.all.Write(b)
	if l.then != nil && strings.Contains(l.all.String(), l.something) {
		l.then()
		l.then = nil
	}
	return n, err
}

// up is typed("up", "-d") after files that have to work.
func (s *scene) up() {
	s.t.Helper()
	if out, exit := s.typed("up", "-d"); exit != 0 {
		s.t.Fatalf("up: exit code %d\n%s", exit, out)
	}
}

// inState changes the project's state file with SQL while nothing runs.
func (s *scene) inState(statement string) {
	s.t.Helper()
	db := s.state()
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		s.t.Fatal(err)
	}
}

// stateVersion is the version of the schema that the project's state file has.
func (s *scene) stateVersion() (version int) {
	s.t.Helper()
	db := s.state()
	defer db.Close()
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		s.t.Fatal(err)
	}
	return version
}

// state opens the project's state file, which the caller closes.
func (s *scene) state() *sql.DB {
	s.t.Helper()
	files, _ := filepath.Glob(filepath.Join(s.dir, ".trellis", "*", "state.db"))
	if len(files) != 1 {
		s.t.Fatalf("state files: %v", files)
	}
	db, err := sql.Open("sqlite", files[0])
	if err != nil {
		s.t.Fatal(err)
	}
	return db
}
