//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/engine"
)

// archived is a project with something of everything that a backup holds: an artefact, a secret, a volume whose service
// says nothing, and one whose service says how it is saved.
func archived(port int, version string) string {
	return fmt.Sprintf(`name: shop
services:
  web:
    image: testapp
    ports: ["%[1]d:80"]
    environment: {VERSION: "%[2]s"}
    secrets: [token]
    depends_on: {db: {condition: service_healthy}}
    healthcheck: {interval: 1s, timeout: 1s, retries: 3}
    x-trellis:
      process: {build: "mkdir -p bin && cp %[3]s bin/app && echo %[2]s >bin/version", artifacts: [bin], command: [bin/app]}
      probe: {http: /healthz}
  files:
    image: testapp
    expose: ["80"]
    environment: {LEDGER: /data/ledger}
    volumes: ["files:/data"]
    healthcheck: {interval: 1s, timeout: 1s, retries: 3}
    x-trellis: {process: {command: [%[3]s]}, probe: {http: /healthz}}
  db:
    image: testapp
    expose: ["80"]
    environment: {LEDGER: /data/ledger}
    volumes: ["rows:/data"]
    healthcheck: {interval: 1s, timeout: 1s, retries: 3}
    x-trellis:
      process: {command: [%[3]s]}
      probe: {http: /healthz}
      backup: {command: [cat, /data/ledger], restore: "cat >/data/ledger"}
volumes: {files: {}, rows: {}}
secrets: {token: {file: ./token.txt}}
`, port, version, built.app)
}

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=kim", "-c", "user.email=kim@example.org"}, args...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func TestNewMachineGitAndTheBackupServeAgain(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, map[string]string{
		"compose.yaml": archived(port, "v1"), "token.txt": "s3cret", ".gitignore": "token.txt\nbin\n",
	})
	git(t, p.dir, "init", "-q")
	git(t, p.dir, "add", "-A")
	git(t, p.dir, "commit", "-qm", "shop")
	p.run("up", "-d")
	p.write("compose.yaml", archived(port, "v2"))
	git(t, p.dir, "commit", "-qam", "another version")
	p.run("up", "-d")
	// Data of several pieces, and of a file with its own owner.
	p.run("exec", "-T", "files", "sh", "-c", "echo precious >/data/ledger; chown 70:71 /data/ledger; ln -s ledger /data/now; truncate -s 100M /data/holes")
	p.run("exec", "-T", "db", "sh", "-c", "seq 1 1000000 >/data/ledger")
	sum := p.run("exec", "-T", "db", "sha256sum", "/data/ledger")
	store := t.TempDir()

	out, err := p.try("backup", store)
	if err == nil || !strings.Contains(out, "service files runs and writes to the volume shop_files") || !strings.Contains(out, "--stop") ||
		!strings.Contains(out, "x-trellis.backup") || strings.Contains(out, "shop_rows") {
		t.Fatalf("a backup of what nobody says how to save: %v\n%s", err, out)
	}
	if left, _ := os.ReadDir(store); len(left) > 0 {
		t.Errorf("left is %v", left)
	}
	before := pids(p.ps())
	out = p.run("backup", "--stop", store)
	t.Log(out)
	files, _ := filepath.Glob(filepath.Join(store, "shop-*.tar.zst"))
	if len(files) != 1 {
		t.Fatalf("backups: %v", files)
	}
	backup := files[0]
	if info, err := os.Stat(backup); err != nil || info.Mode().Perm() != 0o600 || info.Size() > 200<<20 {
		t.Errorf("the file: %v, %v", info, err)
	}
	eventually(t, 20*time.Second, "files runs again", func() string {
		if s := serviceOf(t, p.ps(), "files"); s.State != engine.ServiceHealthy {
			return s.State
		}
		return ""
	})
	for id, pid := range pids(p.ps()) {
		if before[id] != pid && !strings.HasPrefix(id, "files-") {
			t.Errorf("%s was restarted", id)
		}
	}
	// To standard output, with the services of before stopped by hand.
	p.run("stop", "files")
	piped := filepath.Join(store, "piped")
	cmd := exec.Command("sh", "-c", p.trellis+" backup - >"+piped)
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("backup to a pipe: %v\n%s", err, out)
	}
	p.run("down", "--volumes", "--yes")

	// The new machine has git and the backup, and no secret.
	dir := filepath.Join(t.TempDir(), "elsewhere")
	git(t, t.TempDir(), "clone", "-q", p.dir, dir)
	n := projectIn(t, dir)
	torn := filepath.Join(store, "torn")
	if b, err := os.ReadFile(backup); err != nil {
		t.Fatal(err)
	} else if err := os.WriteFile(torn, b[:len(b)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := n.try("restore", torn); err == nil || !strings.Contains(out, "ends in the middle") {
		t.Errorf("a torn backup: %v\n%s", err, out)
	}
	if _, err := os.Lstat(filepath.Join(dir, ".trellis")); err == nil {
		t.Error("a torn backup left something")
	}
	start := time.Now()
	out = n.run("restore", backup)
	get(t, url(port))
	took := time.Since(start)
	t.Logf("a new machine, git and the backup serve again after %v\n%s", took, out)
	if took > time.Minute {
		t.Errorf("it took %v", took)
	}
	if v := version(t, port); v != "v2" {
		t.Errorf("version %q", v)
	}
	if got := n.run("exec", "-T", "files", "sh", "-c", "cat /data/now; stat -c '%u:%g %s' /data/ledger /data/holes"); got != "precious\n70:71 9\n0:0 104857600\n" {
		t.Errorf("the files are back as\n%s", got)
	}
	if got := n.run("exec", "-T", "db", "sha256sum", "/data/ledger"); got != sum {
		t.Errorf("the rows are back as %s, were %s", got, sum)
	}
	if got := get(t, url(port)+"/file?path=/run/secrets/token"); got != "s3cret" {
		t.Errorf("the secret is %q", got)
	}
	s := n.ps()
	if s.Revision != 2 {
		t.Errorf("revision %d", s.Revision)
	}
	for _, svc := range s.Services {
		if svc.State != engine.ServiceHealthy {
			t.Errorf("%s is %s: %s", svc.Name, svc.State, svc.Reason)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".trellis", "*restore*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Lstat(filepath.Join(dir, ".trellis", "shop", "dumps")); err == nil {
		t.Error("what was put back lies there as well")
	}
	// With the secret at hand the file says what runs already, though the folder is another one.
	n.write("token.txt", "s3cret")
	was := pids(s)
	n.run("up", "-d")
	if now := pids(n.ps()); fmt.Sprint(now) != fmt.Sprint(was) {
		t.Errorf("up restarted something: %v, then %v", was, now)
	}
	// What was kept of the revision before is kept.
	n.run("rollback", "1")
	if v := version(t, port); v != "v1" {
		t.Errorf("version %q after the rollback", v)
	}
	if got := n.run("exec", "-T", "web", "cat", "bin/version"); got != "v1\n" {
		t.Errorf("the artefact is that of %q", got)
	}
	if out, err := n.try("restore", backup); err == nil || !strings.Contains(out, "it runs here: stop it with `trellis down` first") {
		t.Errorf("over what runs: %v\n%s", err, out)
	}
	n.run("down")
	if out, err := n.try("restore", backup); err == nil || !strings.Contains(out, "--force") {
		t.Errorf("over what is there: %v\n%s", err, out)
	}
	out = n.run("restore", "--force", "--no-start", piped)
	aside, _ := filepath.Glob(filepath.Join(dir, ".trellis", "shop.before-restore-*"))
	if len(aside) != 1 || !strings.Contains(out, aside[0]) || !strings.Contains(out, "the data of db is in ") {
		t.Errorf("aside is %v\n%s", aside, out)
	}
	if _, err := http.Get(url(port)); err == nil {
		t.Error("--no-start has started it")
	}
	n.run("up", "-d")
	if got := n.run("exec", "-T", "files", "cat", "/data/ledger"); got != "precious\n" {
		t.Errorf("the files of the second backup: %q", got)
	}
}
