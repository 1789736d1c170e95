//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// dockerNames counts the projects in the engine, which has them by their names. None begins with another one.
var dockerNames atomic.Int32

func dockerName() string { return fmt.Sprintf("kiosk%02d", dockerNames.Add(1)) }

// dockerProject is a project of a name whose folder has what its images are built from. The test is skipped where there is no
// engine and DRIVERS does not name docker.
func dockerProject(t testing.TB, name string, files map[string]string) *project {
	t.Helper()
	needsDocker(t)
	leavesNothingInDocker(t, name)
	p := newProject(t, files)
	p.imageFiles(".")
	return p
}

// leavesNothingInDocker looks, after the project that is made next was taken down, for what the engine still has of it.
func leavesNothingInDocker(t testing.TB, project string) {
	t.Helper()
	t.Cleanup(func() {
		for what, list := range leftInDocker(t, project) {
			for _, name := range list {
				of, _ := exec.Command("docker", what, "inspect", name).CombinedOutput()
				t.Errorf("left in Docker: %s %s: %s", what, name, of)
				_ = exec.Command("docker", what, "rm", "-f", name).Run()
			}
		}
	})
}

// dockerImage builds the image of testapp under a name, until the test's end.
func dockerImage(t testing.TB, name string) string {
	t.Helper()
	p := &project{t: t, dir: t.TempDir()}
	p.imageFiles(".")
	docker(t, "build", "-q", "-t", name, p.dir)
	t.Cleanup(func() { docker(t, "image", "rm", "-f", name) })
	return name
}

// TestDocker runs its tests in one engine, side by side and beside those of processes.
func TestDocker(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"plain file": dockerPlainFile, "image behind the same name": dockerImageBehindTheSameName, "tag that moved": dockerTagThatMoved,
		"and processes together": dockerAndProcessesTogether, "through published ports": dockerThroughPublishedPorts, "calls are the list": dockerCalls,
		"without an engine": dockerWithoutAnEngine, "limits": dockerLimits, "drift": dockerDrift, "agrees with other engines": dockerAgrees,
		"volumes of every slot": dockerVolumesOfEverySlot, "second checkout": dockerSecondCheckout,
		"takes over from docker compose": dockerTakesOverFromDockerCompose,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

func needsDocker(t testing.TB) {
	t.Helper()
	if err := exec.Command("docker", "version").Run(); err != nil {
		if slices.Contains(strings.Split(os.Getenv("DRIVERS"), ","), "docker") {
			t.Fatalf("DRIVERS names docker, and no engine is reachable: %v", err)
		}
		t.Skip("no Docker engine is reachable (DRIVERS=docker makes this fail)")
	}
}

// imageFiles writes what the image of testapp is built from.
func (p *project) imageFiles(dir string) {
	p.t.Helper()
	content, err := os.ReadFile(built.app)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(filepath.Join(dir, "Dockerfile"), "FROM scratch\nCOPY testapp /testapp\nENTRYPOINT [\"/testapp\"]\n")
	p.write(filepath.Join(dir, ".dockerignore"), "ledger\ncompose*.yaml\n")
	p.write(filepath.Join(dir, "testapp"), string(content))
	if err := os.Chmod(filepath.Join(p.dir, dir, "testapp"), 0o755); err != nil {
		p.t.Fatal(err)
	}
}

// docker runs the docker command.
func docker(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// leftInDocker names what the engine has of a project.
func leftInDocker(t testing.TB, project string) map[string][]string {
	t.Helper()
	left := map[string][]string{}
	for what, args := range map[string][]string{"container": {"-a"}, "network": nil, "volume": nil} {
		format := "{{.Name}}"
		if what == "container" {
			format = "{{.Names}}"
		}
		list := append([]string{what, "ls", "--filter", "name=" + project, "--format", format}, args...)
		left[what] = strings.Fields(docker(t, list...))
	}
	return left
}

// plainShop is a Compose file as anybody has it: nothing of Trellis in it.
func plainShop(name string, port int, version string) string {
	return fmt.Sprintf(`name: %s
services:
  web:
    build: .
    ports: ["%d:80"]
    environment: {VERSION: "%s", LEDGER: /ledger/web}
    volumes: ["./ledger:/ledger"]
    deploy: {replicas: 2}
    depends_on: [api]
  api:
    build: .
    environment: {VERSION: api}
    volumes: ["data:/data"]
    expose: ["80"]
volumes:
  data:
`, name, port, version)
}

// dockerCalls: who calls is known of containers too.
func dockerCalls(t *testing.T) {
	name := dockerName()
	callsAreTheList(t, dockerProject(t, name, nil), name, "build: .", "")
}

// dockerPlainFile: a Compose file without a word of Trellis runs, is redeployed and killed under load, survives its
// control plane, and leaves nothing but its volumes.
func dockerPlainFile(t *testing.T) {
	name, port := dockerName(), freePort(t)
	p := dockerProject(t, name, map[string]string{"compose.yaml": plainShop(name, port, "v0"), "ledger/.keep": ""})
	if out := p.run("check"); strings.Contains(out, "has no effect") {
		t.Errorf("check says of a plain file:\n%s", out)
	}
	p.run("up", "-d")
	if v := version(t, port); v != "v0" {
		t.Errorf("version %q", v)
	}
	if got := get(t, url(port)+"/fetch?url=http://api/"); !strings.Contains(got, `"version":"api"`) {
		t.Errorf("web does not reach api by name: %s", got)
	}
	tr := underLoad(t, url(port), 150, func() {
		for i := 1; i <= 3; i++ {
			p.write("compose.yaml", plainShop(name, port, fmt.Sprint("v", i)))
			p.run("up", "-d")
		}
	})
	tr.NoneLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	if v := version(t, port); v != "v3" {
		t.Errorf("version %q after the last deploy", v)
	}
	if out := p.run("up", "-d"); strings.Contains(out, "r5") {
		t.Errorf("an up without a change made a revision:\n%s", out)
	}

	tr = underLoad(t, url(port), 150, func() {
		for range 3 {
			killed := p.instances("web")[0].PID
			signal(t, killed, "KILL")
			eventually(t, 30*time.Second, "the killed instance replaced", func() string {
				live := p.instances("web")
				if len(live) == 2 && live[0].PID != killed && live[1].PID != killed && serviceOf(t, p.ps(), "web").Ready == 2 {
					return ""
				}
				return fmt.Sprint(pids(p.ps()))
			})
		}
	})
	tr.NoGetLost(t)

	before := pids(p.ps())
	tr = underLoad(t, url(port), 150, func() {
		pid := own(p.ps())["control"]
		signal(t, pid, "KILL")
		p.back(map[string]int{"control": pid}, 2)
	})
	tr.NoneLost(t)
	if after := pids(p.ps()); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("containers restarted with the control plane: %v, then %v", before, after)
	}

	p.run("down")
	left := leftInDocker(t, name)
	if len(left["container"])+len(left["network"]) > 0 || !slices.Equal(left["volume"], []string{name + "_data"}) {
		t.Errorf("down left %v, want the volume alone", left)
	}
}

// dockerImageBehindTheSameName: what was built anew is a new revision although no line of the file changed, and a
// rollback brings the image back.
func dockerImageBehindTheSameName(t *testing.T) {
	name, port := dockerName(), freePort(t)
	p := dockerProject(t, name, map[string]string{"compose.yaml": fmt.Sprintf("name: %s\nservices:\n  web:\n    build: .\n    ports: [\"%d:80\"]\n", name, port)})
	p.dockerfile("one")
	p.run("up", "-d")
	p.dockerfile("two")
	if out := p.run("plan"); !strings.Contains(out, "image_id") || !strings.Contains(out, "rollout") {
		t.Errorf("the plan does not speak of the image:\n%s", out)
	}
	p.run("up", "-d")
	if v := version(t, port); v != "two" {
		t.Errorf("version %q", v)
	}
	p.run("rollback", "--yes")
	if v := version(t, port); v != "one" {
		t.Errorf("version %q after the rollback", v)
	}
	p.write("Dockerfile", "FROM scratch\nCOPY nothing /\n")
	if out, err := p.try("up", "-d"); err == nil || !strings.Contains(out, "nothing") || !strings.Contains(out, "services.web.build") {
		t.Errorf("a build that fails: %v\n%s", err, out)
	}
}

// dockerfile has the project build the suite's program, which says that it is of a version.
func (p *project) dockerfile(version string) {
	p.write("Dockerfile", "FROM scratch\nENV VERSION="+version+"\nCOPY testapp /testapp\nENTRYPOINT [\"/testapp\"]\n")
}

// dockerTagThatMoved: what runs is the image that the tag named when it was deployed, also after a crash and in a rollback.
func dockerTagThatMoved(t *testing.T) {
	longAlone(t)
	name, port := dockerName(), freePort(t)
	t.Cleanup(func() { _ = exec.Command("docker", "image", "rm", "-f", "kiosk-two", "kiosk-moving").Run() })
	p := dockerProject(t, name, map[string]string{"compose.yaml": fmt.Sprintf(
		"name: %s\nservices:\n  web:\n    image: kiosk-moving\n    pull_policy: never\n    ports: [\"%d:80\"]\n", name, port)})
	for _, v := range []string{"one", "two"} {
		p.dockerfile(v)
		docker(t, "build", "-q", "-t", "kiosk-"+v, p.dir)
	}
	docker(t, "tag", "kiosk-one", "kiosk-moving")
	p.run("up", "-d")
	docker(t, "tag", "kiosk-two", "kiosk-moving")
	killed := p.instances("web")[0].PID
	signal(t, killed, "KILL")
	p.ready("web", 1, map[int]bool{killed: true}, time.Minute)
	if v := version(t, port); v != "one" {
		t.Errorf("the tag moved, and after a crash %q serves", v)
	}
	p.run("up", "-d")
	if v := version(t, port); v != "two" {
		t.Errorf("version %q after a deploy of the tag that moved", v)
	}
	p.run("rollback", "--yes")
	if v := version(t, port); v != "one" {
		t.Errorf("version %q after the rollback", v)
	}
	p.run("up", "-d")
	docker(t, "image", "rm", "-f", "kiosk-one")
	began := time.Now()
	out, err := p.try("rollback", "--yes", "1")
	if took := time.Since(began); err == nil || !strings.Contains(out, "there is no image") || took > 20*time.Second {
		t.Errorf("a rollback to an image that was removed took %s: %v\n%s", took, err, out)
	}
	if v := version(t, port); v != "two" {
		t.Errorf("version %q after a rollback that could not be", v)
	}
}

// dockerAndProcessesTogether: containers and processes of one project reach each other by name, and secrets, configs
// and one-off commands are there.
func dockerAndProcessesTogether(t *testing.T) {
	name, port, other := dockerName(), freePort(t), freePort(t)
	p := dockerProject(t, name, map[string]string{"token": "sesame", "compose.yaml": fmt.Sprintf(`name: %s
services:
  web:
    build: .
    ports: ["%d:80"]
    environment: {VERSION: container}
    secrets: [token]
    user: "1234"
    read_only: true
    configs: [{source: motd, target: /motd, mode: 0440, uid: "1234"}]
  tool:
    ports: ["%d:80"]
    environment: {VERSION: process}
    x-trellis: {process: {command: [%s]}}
secrets:
  token: {file: ./token}
configs:
  motd: {content: "good day"}
`, name, port, other, built.app)})
	p.run("up", "-d")
	for from, want := range map[string]string{url(port) + "/fetch?url=http://tool/": "process", url(other) + "/fetch?url=http://web/": "container"} {
		if got := get(t, from); !strings.Contains(got, fmt.Sprintf(`"version":%q`, want)) {
			t.Errorf("%s: %s", from, got)
		}
	}
	for path, want := range map[string]string{"/run/secrets/token": "sesame", "/motd": "good day"} {
		if got := get(t, url(port)+"/file?path="+path); !strings.Contains(got, want) {
			t.Errorf("%s: %q", path, got)
		}
	}
	// The service is moved from one driver to the other without a request lost.
	tr := underLoad(t, url(port), 100, func() {
		p.write("compose.yaml", strings.Replace(string(p.read("compose.yaml")), "    read_only: true\n",
			"    x-trellis: {process: {command: ["+built.app+"]}}\n", 1))
		p.run("up", "-d")
	})
	tr.NoneLost(t)
	if left := leftInDocker(t, name); len(left["container"]) > 0 {
		t.Errorf("containers are left of what is a process now: %v", left["container"])
	}
	out, err := p.try("up", "-d", "--driver", "docker")
	if err == nil || !strings.Contains(out, "tool") {
		t.Errorf("a service without an image as a container: %v\n%s", err, out)
	}
}

func (p *project) read(name string) []byte {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// dockerThroughPublishedPorts: where containers cannot be reached at their addresses everything but the mesh works.
func dockerThroughPublishedPorts(t *testing.T) {
	name, port := dockerName(), freePort(t)
	p := dockerProject(t, name, map[string]string{"compose.yaml": plainShop(name, port, "v1"), "ledger/.keep": ""})
	p.env = append(p.env, "TRELLIS_DOCKER_PUBLISHED=1")
	if out := p.run("check"); !strings.Contains(out, "published on 127.0.0.1") {
		t.Errorf("check does not say how containers are reached:\n%s", out)
	}
	p.run("up", "-d")
	if got := get(t, url(port)+"/fetch?url=http://api/"); !strings.Contains(got, `"version":"api"`) {
		t.Errorf("web does not reach api by name: %s", got)
	}
	tr := underLoad(t, url(port), 100, func() {
		p.write("compose.yaml", plainShop(name, port, "v2"))
		p.run("up", "-d")
	})
	tr.NoneLost(t)
}

// dockerWithoutAnEngine: one error with what to do, and nothing is begun.
func dockerWithoutAnEngine(t *testing.T) {
	p := newProject(t, map[string]string{"compose.yaml": plainShop(dockerName(), freePort(t), "v1")})
	p.env = append(p.env, "DOCKER_HOST=unix:///nonexistent/docker.sock")
	p.run("check")
	out, err := p.try("up", "-d")
	if err == nil || !strings.Contains(out, "/nonexistent/docker.sock") || !strings.Contains(out, "start Docker") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(p.dir, ".trellis")); err == nil {
		t.Error("state was made for a project that cannot run")
	}
}

// inspected is a part of `docker inspect`.
type inspected struct {
	HostConfig struct {
		Memory        int64
		NanoCpus      int64
		RestartPolicy struct{ Name string }
	}
}

// dockerLimits: what the file bounds the engine bounds, and an instance that used up its memory is said to have.
func dockerLimits(t *testing.T) {
	name := dockerName()
	p := dockerProject(t, name, map[string]string{"compose.yaml": "name: " + name + `
services:
  web:
    build: .
    deploy: {resources: {limits: {cpus: "0.5", memory: 64M}}}
`})
	p.run("up", "-d")
	var all []inspected
	if err := json.Unmarshal([]byte(docker(t, "inspect", p.instances("web")[0].Container)), &all); err != nil {
		t.Fatal(err)
	}
	if h := all[0].HostConfig; h.Memory != 64<<20 || h.NanoCpus != 5e8 || h.RestartPolicy.Name != "no" {
		t.Errorf("%+v", h)
	}
}

// dockerSecondCheckout has two checkouts of one project: the names of containers and volumes are the machine's, so that the
// second one has to be a copy.
func dockerSecondCheckout(t *testing.T) {
	name, port := dockerName(), freePort(t)
	files := map[string]string{"compose.yaml": plainShop(name, port, "first"), "ledger/.keep": ""}
	first, second := dockerProject(t, name, files), newProject(t, files)
	second.imageFiles(".")
	second.write("compose.yaml", plainShop(name, port, "second"))
	first.run("up", "-d")
	out, err := second.try("up", "-d")
	if err == nil || !strings.Contains(out, "has containers from "+first.dir) || !strings.Contains(out, "--copy NAME") {
		t.Errorf("a second checkout: %v\n%s", err, out)
	}
	if _, err := second.try("ps"); err == nil {
		if svc := second.ps().Services; len(svc) > 0 {
			t.Errorf("of what was refused there is %+v", svc)
		}
	}
	second.flags = []string{"--copy", "fix"}
	second.run("up", "-d")
	at := second.published()
	if at == port || version(t, port) != "first" || version(t, at) != "second" {
		t.Errorf("the first at %d is %s, the copy at %d is %s", port, version(t, port), at, version(t, at))
	}
	second.run("down", "--volumes", "--yes")
	if v := version(t, port); v != "first" {
		t.Errorf("after the copy went the first is %s", v)
	}
}
