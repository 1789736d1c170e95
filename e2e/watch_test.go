//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"trellis/watch"
)

// watcher is an `up --watch` that runs.
type watcher struct {
	p    *project
	cmd  *exec.Cmd
	done chan error
	mu   sync.Mutex
	out  bytes.Buffer
}

func (w *watcher) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(b)
}

func (w *watcher) output() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.String()
}

// watch starts a command that watches, and waits until it does.
func (p *project) watch(args ...string) *watcher {
	p.t.Helper()
	w := &watcher{p: p, cmd: exec.Command(p.trellis, args...), done: make(chan error, 1)}
	w.cmd.Dir, w.cmd.Env, w.cmd.Stdout, w.cmd.Stderr = p.dir, append(p.env, "NO_COLOR=1"), w, w
	if err := w.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() { w.done <- w.cmd.Wait() }()
	p.t.Cleanup(func() {
		if p.t.Failed() {
			p.t.Logf("%v\n%s", args, w.output())
		}
		_ = w.cmd.Process.Kill()
	})
	w.says("watching ")
	return w
}

func (w *watcher) says(text string) {
	w.p.t.Helper()
	eventually(w.p.t, 30*time.Second, "the watch says "+text, func() string {
		if out := w.output(); !strings.Contains(out, text) {
			return "it said: " + out
		}
		return ""
	})
}

// stop ends it as Ctrl-C does.
func (w *watcher) stop() {
	w.p.t.Helper()
	signal(w.p.t, w.cmd.Process.Pid, "INT")
	select {
	case <-w.done:
	case <-time.After(30 * time.Second):
		w.p.t.Fatalf("the watch does not end:\n%s", w.output())
	}
}

// shows waits until a file of web's working directory has a content.
func shows(t *testing.T, port int, file, want string) {
	t.Helper()
	eventually(t, 30*time.Second, "web shows "+want, func() string {
		body, err := fetch(url(port) + "/file?path=" + file)
		if err != nil {
			return err.Error()
		}
		if strings.TrimSpace(body) != want {
			return "it shows " + body
		}
		return ""
	})
}

// editedShop is web at port, built from src/page.txt by build.sh; more goes into the service.
func editedShop(port int, more string) map[string]string {
	return map[string]string{
		"compose.yaml": fmt.Sprintf(`name: shop
services:
  web:
    image: testapp
    ports: ["%d:80"]
    environment: {LEDGER: /ledger/web}
    volumes: ["./ledger:/ledger"]
    healthcheck: {interval: 1s, timeout: 1s, retries: 3}
    deploy: {replicas: 2}
%s    x-trellis:
      process: {build: "sh build.sh", artifacts: [out, public, conf], command: [%s]}
      probe: {http: /healthz}
`, port, more, built.app),
		"build.sh":         "if grep -q bad src/page.txt; then echo page.txt is bad; exit 1; fi\nmkdir -p out && cp src/page.txt out/page.txt\n",
		"src/page.txt":     "one\n",
		"public/index.txt": "first\n",
		"conf/app.conf":    "a\n",
		".gitignore":       "/ledger\n/log\n",
		"ledger/.keep":     "",
	}
}

// TestWatchRebuildsUnderLoad saves files while requests come: each good save is rolled out without a lost request, a bad
// one changes nothing, and what is no source is not noticed.
func TestWatchRebuildsUnderLoad(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, editedShop(port, ""))
	w := p.watch("up", "--watch")
	shows(t, port, "out/page.txt", "one")
	tr := underLoad(t, url(port), 150, func() {
		p.write("src/page.txt", "two\n")
		shows(t, port, "out/page.txt", "two")
		p.write("src/page.txt", "bad\n")
		w.says("page.txt is bad")
		w.says("web goes on as it is; the next save tries again")
		shows(t, port, "out/page.txt", "two")
		// An editor writes beside the file and renames over it.
		p.write("src/.page.txt.swp", "three\n")
		p.write("src/page.new", "three\n")
		if err := os.Rename(filepath.Join(p.dir, "src/page.new"), filepath.Join(p.dir, "src/page.txt")); err != nil {
			t.Error(err)
		}
		shows(t, port, "out/page.txt", "three")
	})
	tr.NoneLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	eventually(t, 20*time.Second, "the last rollout ends", func() string {
		if s := p.ps(); s.Outcome != "healthy" {
			return "it is " + s.Outcome
		}
		return ""
	})
	before := p.ps().Revision
	if before != 3 {
		t.Errorf("revision %d after two good saves and a bad one, want 3", before)
	}
	p.write("log/today", "x\n") // left out by .gitignore
	// Files that come one soon after another are one save. A machine that holds this test up between two of them makes
	// another save of the rest.
	saves, last := int64(1), time.Now()
	written := func(name, content string) {
		p.write(name, content)
		now := time.Now()
		if now.Sub(last) > watch.DefaultQuiet/2 {
			saves++
		}
		last = now
	}
	for i := range 300 {
		written(fmt.Sprintf("src/many/%d.txt", i), "x")
	}
	written("src/page.txt", "four\n")
	shows(t, port, "out/page.txt", "four")
	if now := p.ps().Revision; now > before+saves {
		t.Errorf("300 files in %d saves made %d revisions", saves, now-before)
	}
	w.stop()
	if out := w.output(); !strings.Contains(out, "stopped shop") || strings.Contains(out, "log/today") {
		t.Errorf("the watch said:\n%s", out)
	}
}

// TestWatchSyncsRestartsAndExecutes has a rule of each other kind.
func TestWatchSyncsRestartsAndExecutes(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, editedShop(port, `    develop:
      watch:
        - {path: ./public, action: sync, target: /app/public, ignore: ["*.tmp"]}
        - {path: ./conf, action: sync+restart, target: /app/conf}
        - {path: ./src, action: sync+exec, target: /app/src, exec: {command: [sh, -c, "echo ran >> ran.txt"]}}
        - {path: ./restart.txt, action: restart}
`))
	p.write("restart.txt", "")
	// src is no artefact of web, so that it cannot be synced, which is said.
	w := p.watch("watch")
	w.says("src is no artefact of the service")
	shows(t, port, "public/index.txt", "first")
	before := p.ps()

	tr := underLoad(t, url(port), 150, func() {
		p.write("public/x.tmp", "x")
		p.write("public/index.txt", "second\n")
		p.write("public/deep/new.txt", "new\n")
		shows(t, port, "public/index.txt", "second")
		shows(t, port, "public/deep/new.txt", "new")
		if err := os.Remove(filepath.Join(p.dir, "public/deep/new.txt")); err != nil {
			t.Error(err)
		}
		eventually(t, 10*time.Second, "what is removed is gone", func() string {
			if body, err := fetch(url(port) + "/file?path=public/deep/new.txt"); err == nil {
				return "it is " + body
			}
			return ""
		})
		if now := p.ps(); fmt.Sprint(pids(now)) != fmt.Sprint(pids(before)) || now.Revision != before.Revision {
			t.Errorf("a sync restarted something: %v, then %v", pids(before), pids(now))
		}
		if _, err := fetch(url(port) + "/file?path=public/x.tmp"); err == nil {
			t.Error("what is ignored was synced")
		}
		p.write("conf/app.conf", "b\n")
		replacedAll(t, p, pids(before))
		shows(t, port, "conf/app.conf", "b")
		running := pids(p.ps())
		p.write("restart.txt", "again")
		replacedAll(t, p, running)
	})
	tr.NoneLost(t)
	shows(t, port, "public/index.txt", "second") // which a restart does not lose
	w.stop()
	if s := p.ps(); s.Outcome != "healthy" || s.Revision != before.Revision {
		t.Errorf("after the watch: %+v", s)
	}
	// Another up brings the service back to what was built.
	p.run("up", "-d")
	shows(t, port, "public/index.txt", "second")
	if b, err := os.ReadFile(filepath.Join(p.dir, "public/index.txt")); err != nil || string(b) != "second\n" {
		t.Errorf("the source: %q %v", b, err)
	}
}

// TestWatchExecutesAfterASync has sources that are artefacts too.
func TestWatchExecutesAfterASync(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, editedShop(port, `    develop:
      watch:
        - {path: ./conf, action: sync+exec, target: /app/conf, exec: {command: [sh, -c, "cat conf/app.conf > ran.txt"]}}
`))
	w := p.watch("watch")
	p.write("conf/app.conf", "c\n")
	shows(t, port, "ran.txt", "c")
	w.stop()
}

// replacedAll waits until none of the programs runs any more and both replicas are ready.
func replacedAll(t *testing.T, p *project, was map[string]int) {
	t.Helper()
	eventually(t, 30*time.Second, "every instance is replaced", func() string {
		s := p.ps()
		var old []int
		for _, pid := range was {
			old = append(old, pid)
		}
		for id, pid := range pids(s) {
			if slices.Contains(old, pid) {
				return id + " still runs"
			}
		}
		if web := serviceOf(t, s, "web"); web.Ready != 2 || web.State != "healthy" {
			return "web is " + web.State
		}
		return ""
	})
}
