//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// kubernetesProvider puts Terraform's own provider for Kubernetes into the mirror, built once.
var kubernetesProvider = sync.OnceValue(func() error {
	const version = "3.2.1"
	provider := filepath.Join(built.dir, "mirror/registry.terraform.io/hashicorp/kubernetes", version, runtime.GOOS+"_"+runtime.GOARCH, "terraform-provider-kubernetes_v"+version)
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", provider, "github.com/hashicorp/terraform-provider-kubernetes")
	build.Dir, build.Env = "../tools/terraform", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the provider for Kubernetes: %w\n%s", err, out)
	}
	return nil
})

// exported is a project, and a root that was exported of it, in the cluster.
type exported struct {
	*project
	root *terraformed
}

// export writes a project down as Terraform code for the cluster, in one form or the other, and checks what terraform itself
// says of it: format, validity, its own tests.
func (c *testCluster) export(p *terraformed, tests string, flags ...string) exported {
	c.t.Helper()
	e := exported{p.project, &terraformed{&project{t: c.t, dir: filepath.Join(p.dir, "infra/environments/production"), trellis: p.trellis, env: slices.Clone(p.env)}, p.program}}
	e.again(flags...)
	e.root.env = append(e.root.env, "TF_VAR_kubeconfig="+os.Getenv("KUBECONFIG"))
	p.terraform("fmt", "-check", "-recursive", "infra")
	e.root.terraform("init")
	e.root.terraform("validate")
	wantIn(c.t, e.root.terraform("test"), tests)
	return e
}

func (e exported) again(flags ...string) {
	e.t.Helper()
	e.run(append([]string{"export", "terraform", "infra"}, flags...)...)
}

// deleteVolumes has a destroy delete the data too; in the native form it always does.
const deleteVolumes = "-var=delete_volumes=true"

// infraShop is a project with a bit of everything: data, a job that is waited for, secrets of both kinds, a config.
func (c *testCluster) infraShop(name, level string) string {
	return fmt.Sprintf(`name: %[1]s
services:
  db:
    image: %[2]s
    environment: {PORT: "8080"}
    expose: ["8080"]
    volumes: ["data:/data"]
    x-trellis: {probe: {http: /healthz}}
  migrate:
    image: %[2]s
    environment: {EXIT: "0"}
    restart: "no"
    depends_on: {db: {condition: service_healthy}}
  web:
    image: %[2]s
    environment: {PORT: "8080", LEDGER: /dev/null, API_TOKEN: xyzzy, LEVEL: %[3]s, START_DELAY: 2s}
    ports: ["8080:8080"]
    secrets: [password]
    configs: [{source: settings, target: /etc/settings}]
    depends_on: {migrate: {condition: service_completed_successfully}}
    healthcheck: {interval: 1s, timeout: 1s, retries: 3}
    x-trellis: {probe: {http: /healthz}}
volumes: {data: {}}
secrets: {password: {file: password}}
configs: {settings: {content: "a=1"}}
`, name, c.image, level)
}

// TestKubernetesExportedTerraform is the life of exported code in a cluster, in both forms: it passes what terraform asks of
// code, is applied and then has nothing to plan; what was changed by hand is seen and brought back; it is killed in the middle
// and goes on with the next apply; what it has forgotten is imported; it leaves nothing.
func TestKubernetesExportedTerraform(t *testing.T) {
	c := reachCluster(t)
	for _, form := range []struct {
		name    string
		flags   []string
		destroy []string
		address string
		id      string // for an import, with the namespace
	}{
		{"e2e-infra", nil, []string{deleteVolumes}, "module.application.trellis_project.this", "./compose.yaml?project_directory=./../../..&engine=kubernetes&namespace=%s"},
		{"e2e-native", []string{"--standalone"}, nil, "kubernetes_manifest.deployment_web", "apiVersion=apps/v1,kind=Deployment,namespace=%s,name=web"},
	} {
		t.Run(form.name, func(t *testing.T) {
			c := &testCluster{t: t, node: c.node, image: c.image}
			t.Parallel()
			if err := kubernetesProvider(); err != nil {
				t.Fatal(err)
			}
			p := newTerraformed(t, map[string]string{"compose.yaml": c.infraShop(form.name, "one"), "password": "hunter2"})
			p.flags = nil
			t.Cleanup(func() { c.kubectl("", "delete", "namespace", form.name, "--ignore-not-found", "--wait=false") })
			e := c.export(p, "7 passed, 0 failed", form.flags...)
			first := p.tree("infra")
			for name, text := range first {
				if strings.Contains(text, "hunter2") || strings.Contains(text, "xyzzy") {
					t.Errorf("%s has a secret in it:\n%s", name, text)
				}
			}
			if e.again(form.flags...); !maps.Equal(first, p.tree("infra")) {
				t.Error("the same project became other files")
			}
			root := e.root
			root.exits(1, "plan", "-input=false") // without the secrets
			root.env = append(root.env, `TF_VAR_secrets={"password":"hunter2"}`, `TF_VAR_secret_environment={"web.API_TOKEN":"xyzzy"}`, "TRELLIS_SECRET_WEB_API_TOKEN=xyzzy")
			root.terraform("apply", "-auto-approve")
			same := func(level string) {
				t.Helper()
				root.terraform("plan", "-detailed-exitcode")
				if got := c.kubectl("", "-n", form.name, "get", "deployment", "web", "-o", `jsonpath={.status.readyReplicas} {.spec.template.spec.containers[0].env[?(@.name=="LEVEL")].value}`); got != "1 "+level {
					t.Errorf("web has %q, want one with %s", got, level)
				}
			}
			same("one")

			t.Log("changed by hand")
			c.kubectl("", "-n", form.name, "set", "env", "deployment/web", "LEVEL=hand")
			c.kubectl("", "-n", form.name, "scale", "deployment/web", "--replicas=2")
			wantIn(t, root.exits(2, "plan", "-detailed-exitcode"), `"hand"`, `"one"`)
			if cmd, out := root.command(t.Context(), "apply", "-auto-approve"); cmd.Run() != nil {
				// The README of the code says so of the native form: the cluster has numbered the change.
				if wantIn(t, out.String(), "inconsistent result", "deployment.kubernetes.io/revision"); len(form.flags) == 0 {
					t.Errorf("the provider of Trellis fails:\n%s", out)
				}
			}
			same("one")

			t.Log("killed in the middle of a change")
			p.write("compose.yaml", c.infraShop(form.name, "two"))
			e.again(form.flags...)
			c.killed(root, form.name)
			root.terraform("apply", "-auto-approve")
			same("two")

			t.Log("imported")
			root.terraform("state", "rm", form.address)
			root.terraform("import", "-input=false", form.address, fmt.Sprintf(form.id, form.name))
			root.terraform("apply", "-auto-approve")
			same("two")

			root.terraform(append([]string{"destroy", "-auto-approve"}, form.destroy...)...)
			eventually(t, time.Minute, "nothing is left", func() string {
				return c.kubectl("", "get", "namespace", form.name, "-o", "name", "--ignore-not-found")
			})
		})
	}
}

// killed begins an apply, and kills terraform and all that it started once the cluster has the change.
func (c *testCluster) killed(root *terraformed, namespace string) {
	c.t.Helper()
	cmd, out := root.command(context.Background(), "apply", "-auto-approve")
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, 2*time.Minute, "the change has arrived", func() string {
		level := c.kubectl("", "-n", namespace, "get", "deployment", "web", "-o", `jsonpath={.spec.template.spec.containers[0].env[?(@.name=="LEVEL")].value}`)
		if level != "two" {
			return level
		}
		return ""
	})
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		c.t.Logf("it had ended before:\n%s", out)
	}
}

// TestKubernetesExportsPublicProjects: three public Compose projects as code, in both forms, applied without their pods: no
// image of theirs is here.
func TestKubernetesExportsPublicProjects(t *testing.T) {
	c := reachCluster(t)
	for _, name := range []string{"wordpress", "gitea", "tracing"} {
		for form, flags := range map[string][]string{"trellis": nil, "native": {"--standalone"}} {
			t.Run(name+"/"+form, func(t *testing.T) {
				c := &testCluster{t: t, node: c.node, image: c.image}
				t.Parallel()
				if err := kubernetesProvider(); err != nil {
					t.Fatal(err)
				}
				text, err := os.ReadFile(filepath.Join("../engine/kubernetes/testdata/public", name, "compose.yaml"))
				if err != nil {
					t.Fatal(err)
				}
				namespace := "e2e-" + name + "-" + form
				p := newTerraformed(t, map[string]string{"compose.yaml": fmt.Sprintf("name: %s\n%s", namespace, text)})
				p.flags = nil
				t.Cleanup(func() { c.kubectl("", "delete", "namespace", namespace, "--ignore-not-found", "--wait=false") })
				e := c.export(p, "0 failed", flags...)
				e.root.env = append(e.root.env,
					"TF_VAR_replicas="+e.named(`(?s)# replicas = \{(.*?)# \}`, "terraform.tfvars", 0),
					"TF_VAR_secret_environment="+e.named(`(?s)secret_environment = \{(.*?)\}`, "tests/root.tftest.hcl", "for the test"))
				e.root.terraform("apply", "-auto-approve")
				e.root.terraform("plan", "-detailed-exitcode")
				destroy := []string{"destroy", "-auto-approve"}
				if form == "trellis" {
					destroy = append(destroy, deleteVolumes)
				}
				e.root.terraform(destroy...)
			})
		}
	}
}

var keyInQuotes = regexp.MustCompile(`"([^"]+)" *=`)

// named returns an object of Terraform's that has a value for each key of one that is written in a file of the root, which
// the pattern finds.
func (e exported) named(pattern, file string, value any) string {
	e.t.Helper()
	all := map[string]any{}
	if found := regexp.MustCompile(pattern).FindSubmatch(e.root.read(file)); found != nil {
		for _, key := range keyInQuotes.FindAllSubmatch(found[1], -1) {
			all[string(key[1])] = value
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		e.t.Fatal(err)
	}
	return string(text)
}
