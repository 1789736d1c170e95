//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// trouble is one row of docs/guides/troubleshooting.md.
type trouble struct {
	name, says string
	exit       int
}

func troubles(t *testing.T) []trouble {
	t.Helper()
	b, err := os.ReadFile("../docs/guides/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []trouble
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 4 || !strings.HasPrefix(cells[1], "`") {
			continue
		}
		exit, err := strconv.Atoi(cells[2])
		if err != nil || strings.TrimSuffix(cells[3], " |") == "" {
			t.Fatalf("row without exit code or remedy: %s", line)
		}
		all = append(all, trouble{strings.TrimPrefix(cells[0], "| "), strings.Trim(cells[1], "`"), exit})
	}
	return all
}

// said returns what a message of the table matches: one line, in which … is anything.
func said(message string) *regexp.Regexp {
	parts := strings.Split(message, "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(`(?m)^\s*` + strings.Join(parts, `.*`) + `$`)
}

func TestEveryErrorOfTheTableIsSaidAndHasItsRemedy(t *testing.T) {
	t.Parallel()
	cases := troubleCases()
	rows := troubles(t)
	for _, row := range rows {
		provoke := cases[row.name]
		if provoke == nil {
			t.Errorf("no case provokes the row %q", row.name)
			continue
		}
		delete(cases, row.name)
		t.Run(strings.ReplaceAll(row.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			out, exit := provoke(newScene(t))
			if exit != row.exit {
				t.Errorf("exit code %d, and the table says %d", exit, row.exit)
			}
			if !said(row.says).MatchString(out) {
				t.Errorf("the table says\n\t%s\nand trellis says\n%s", row.says, out)
			}
		})
	}
	for name := range cases {
		t.Errorf("the case %q has no row", name)
	}
}

const sleeps = `x-trellis: {process: {command: [sleep, "1000"]}}`

func troubleCases() map[string]func(*scene) (string, int) {
	simply := func(args []string, lines ...string) func(*scene) (string, int) {
		return func(s *scene) (string, int) {
			s.service(lines...)
			return s.typed(args...)
		}
	}
	up := []string{"up", "-d"}
	return map[string]func(*scene) (string, int){
		"no Compose file":   func(s *scene) (string, int) { return s.typed(up...) },
		"wrong path":        func(s *scene) (string, int) { return s.typed("-f", "nope.yaml", "up", "-d") },
		"unreadable file":   unreadable,
		"bad YAML":          simply(up, "image: web", "ports: [80]\n   command: x"),
		"unknown key":       simply(up, `prots: ["80"]`, "image: web"),
		"required variable": simply(up, `environment: {KEY: "${API_KEY:?the key of your account}"}`, sleeps),
		"unset variable":    simply([]string{"check"}, `environment: {KEY: "${API_KEY}"}`, sleeps),
		"missing secret":    simply(up, "secrets: [pw]", sleeps+"\nsecrets: {pw: {file: pw.txt}}"),
		"unknown service":   simply([]string{"up", "-d", "wbe"}, sleeps),
		"needs root": func(s *scene) (string, int) {
			s.service("volumes: [data:/data]", sleeps+"\nvolumes: {data: {}}")
			return s.nobody().typed(up...)
		},
		"no Docker": func(s *scene) (string, int) {
			s.service("image: nginx:1.27")
			s.env = []string{"DOCKER_HOST=unix:///nowhere.sock"}
			return s.typed(up...)
		},
		"image only":             simply([]string{"up", "-d", "--driver", "process"}, "image: nginx:1.27"),
		"port taken":             func(s *scene) (string, int) { return s.taken() },
		"port of another user's": func(s *scene) (string, int) { return s.nobody().taken() },
		"port below 1024": func(s *scene) (string, int) {
			s.service(`ports: ["80:80"]`, sleeps)
			s.nobody()
			s.as = append([]string{"unshare", "--net"}, s.as...) // where the limit is the kernel's own, whatever it is here
			return s.typed(up...)
		},
		"state not writable": func(s *scene) (string, int) {
			s.service(sleeps)
			if err := os.Chmod(s.dir, 0o755); err != nil {
				s.t.Fatal(err)
			}
			return s.nobody().typed(up...)
		},
		"full disk":        fullDisk,
		"full disk, later": fullLater,
		"build fails":      simply(up, `x-trellis: {process: {build: "exit 3", artifacts: [bin/web], command: [bin/web]}}`),
		"no npm": func(s *scene) (string, int) {
			s.service(`x-trellis: {process: {build: "npm ci", artifacts: [bin/web], command: [bin/web]}}`)
			if err := os.Symlink("/bin/sh", filepath.Join(s.dir, "sh")); err != nil {
				s.t.Fatal(err)
			}
			s.env = []string{"PATH=" + s.dir}
			return s.typed(up...)
		},
		"artefact not made": simply(up, `x-trellis: {process: {build: "true", artifacts: [bin/web], command: [bin/web]}}`),
		"program not found": simply(up, `x-trellis: {process: {command: [no-such-program]}}`),
		"ends at once":      simply(up, `x-trellis: {process: {command: [sh, -c, "echo no database; exit 4"]}}`),
		"never ready":       simply([]string{"up", "-d", "--timeout", "3s"}, `x-trellis: {process: {command: [sleep, "1000"]}, probe: {tcp: 9}}`),
		"needs an answer": func(s *scene) (string, int) {
			s.file("compose.yaml", "services:\n  web: {"+sleeps+"}\n  old: {"+sleeps+"}\n")
			s.up()
			s.service(sleeps)
			return s.typed(up...)
		},
		"two deploys at once": func(s *scene) (string, int) {
			letGo := s.underWay()
			return s.typedUntil("waiting: ", letGo, up...)
		},
		"two deploys, no wait": func(s *scene) (string, int) {
			s.underWay()
			return s.typed("up", "-d", "--no-wait")
		},
		"not running":         simply([]string{"logs"}, sleeps),
		"control plane hangs": hangs,
		"newer state": func(s *scene) (string, int) {
			s.service(sleeps)
			s.up()
			s.typed("down")
			version := s.stateVersion()
			s.inState("PRAGMA user_version = 99")
			defer s.inState(fmt.Sprintf("PRAGMA user_version = %d", version)) // for down
			return s.typed(up...)
		},
		"damaged state": damaged,
		"wrong clock": func(s *scene) (string, int) {
			s.service(sleeps)
			s.up()
			s.typed("down")
			s.inState(`UPDATE revisions SET body = json_set(body, '$.applied_at', '2099-01-01T00:00:00Z')`)
			return s.typed(up...)
		},
	}
}

func unreadable(s *scene) (string, int) {
	s.service(sleeps)
	if err := os.Chmod(filepath.Join(s.dir, "compose.yaml"), 0); err != nil {
		s.t.Fatal(err)
	}
	defer os.Chmod(filepath.Join(s.dir, "compose.yaml"), 0o644)
	return s.nobody().typed("up", "-d")
}

// taken listens on a port and deploys a service that publishes it.
func (s *scene) taken() (string, int) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		s.t.Fatal(err)
	}
	defer l.Close()
	s.service(fmt.Sprintf(`ports: ["%d:80"]`, l.Addr().(*net.TCPAddr).Port), sleeps)
	return s.typed("up", "-d")
}

func fullDisk(s *scene) (string, int) {
	s.service(sleeps)
	return s.typed("--state", filepath.Join(smallDisk(s.t, s.t.TempDir(), "size=1m"), "shop"), "up", "-d")
}

// fullLater fills the disk while the project runs, and deploys.
func fullLater(s *scene) (string, int) {
	s.service(sleeps)
	disk := smallDisk(s.t, s.t.TempDir(), "size=8m")
	state := filepath.Join(disk, "shop")
	if out, exit := s.typed("--state", state, "up", "-d"); exit != 0 {
		s.t.Fatalf("up: %s", out)
	}
	fill := filepath.Join(disk, "fill")
	if err := os.WriteFile(fill, bytes.Repeat([]byte{1}, 16<<20), 0o600); err == nil {
		s.t.Fatal("a disk of 8 MiB took 16")
	}
	s.service("environment: {A: b}", sleeps)
	out, exit := s.typed("--state", state, "up", "-d")
	if err := os.Remove(fill); err != nil {
		s.t.Fatal(err)
	}
	if out, exit := s.typed("--state", state, "up", "-d"); exit != 0 { // the remedy
		s.t.Errorf("up after some space was freed: %d\n%s", exit, out)
	}
	if out, exit := s.typed("--state", state, "down"); exit != 0 {
		s.t.Errorf("down: %d\n%s", exit, out)
	}
	return out, exit
}

// underWay begins a deploy that takes until letGo is called, or the test ends.
func (s *scene) underWay() (letGo func()) {
	s.t.Helper()
	letGo = func() { s.file("go", "") }
	s.service(fmt.Sprintf(`x-trellis: {process: {command: [sh, -c, "until test -e %s; do sleep 0.1; done; touch ready; sleep 1000"]}}`, filepath.Join(s.dir, "go")),
		`healthcheck: {test: [CMD, test, -e, ready], interval: 1s, retries: 60}`)
	cmd := exec.Command(built.trellis, "up", "-d")
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "NO_COLOR=1")
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { letGo(); _ = cmd.Wait() })
	eventually(s.t, 20*time.Second, "the first deploy is under way", func() string {
		out, _ := s.typed("ps")
		if strings.Contains(out, "pending") {
			return ""
		}
		return out
	})
	s.service(`x-trellis: {process: {command: [sh, -c, "touch ready; sleep 1001"]}}`,
		`healthcheck: {test: [CMD, test, -e, ready], interval: 1s, retries: 60}`)
	return letGo
}

// hangs stops the control plane, so that it is there and does not answer; the remedy of the message is tried.
func hangs(s *scene) (string, int) {
	s.service(sleeps)
	s.up()
	out, _ := s.typed("ps", "--format", "json")
	m := regexp.MustCompile(`"control_plane":\s*\{\s*"pid":\s*(\d+)`).FindStringSubmatch(out)
	if m == nil {
		s.t.Fatalf("ps: %s", out)
	}
	pid, _ := strconv.Atoi(m[1])
	signal(s.t, pid, "STOP")
	out, exit := s.typed("ps")
	if !strings.Contains(out, "kill -9 "+m[1]) {
		s.t.Errorf("it does not name the process %s: %s", m[1], out)
	}
	signal(s.t, pid, "KILL")
	if again, code := s.typed("ps"); code != 0 || !strings.Contains(again, "healthy") {
		s.t.Errorf("after kill -9: %d\n%s", code, again)
	}
	return out, exit
}

// damaged writes rubbish over the state and then does what the message says.
func damaged(s *scene) (string, int) {
	s.service(sleeps)
	s.up()
	s.typed("down")
	files, _ := filepath.Glob(filepath.Join(s.dir, ".trellis", "*", "state.db"))
	if len(files) != 1 {
		s.t.Fatalf("state files: %v", files)
	}
	if err := os.WriteFile(files[0], bytes.Repeat([]byte("rubbish "), 1024), 0o600); err != nil {
		s.t.Fatal(err)
	}
	out, exit := s.typed("up", "-d")
	_, remedy, ok := strings.Cut(out, "with no trellis running: ")
	if !ok {
		s.t.Fatalf("no remedy in %s", out)
	}
	remedy, _, _ = strings.Cut(remedy, "\n")
	if b, err := exec.Command("sh", "-c", remedy).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", remedy, err, b)
	}
	s.up()
	return out, exit
}
