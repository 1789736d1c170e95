//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// mirror is a folder from which terraform installs the provider, built once, and the configuration that names it.
var mirror = sync.OnceValues(func() (config string, err error) {
	dir := filepath.Join(built.dir, "mirror")
	provider := filepath.Join(dir, "registry.terraform.io/trellis/trellis/0.0.1", runtime.GOOS+"_"+runtime.GOARCH, "terraform-provider-trellis_v0.0.1")
	build := exec.Command("go", "build", "-o", provider, ".") // without -trimpath: what its own tests compiled will do
	build.Dir, build.Env = "../cmd/terraform-provider-trellis", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the provider: %w\n%s", err, out)
	}
	config = filepath.Join(built.dir, "terraformrc")
	return config, os.WriteFile(config, fmt.Appendf(nil, "provider_installation {\n  filesystem_mirror {\n    path = %q\n  }\n}\n", dir), 0o644)
})

// terraformed is a project that terraform brings up.
type terraformed struct {
	*project
	program string
}

// newTerraformed is newProject with terraform's files among them, and initialised. Where there is no terraform the test is
// skipped, and fails where TOOLS names it.
func newTerraformed(t *testing.T, files map[string]string) *terraformed {
	t.Helper()
	program, err := exec.LookPath("terraform")
	if err != nil {
		if slices.Contains(strings.Split(os.Getenv("TOOLS"), ","), "terraform") {
			t.Fatal("TOOLS names terraform, and it is not in PATH")
		}
		t.Skip("there is no terraform in PATH")
	}
	config, err := mirror()
	if err != nil {
		t.Fatal(err)
	}
	p := &terraformed{newProject(t, files), program}
	p.env = append(p.env, "TF_CLI_CONFIG_FILE="+config, "CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1", "PATH="+built.dir+":"+os.Getenv("PATH"))
	if _, has := files["main.tf"]; has {
		p.terraform("init")
	}
	return p
}

// command is a command of terraform in the project's folder, in a process group of its own.
func (p *terraformed) command(ctx context.Context, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, p.program, append(args, "-no-color")...)
	cmd.Dir, cmd.Env = p.dir, p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

// exits runs a command of terraform, which has to end with that exit code, and returns what it said.
func (p *terraformed) exits(code int, args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd, out := p.command(ctx, args...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || cmd.ProcessState.ExitCode() != code {
		p.t.Fatalf("terraform %s: %v, and it was to be exit code %d\n%s", strings.Join(args, " "), err, code, out)
	}
	return out.String()
}

func (p *terraformed) terraform(args ...string) string {
	p.t.Helper()
	return p.exits(0, args...)
}

// same fails unless there is nothing to plan, and nothing that was changed outside of terraform.
func (p *terraformed) same() {
	p.t.Helper()
	p.terraform("plan", "-detailed-exitcode")
	wantIn(p.t, p.terraform("plan", "-refresh-only"), "found no differences") // its exit code says 2 whenever anything is sensitive
}

// wantIn fails unless text says all that is wanted.
func wantIn(t testing.TB, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
}

const mainTF = `terraform {
  required_providers {
    trellis = { source = "trellis/trellis" }
  }
}

variable "loud" {
  type    = string
  default = "no"
}

resource "trellis_project" "shop" {
  file             = "compose.yaml"
  variables        = { LOUD = var.loud }
  secret_variables = { KEY = "xyzzy" }
}

data "trellis_outputs" "shop" { project = trellis_project.shop.id }
data "trellis_services" "shop" { project = trellis_project.shop.id }
data "trellis_routes" "shop" { project = trellis_project.shop.id }

output "port" { value = data.trellis_outputs.shop.ports["web:80"] }
output "state" { value = data.trellis_services.shop.services["web"].state }
output "routes" { value = length(data.trellis_routes.shop.routes) }
`

// TestTerraform is the life of a project in terraform's hands: applied, then nothing to plan; changed, drifted, brought
// back; imported; its errors with their place; and destroyed, with nothing left.
func TestTerraform(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	file := func(version string) string {
		text := strings.Replace(shop(port, 1, version, ""), "VERSION:", `LOUD: "${LOUD}", ACCESS: "${KEY}", VERSION:`, 1)
		return text + "configs: {settings: {content: \"a=1\"}}\n"
	}
	p := newTerraformed(t, map[string]string{
		"compose.yaml": file("v1"), "other.yaml": "services: {web: {environment: {VERSION: other}}}\n", "main.tf": mainTF, "ledger/.keep": "",
	})
	wantIn(t, p.terraform("plan"), `"services.web.environment.LOUD"`, `= "no"`, "Plan: 1 to add")
	out := p.terraform("apply", "-auto-approve")
	wantIn(t, out, fmt.Sprintf("port = %d", port), `state = "healthy"`, "routes = 0")
	wantIn(t, get(t, url(port)+"/env"), "LOUD=no", "ACCESS=xyzzy")
	if state := string(p.read("terraform.tfstate")); strings.Count(state, "xyzzy") != 1 {
		t.Errorf("the secret is not where it was given and nowhere else:\n%s", state)
	}
	p.same()

	t.Log("a change of the file, and of a variable")
	p.write("compose.yaml", file("v2"))
	p.terraform("plan", "-out=tfplan", "-var=loud=yes")
	changes := p.planned("tfplan")
	if want := `{"services.web.environment.LOUD":["no","yes"],"services.web.environment.VERSION":["v1","v2"]}`; changes != want {
		t.Errorf("planned %s, want %s", changes, want)
	}
	p.terraform("apply", "tfplan")
	wantIn(t, get(t, url(port)+"/env"), "LOUD=yes", "VERSION=v2")
	p.terraform("plan", "-detailed-exitcode", "-var=loud=yes")
	p.terraform("apply", "-auto-approve")
	p.same()

	t.Log("a plan that is not about the present any more")
	p.write("compose.yaml", file("v3"))
	p.terraform("plan", "-out=tfplan")
	p.write("compose.yaml", file("v2"))
	wantIn(t, p.exits(1, "apply", "tfplan"), "inconsistent final plan", "services.web.environment.VERSION")
	p.same()

	t.Log("what was changed by hand")
	p.env = append(p.env, "LOUD=no", "KEY=xyzzy")
	p.run("scale", "web=2")
	wantIn(t, p.exits(2, "plan", "-detailed-exitcode"), `"services.web.deploy.replicas"`, `= "2" -> "1"`)
	p.terraform("apply", "-auto-approve")
	if got := p.instances("web"); len(got) != 1 {
		t.Errorf("%d instances of web, want 1", len(got))
	}
	p.same()
	p.run("up", "-d", "-f", "compose.yaml", "-f", "other.yaml")
	wantIn(t, p.exits(2, "plan", "-detailed-exitcode"), `= "other" -> "v2"`)
	p.terraform("apply", "-auto-approve")
	wantIn(t, get(t, url(port)+"/env"), "VERSION=v2")
	p.same()

	t.Log("import")
	p.terraform("state", "rm", "trellis_project.shop")
	wantIn(t, p.exits(1, "import", "trellis_project.shop", "compose.yaml?nmae=x"), `there is no "nmae"`)
	p.terraform("import", "trellis_project.shop", "compose.yaml")
	p.terraform("plan", "-out=tfplan")
	// What the secrets are is not part of what is imported.
	if got, want := p.planned("tfplan"), `{"services.web.environment.ACCESS":["xyzzy","***"]}`; got != want {
		t.Errorf("after the import it plans %s, want %s", got, want)
	}
	p.terraform("apply", "-auto-approve")
	p.same()

	t.Log("a file that is wrong")
	p.write("compose.yaml", strings.Replace(file("v2"), "replicas: 1", "replicsa: 1", 1))
	wantIn(t, p.exits(1, "plan"), "compose.yaml:9:14 services.web.deploy", "replicsa")

	t.Log("destroy, also where the file cannot be read any more")
	p.write("compose.yaml", "services: [")
	p.terraform("destroy", "-auto-approve", "-refresh=false")
	if s := p.ps(); s.Revision != 0 || len(s.Services) != 0 {
		t.Errorf("what is left: %+v", s)
	}
	p.write("compose.yaml", file("v2"))
}

// planned returns what a plan file changes of the configuration, as JSON of path to before and after.
func (p *terraformed) planned(file string) string {
	p.t.Helper()
	type side struct {
		Configuration map[string]string `json:"configuration"`
	}
	var plan struct {
		Changes []struct {
			Change struct{ Before, After side } `json:"change"`
		} `json:"resource_changes"`
	}
	if err := json.Unmarshal([]byte(p.terraform("show", "-json", file)), &plan); err != nil {
		p.t.Fatal(err)
	}
	changes := map[string][]string{}
	for _, c := range plan.Changes {
		before, after := c.Change.Before.Configuration, c.Change.After.Configuration
		for path, value := range before {
			if after[path] != value {
				changes[path] = []string{value, after[path]}
			}
		}
		for path, value := range after {
			if before[path] != value {
				changes[path] = []string{before[path], value}
			}
		}
	}
	b, err := json.Marshal(changes)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// TestTerraformKilled: terraform and all that it started dies in the middle of an apply, first of a new project and then
// of a change; each time the next apply finishes, and then there is nothing to plan.
func TestTerraformKilled(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	file := func(version string) string {
		return strings.Replace(shop(port, 1, version, ""), "VERSION:", `START_DELAY: 2s, VERSION:`, 1)
	}
	p := newTerraformed(t, map[string]string{"compose.yaml": file("v1"), "main.tf": strings.Split(mainTF, "data ")[0], "ledger/.keep": ""})
	for i, version := range []string{"v1", "v2"} {
		p.write("compose.yaml", file(version))
		cmd, out := p.command(context.Background(), "apply", "-auto-approve")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "revision is applied", func() string {
			if got := p.ps().Revision; got != int64(i+1) {
				return fmt.Sprintf("revision %d", got)
			}
			return ""
		})
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatalf("it was not killed:\n%s", out)
		}
		p.terraform("apply", "-auto-approve")
		wantIn(t, get(t, url(port)+"/env"), "VERSION="+version)
		if s := p.ps(); s.Revision != int64(i+1) || s.Outcome != "healthy" {
			t.Errorf("revision %d is %s", s.Revision, s.Outcome)
		}
		p.same()
	}
	p.terraform("destroy", "-auto-approve")
	if s := p.ps(); s.Revision != 0 {
		t.Errorf("what is left: %+v", s)
	}
}

// TestTerraformExport: what is exported is Terraform code as terraform itself would have it, passes its own tests, and run
// it is the project; it says the same every time, and what somebody has changed stays.
func TestTerraformExport(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	file := func(version string) string {
		return strings.Replace(shop(port, 2, version, "x-trellis: {environments: {cluster: {on: kubernetes, namespace: shops}}}\n"), "VERSION:", "DB_PASSWORD: hunter2, VERSION:", 1)
	}
	p := newTerraformed(t, map[string]string{"compose.yaml": file("v1"), "ledger/.keep": ""})
	p.run("export", "terraform", "infra", "--on", "local")
	p.terraform("fmt", "-check", "-recursive", "infra")
	first := p.tree("infra")
	for name, text := range first {
		if strings.Contains(text, "hunter2") {
			t.Errorf("%s has a secret in it:\n%s", name, text)
		}
	}
	if p.run("export", "terraform", "infra", "--on", "local"); !maps.Equal(first, p.tree("infra")) {
		t.Error("the same project became other files")
	}
	root := &terraformed{&project{t: t, dir: filepath.Join(p.dir, "infra/environments/production"), trellis: p.trellis, env: slices.Clone(p.env)}, p.program}
	root.terraform("init")
	root.terraform("validate")
	wantIn(t, root.terraform("test"), "6 passed, 0 failed")
	root.exits(1, "plan") // without the secret
	root.env = append(root.env, `TF_VAR_secret_environment={"web.DB_PASSWORD":"hunter2"}`)
	root.terraform("apply", "-auto-approve")
	wantIn(t, get(t, url(port)+"/env"), "DB_PASSWORD=hunter2", "VERSION=v1")
	root.same()
	if n := len(p.instances("web")); n != 2 {
		t.Errorf("%d instances, want the file's 2", n)
	}

	t.Log("what is the user's")
	root.write("terraform.tfvars", "replicas = { web = 1 }\n")
	p.write("compose.yaml", file("v2"))
	p.run("export", "terraform", "infra", "--on", "local")
	root.terraform("plan", "-out=tfplan")
	if got, want := root.planned("tfplan"), `{"services.web.deploy.replicas":["2","1"],"services.web.environment.VERSION":["v1","v2"]}`; got != want {
		t.Errorf("planned %s, want %s", got, want)
	}
	root.terraform("apply", "tfplan")
	root.write("main.tf", string(root.read("main.tf"))+"# mine\n")
	before := p.tree("infra")
	p.write("compose.yaml", file("v3"))
	if out, err := p.try("export", "terraform", "infra", "--on", "local"); err == nil || !strings.Contains(out, "infra/environments/production/main.tf was not written by an export, or was changed since") {
		t.Errorf("it writes over what was changed: %v\n%s", err, out)
	}
	if !maps.Equal(before, p.tree("infra")) {
		t.Error("an export that stops has written something")
	}

	t.Log("revisions")
	for _, dir := range []string{"r1", "again"} {
		p.run("export", "terraform", dir, "--on", "local", "--revision", "1")
	}
	if one, again := p.tree("r1"), p.tree("again"); !maps.Equal(one, again) || one["environments/production/compose.yaml"] == "" {
		t.Error("revision 1 is not the same every time")
	} else if text := one["environments/production/compose.yaml"]; !strings.Contains(text, "VERSION: v1") || strings.Contains(text, "hunter2") {
		t.Errorf("revision 1 is\n%s", text)
	}
	root.terraform("destroy", "-auto-approve")
}

// tree returns the files of a folder that an export writes, by name.
func (p *terraformed) tree(dir string) map[string]string {
	p.t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(filepath.Join(p.dir, dir)), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".terraform") {
			return fs.SkipDir
		}
		if !d.IsDir() && !strings.HasPrefix(d.Name(), ".terraform") && !strings.Contains(d.Name(), "tfstate") && d.Name() != "tfplan" {
			files[name] = string(p.read(filepath.Join(dir, name)))
		}
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return files
}
