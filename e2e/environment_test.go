//go:build e2e

package e2e

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trellis/engine"
)

// TestStagingBesideProduction: made of production's file by one command, with state and ports of its own, and without
// production's secrets; and the difference is the override and nothing else.
func TestStagingBesideProduction(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, map[string]string{
		"password": "hunter2", "staging-password": "for staging",
		"compose.yaml": shop(port, 2, "v1", "    secrets: [password]\nsecrets: {password: {file: password}}\n"),
		"compose.staging.yaml": `services:
  web:
    deploy: {replicas: 1}
    environment: {LEVEL: debug}
`})
	staging := &project{t: t, dir: p.dir, trellis: p.trellis, env: p.env, flags: []string{"--environment", "staging"}}
	t.Cleanup(func() {
		if out, err := staging.try("down", "--volumes", "--yes"); err != nil && !strings.Contains(out, "is not running") {
			t.Errorf("down: %v\n%s", err, out)
		}
	})
	p.run("up", "-d")
	if out, err := staging.try("up", "-d"); err == nil || !strings.Contains(out, "secrets.password: is not the secret of staging") {
		t.Fatalf("staging takes production's secret: %v\n%s", err, out)
	}
	p.write("compose.staging.yaml", string(p.read("compose.staging.yaml"))+"secrets: {password: {file: staging-password}}\n")
	begin := time.Now()
	staging.run("up", "-d")
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("staging took %s", took)
	}
	at := staging.published()
	if at == port {
		t.Errorf("staging has production's port %d", port)
	}
	for where, want := range map[int]string{port: "hunter2", at: "for staging"} {
		if got := get(t, url(where)+"/file?path=/run/secrets/password"); !strings.Contains(got, want) {
			t.Errorf("the secret at %d is %q", where, got)
		}
	}
	var view struct{ Changes []engine.Change }
	p.json(&view, "diff", "production", "staging")
	var paths []string
	for _, c := range view.Changes {
		paths = append(paths, c.Action+" "+c.Path)
	}
	want := []string{"change secrets.password.file", "change services.web.deploy.replicas", "add services.web.environment.LEVEL"}
	if !slices.Equal(paths, want) {
		t.Errorf("the difference is %q, want %q", paths, want)
	}
	// What is changed in the one is no drift of the other.
	staging.run("scale", "web=2")
	p.wantDrift()
	staging.wantDrift("services.web.deploy.replicas scaled")
}

// TestPreviewsEndByThemselves: each branch is a copy of its own beside the project. When its time is over it is taken down,
// with its volumes, and a deploy before that begins a new time; the project itself goes on.
func TestPreviewsEndByThemselves(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	p := newProject(t, map[string]string{
		"compose.yaml": "x-trellis: {environments: {preview: {ttl: 30s, per_branch: true}}}\nvolumes: {data: {}}\n" +
			strings.Replace(shop(port, 1, "v1", ""), "./ledger:", "data:", 1),
	})
	git := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("git", append([]string{"-C", p.dir}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git("init", "-q", "-b", "faster/checkout")
	preview := &project{t: t, dir: p.dir, trellis: p.trellis, env: p.env, flags: []string{"--environment", "preview"}}
	t.Cleanup(func() { _, _ = preview.try("down", "--volumes", "--yes") })
	p.run("up", "-d")
	preview.run("up", "-d")
	at := preview.published()
	if at == port {
		t.Fatalf("the preview has the project's port %d", port)
	}
	if v := version(t, at); v != "v1" {
		t.Errorf("the preview serves %q", v)
	}
	if name := preview.ps().Project; name != "shop-preview-faster-checkout" {
		t.Errorf("the preview is %s", name)
	}
	ends := preview.ps().Ends
	preview.write("compose.preview.yaml", "services: {web: {environment: {LEVEL: debug}}}")
	preview.run("up", "-d")
	if again := preview.ps().Ends; ends == nil || again == nil || !again.After(*ends) {
		t.Errorf("it ends at %v, and after another deploy at %v", ends, again)
	}
	eventually(t, 2*time.Minute, "taken down", func() string {
		if all := p.run("ls"); strings.Contains(all, "preview") {
			return all
		}
		return ""
	})
	if left, _ := filepath.Glob(filepath.Join(p.dir, ".trellis", "shop-preview-*", "volumes", "*")); len(left) > 0 {
		t.Errorf("left of its volumes: %v", left)
	}
	if v := version(t, port); v != "v1" {
		t.Errorf("the project serves %q", v)
	}
	// It can come back, for a time of its own.
	preview.run("up", "-d")
	if s := preview.ps(); serviceOf(t, s, "web").State != engine.ServiceHealthy {
		t.Errorf("brought back it is %+v", s)
	}
}
