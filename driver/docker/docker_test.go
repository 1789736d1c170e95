package docker

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"trellis/driver"
	"trellis/driver/drivertest"
)

// shimFile is the static shim, testImage the image of the suite's program; both are made once.
var shimFile, testImage string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if err := reachable(); err != nil {
		if slices.Contains(strings.Split(os.Getenv("DRIVERS"), ","), "docker") {
			fmt.Fprintln(os.Stderr, "DRIVERS names docker:", err)
			return 1
		}
		fmt.Fprintln(os.Stderr, "what needs a Docker engine is skipped:", err)
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "trellis-docker-")
	if err == nil {
		defer os.RemoveAll(dir)
		shimFile = filepath.Join(dir, "shim")
		err = compile("trellis/cmd/trellis-shim", shimFile)
	}
	if err == nil {
		testImage, err = programImage(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func reachable() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	engine, err := Open("")
	if err != nil {
		return err
	}
	defer engine.Close()
	return engine.Ping(ctx)
}

func needsEngine(t *testing.T) {
	t.Helper()
	if testImage == "" {
		t.Skip("no Docker engine is reachable (set DRIVERS=docker to make this fail)")
	}
}

// compile builds a static program.
func compile(pkg, file string) error {
	cmd := exec.Command("go", "build", "-o", file, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, out)
	}
	return nil
}

// programImage makes the image of the suite's program.
func programImage(dir string) (string, error) {
	file := filepath.Join(dir, "program")
	if err := compile("trellis/driver/docker/testdata/program", file); err != nil {
		return "", err
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	d, err := New(Config{StateDir: dir, RuntimeDir: dir, Shim: []string{file}})
	if err != nil {
		return "", err
	}
	const name = "trellis-drivertest:latest"
	return name, d.importPause(context.Background(), name, content)
}

// world makes a driver on an empty world.
func world(published bool) func(*testing.T) driver.Driver {
	return func(t *testing.T) driver.Driver {
		needsEngine(t)
		return open(t, t.TempDir(), published)
	}
}

func open(t *testing.T, dir string, published bool) *Driver {
	t.Helper()
	d, err := New(Config{
		Project: "drivertest", StateDir: filepath.Join(dir, "state"), RuntimeDir: filepath.Join(dir, "run"), Shim: []string{shimFile},
		Published: published,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.engine.Close() })
	return d
}

func TestDriver(t *testing.T) {
	// Where only the ways to an instance differ, only the sentences about them are asked again.
	ways := []string{"RestartKeepsAddressAndCounts", "ListReportsListeningPorts", "ListSurvivesReopen", "WatchWakesAndEndsOnCancel",
		"LeavesNothingBehind"}
	for name, only := range map[string][]string{"Direct": nil, "Published": ways} {
		t.Run(name, func(t *testing.T) {
			needsEngine(t)
			published := name == "Published"
			drivertest.Run(t, drivertest.Config{
				Only: only,
				New:  world(published),
				Reopen: func(t *testing.T, d driver.Driver) driver.Driver {
					return open(t, filepath.Dir(d.(*Driver).cfg.StateDir), published)
				},
				Spec:  programSpec,
				Count: processes,
				Dial: func(_ *testing.T, address string) (string, error) {
					c, err := net.DialTimeout("tcp", address, 5*time.Second)
					if err != nil {
						return "", err
					}
					defer c.Close()
					line, err := bufio.NewReader(c).ReadString('\n')
					return strings.TrimSpace(line), err
				},
				Leftovers: leftovers,
				ExtraEnv:  []string{"HOSTNAME", "HOME"},
				Wait:      30 * time.Second,
			})
		})
	}
}

// TestStrandedInstancesEnd: a container whose network has ended under it, or was made anew, ends too, says why, and is
// reached once it is started again.
func TestStrandedInstancesEnd(t *testing.T) {
	needsEngine(t)
	d := open(t, t.TempDir(), false)
	for name, happens := range map[string]func(ctx context.Context, holder string) error{
		"ended": func(ctx context.Context, holder string) error {
			_, err := d.engine.api.ContainerKill(ctx, holder, client.ContainerKillOptions{Signal: "SIGKILL"})
			return err
		},
		"anew": func(ctx context.Context, holder string) error {
			_, err := d.engine.api.ContainerRestart(ctx, holder, client.ContainerRestartOptions{Timeout: new(int)})
			return err
		},
	} {
		spec := programSpec(t, drivertest.Behaviour{Listen: []int{80}}, driver.Spec{
			ID: driver.ID("drivertest/" + name + "-1-0000000a"), Project: "drivertest", Service: name, Slot: 1, Hash: "a", Revision: 1,
			Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
		})
		listed := func(what string, as func(driver.Instance) bool) {
			t.Helper()
			for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				all, err := d.List(t.Context(), "drivertest")
				i := slices.IndexFunc(all, func(i driver.Instance) bool { return i.ID == spec.ID })
				if err == nil && i >= 0 && as(all[i]) {
					return
				}
				if time.Now().After(end) {
					t.Fatalf("%s: not %s: %+v, %v", name, what, all, err)
				}
			}
		}
		listens := func(i driver.Instance) bool { return i.State == driver.Running && slices.Contains(i.Listening, 80) }
		if err := d.Start(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		listed("reached", listens)
		if err := happens(t.Context(), networkName(spec.ID)); err != nil {
			t.Fatal(err)
		}
		listed("ended", func(i driver.Instance) bool { return i.State == driver.Exited && i.Exit.Error == lost })
		if err := d.Start(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		listed("reached again", listens)
		if err := d.Stop(t.Context(), spec.ID, 0); err != nil {
			t.Error(err)
		}
		if err := d.Remove(t.Context(), spec.ID); err != nil {
			t.Error(err)
		}
	}
}

// programSpec makes the suite's program of spec. It runs below an init, as a program that does not handle signals has to
// in a container, and sees the machine's temporary directory.
func programSpec(_ *testing.T, b drivertest.Behaviour, spec driver.Spec) driver.Spec {
	// Below an init it would be the init that cannot start the program.
	spec.Image, spec.Command, spec.Init = testImage, drivertest.Command(b), !b.Missing
	if !b.Missing {
		spec.Command[0] = pauseProgram
	}
	spec.Container = &driver.Container{Entrypoint: []string{}}
	spec.Mounts = []driver.Mount{{Kind: "bind", Source: os.TempDir(), Target: os.TempDir()}}
	return spec
}

// processes counts the suite's programs, without the init above each.
func processes(marker string) int {
	n := drivertest.Processes(marker)
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return n
	}
	for _, file := range lines {
		line, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(line), "docker-init\x00") && strings.Contains(string(line), marker) {
			n--
		}
	}
	return n
}

// leftovers names the containers, networks and files of a world.
func leftovers(t *testing.T, drv driver.Driver) []string {
	d := drv.(*Driver)
	var left []string
	found, err := d.engine.api.ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: d.mine("drivertest")})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range found.Items {
		left = append(left, "container "+strings.Join(c.Names, " "))
	}
	networks, err := d.engine.api.NetworkList(t.Context(), client.NetworkListOptions{Filters: d.mine("drivertest")})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range networks.Items {
		left = append(left, "network "+n.Name)
	}
	for _, dir := range []string{filepath.Join(d.cfg.StateDir, "containers"), filepath.Join(d.cfg.RuntimeDir, "files")} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			left = append(left, filepath.Join(dir, e.Name()))
		}
	}
	return left
}

// TestARemovalGoesOn: one that ended in the middle, as with a control plane that was killed, is finished by the next one.
func TestARemovalGoesOn(t *testing.T) {
	needsEngine(t)
	d := open(t, t.TempDir(), false)
	spec := programSpec(t, drivertest.Behaviour{}, driver.Spec{
		ID: "halfway/web-1-0000000a", Project: "halfway", Service: "web", Slot: 1, Hash: "a", Revision: 1,
		Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
	})
	networks := func() []network.Summary {
		list, err := d.engine.api.NetworkList(t.Context(), client.NetworkListOptions{Filters: d.mine("halfway")})
		if err != nil {
			t.Fatal(err)
		}
		return list.Items
	}
	if err := d.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if len(networks()) == 0 {
		t.Fatal("no network was made")
	}
	for _, name := range []string{containerName(spec.ID), networkName(spec.ID)} {
		if _, err := d.engine.api.ContainerRemove(t.Context(), name, client.ContainerRemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Remove(t.Context(), spec.ID); err != nil {
		t.Fatal(err)
	}
	if left := networks(); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
	if d.used() {
		t.Error("records are left")
	}
}
