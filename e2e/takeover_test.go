//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// composeCommand is docker compose in whichever form is installed.
func composeCommand(t testing.TB, dir string, args ...string) {
	t.Helper()
	command := []string{"docker", "compose"}
	if exec.Command("docker", "compose", "version").Run() != nil {
		command = []string{"docker-compose"}
	}
	cmd := exec.Command(command[0], append(command[1:], args...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", strings.Join(command, " "), strings.Join(args, " "), err, out)
	}
}

// dockerTakesOverFromDockerCompose: a project that docker compose runs becomes ours, with what it had written, and
// goes back.
func dockerTakesOverFromDockerCompose(t *testing.T) {
	name, port, data := dockerName(), freePort(t), freePort(t)
	file := func(version string) string {
		return fmt.Sprintf(`version: "3.8"
services:
  web:
    build: .
    ports: ["%d:80"]
    environment: {VERSION: %s}
    depends_on: [store]
  store:
    build: .
    ports: ["%d:80"]
    environment: {VERSION: %s, LEDGER: /data/ledger}
    volumes: ["kept:/data"]
volumes:
  kept:
`, port, version, data, version)
	}
	p := dockerProject(t, name, map[string]string{"compose.yaml": file("theirs")})
	p.flags = []string{"-p", name}
	composeCommand(t, p.dir, "-p", name, "-f", "compose.yaml", "up", "-d")
	t.Cleanup(func() { composeCommand(t, p.dir, "-p", name, "-f", "compose.yaml", "down", "-v") })
	post := func() {
		t.Helper()
		req, _ := http.NewRequest("POST", url(data)+"/ledger", strings.NewReader("{}"))
		req.Header.Set("X-Load-Seq", "4711")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("POST: %s", resp.Status)
		}
	}
	eventually(t, 20e9, "docker compose serves", func() string {
		if _, err := fetch(url(data)); err != nil {
			return err.Error()
		}
		return ""
	})
	post()
	before := get(t, url(data)+"/file?path=/data/ledger")

	p.write("compose.yaml", file("ours"))
	out, err := p.try("up", "-d")
	if err == nil || !strings.Contains(out, "--yes") || !strings.Contains(out, name+"_kept") {
		t.Errorf("without --yes and a terminal it has to refuse and say what it would do: %v\n%s", err, out)
	}
	if v := version(t, port); v != "theirs" {
		t.Errorf("version %q after what was refused", v)
	}
	out = p.run("up", "-d", "--yes")
	t.Log(out)
	for _, port := range []int{port, data} {
		if v := version(t, port); v != "ours" {
			t.Errorf("version %q", v)
		}
	}
	if after := get(t, url(data)+"/file?path=/data/ledger"); after != before || after == "" {
		t.Errorf("what was written before: %q, now %q", before, after)
	}
	if left := docker(t, "ps", "-aq", "--filter", "label=com.docker.compose.project="+name); left != "" {
		t.Errorf("containers of docker compose are left: %s", left)
	}
	if out := p.run("up", "-d", "--yes"); strings.Contains(out, "docker compose") {
		t.Errorf("a second up takes over again:\n%s", out)
	}
	post() // as ours

	p.run("down")
	composeCommand(t, p.dir, "-p", name, "-f", "compose.yaml", "up", "-d")
	eventually(t, 20e9, "docker compose serves again", func() string {
		got, err := fetch(url(data) + "/file?path=/data/ledger")
		if err != nil || len(got) <= len(before) {
			return fmt.Sprint(got, err)
		}
		return ""
	})
}
