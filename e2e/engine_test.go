//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"trellis/api"
	"trellis/engine"
	"trellis/engine/enginetest"
)

// TestEngine runs the suite of every engine on each engine and driver that is here. ENGINES and DRIVERS name those that
// have to be: one that is not fails.
func TestEngine(t *testing.T) {
	t.Parallel()
	for _, name := range strings.FieldsFunc(os.Getenv("ENGINES"), func(r rune) bool { return r == ',' }) {
		if !slices.Contains([]string{"local", "kubernetes"}, name) { // the latter is TestKubernetesEngine's
			t.Errorf("ENGINES names %s, which this suite cannot reach", name)
		}
	}
	for _, name := range strings.FieldsFunc(os.Getenv("DRIVERS"), func(r rune) bool { return r == ',' }) {
		if !slices.Contains([]string{"process", "docker"}, name) {
			t.Errorf("DRIVERS names %s, which this suite cannot reach", name)
		}
	}
	secret := map[string]string{"ledger/.keep": "", "secret.txt": enginetest.Secret}
	t.Run("local process", func(t *testing.T) {
		t.Parallel()
		enginetest.Run(t, enginetest.Target{
			Service: []string{"image: testapp"}, Trellis: []string{"process: {command: [" + built.app + "]}"}, Program: built.app,
			New: func(t *testing.T, without ...string) enginetest.Project {
				return newEngineProject(newProject(t, secret), "shop", without)
			},
		})
	})
	t.Run("local docker", func(t *testing.T) {
		t.Parallel()
		needsDocker(t)
		image := dockerImage(t, "trellis-engine-suite")
		var projects atomic.Int32 // their names are the machine's
		enginetest.Run(t, enginetest.Target{
			Service: []string{"image: " + image, "pull_policy: never"}, Program: "/testapp", Slow: true, Brief: !long(t),
			New: func(t *testing.T, without ...string) enginetest.Project {
				name := fmt.Sprintf("shop%03d", projects.Add(1))
				leavesNothingInDocker(t, name)
				return newEngineProject(newProject(t, secret), name, without)
			},
		})
	})
}

// engineProject is a project as enginetest wants it, carried out by the command.
type engineProject struct {
	*project
	name string
	port int
}

func newEngineProject(p *project, name string, without []string) *engineProject {
	if len(without) > 0 {
		p.env = append(p.env, "TRELLIS_WITHOUT="+strings.Join(without, ","))
	}
	return &engineProject{p, name, freePort(p.t)}
}

func (p *engineProject) Name() string    { return p.name }
func (p *engineProject) Port() int       { return p.port }
func (p *engineProject) Address() string { return url(p.port) }
func (p *engineProject) Ledger() string  { return "./ledger" }

func (p *engineProject) do(args ...string) error {
	if out, err := p.try(args...); err != nil {
		return fmt.Errorf("trellis %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (p *engineProject) Apply(file string) error {
	p.write("compose.yaml", file)
	return p.do("up", "-d", "--yes", "--timeout", "2m")
}

func (p *engineProject) Rollback(revision int64) error {
	return p.do("rollback", strconv.FormatInt(revision, 10))
}

func (p *engineProject) Observe() (engine.State, error) {
	if _, err := os.Stat(p.dir + "/compose.yaml"); err != nil {
		return engine.State{}, err
	}
	var s api.Status
	err := p.ask(&s, "ps")
	return s.State, err
}

func (p *engineProject) Crash(id engine.InstanceID) error {
	for _, svc := range p.ps().Services {
		for _, in := range svc.Instances {
			if in.ID == id && in.PID > 1 {
				return exec.Command("kill", "-KILL", strconv.Itoa(in.PID)).Run()
			}
		}
	}
	return fmt.Errorf("%s does not run", id)
}

// Interrupt kills control plane, data plane and holder, and calls them back as a user does.
func (p *engineProject) Interrupt() error {
	killed := own(p.ps())
	for _, pid := range killed {
		if pid > 1 {
			_ = exec.Command("kill", "-KILL", strconv.Itoa(pid)).Run() // gone already: as well
		}
	}
	if err := p.do("up", "-d", "--yes", "--timeout", "2m"); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var s api.Status
		if err := p.ask(&s, "ps"); err == nil && own(s)["data"] != 0 {
			return nil
		}
	}
	return errors.New("Trellis did not come back")
}

func (p *engineProject) Delete() error { return p.do("down", "--volumes", "--yes") }
