//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"trellis/api"
	"trellis/engine"
	"trellis/engine/enginetest"
)

// TestKubernetesEngine runs the suite of every engine in a real cluster, behind its data plane; with -short its brief form.
func TestKubernetesEngine(t *testing.T) {
	c := reachCluster(t)
	c.dataPlane()
	c.metricsAPI()
	t.Parallel()
	var projects atomic.Int32
	enginetest.Run(t, enginetest.Target{
		Service: []string{"image: " + c.image}, Program: "/testapp", Slow: true, Brief: testing.Short(), Unrouted: 5 * time.Second,
		New: func(t *testing.T, without ...string) enginetest.Project {
			at := *c
			at.t = t
			name := fmt.Sprintf("e2e-suite-%d", projects.Add(1))
			p := &clusterProject{project: at.project(name), c: &at, name: name, without: without, ledger: at.nodeFolder(name)}
			p.write("secret.txt", enginetest.Secret)
			return p
		},
	})
}

// nodeFolder makes a folder on the node that whoever runs in a pod may write, and returns its path.
func (c *testCluster) nodeFolder(name string) string {
	path := "/tmp/trellis-" + name
	c.inside("rm -rf " + path + " && mkdir -m 0777 " + path)
	c.t.Cleanup(func() { c.inside("rm -rf " + path) })
	return path
}

// clusterProject is a project in a cluster as enginetest wants it, carried out by the command.
type clusterProject struct {
	*project
	c       *testCluster
	name    string
	without []string // what its data plane is to do without
	ledger  string

	mu       sync.Mutex
	applying *exec.Cmd // the command that carries out something now
	address  string
}

func (p *clusterProject) Name() string   { return p.name }
func (p *clusterProject) Port() int      { return 8000 }
func (p *clusterProject) Ledger() string { return p.ledger }

// Address is the port of the node that the cluster has given to the published one. The node opens it a moment after the Service
// is there.
func (p *clusterProject) Address() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.address == "" {
		port := p.c.kubectl("", "get", "service", "web-public", "-n", p.name, "-o", "jsonpath={.spec.ports[0].nodePort}")
		at := net.JoinHostPort(p.c.node, port)
		eventually(p.t, 30*time.Second, "the node opens its port", func() string {
			conn, err := net.Dial("tcp", at)
			if err != nil {
				return err.Error()
			}
			_ = conn.Close()
			return ""
		})
		p.address = "http://" + at
	}
	return p.address
}

// do runs a command that Interrupt may kill.
func (p *clusterProject) do(args ...string) error {
	cmd := exec.Command(p.trellis, slices.Concat(p.flags, args)...)
	cmd.Dir, cmd.Env = p.dir, append(p.env, "NO_COLOR=1")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	p.mu.Lock()
	err := cmd.Start()
	p.applying = cmd
	p.mu.Unlock()
	if err == nil {
		err = cmd.Wait()
	}
	p.mu.Lock()
	p.applying = nil
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("trellis %s: %w\n%s", strings.Join(args, " "), err, out.String())
	}
	return nil
}

func (p *clusterProject) plane() string { return "deployment/trellis-" + p.name + "-data-plane" }

func (p *clusterProject) Apply(file string) error {
	p.write("compose.yaml", file)
	if err := p.do("up", "--yes", "--timeout", "2m"); err != nil {
		return err
	}
	if len(p.without) > 0 { // the data plane is there now
		p.c.kubectl("", "set", "env", p.plane(), "TRELLIS_WITHOUT="+strings.Join(p.without, ","), "-n", p.name)
		p.c.kubectl("", "rollout", "status", p.plane(), "-n", p.name, "--timeout=90s")
		p.without = nil
	}
	return nil
}

func (p *clusterProject) Rollback(revision int64) error {
	return p.do("rollback", "--yes", strconv.FormatInt(revision, 10))
}

func (p *clusterProject) Observe() (engine.State, error) {
	if _, err := os.Stat(filepath.Join(p.dir, "compose.yaml")); err != nil {
		return engine.State{}, err
	}
	var s api.Status
	err := p.ask(&s, "ps")
	return s.State, err
}

var errDead = errors.New("it does not run")

// kill kills the first process of the container called name in a pod, as the kernel does where memory is short.
func (c *testCluster) kill(namespace, pod, name string) error {
	id := c.kubectl("", "get", "pod", pod, "-n", namespace, "-o", `jsonpath={.status.containerStatuses[?(@.name=="`+name+`")].containerID}`)
	_, id, ok := strings.Cut(id, "://")
	if !ok {
		return fmt.Errorf("%s has no container %s", pod, name)
	}
	// The container's processes are in a cgroup of its name; their first is the oldest.
	script := fmt.Sprintf(`for p in $(ls /proc | grep -E '^[0-9]+$' | sort -n); do grep -q %s /proc/$p/cgroup 2>/dev/null && exec kill -KILL $p; done; exit 3`, id)
	var ended *exec.ExitError
	switch out, err := exec.Command(os.Getenv("CLUSTER_SH"), "enter", "sh", "-c", script).CombinedOutput(); {
	case errors.As(err, &ended) && ended.ExitCode() == 3:
		return fmt.Errorf("kill %s in %s: %w", name, pod, errDead)
	case err != nil:
		return fmt.Errorf("kill %s in %s: %w: %s", name, pod, err, out)
	}
	return nil
}

func (p *clusterProject) Crash(id engine.InstanceID) error {
	service, _, _ := strings.Cut(string(id), "-")
	return p.c.kill(p.name, string(id), service)
}

// Interrupt kills the command that carries something out, and both pods' data planes: there is nothing else of Trellis' own.
func (p *clusterProject) Interrupt() error {
	p.mu.Lock()
	if p.applying != nil {
		_ = p.applying.Process.Kill() // over already: as well
	}
	p.mu.Unlock()
	selector := []string{"get", "pods", "-n", p.name, "-l", "app.kubernetes.io/component=data-plane"}
	for pod := range strings.FieldsSeq(p.c.kubectl("", append(selector, "-o", "jsonpath={.items[*].metadata.name}")...)) {
		if err := p.c.kill(p.name, pod, "data-plane"); err != nil && !errors.Is(err, errDead) { // of the kill before: it waits to be started again
			return err
		}
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if out := p.c.kubectl("", "get", p.plane(), "-n", p.name, "-o", "jsonpath={.status.readyReplicas}"); out == "2" {
			return nil
		}
	}
	return errors.New("the data plane did not come back")
}

func (p *clusterProject) Delete() error { return p.do("down", "--volumes", "--yes") }
