package docker

import (
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"trellis/driver"
)

func said(all []driver.Deviation) []string {
	var lines []string
	for _, dev := range all {
		lines = append(lines, fmt.Sprintf("%s %s: %v -> %v", dev.Field, dev.Key, dev.Want, dev.Have))
	}
	return lines
}

// TestExamineReadsTheEngine: what is created from a spec is as the spec says, and each thing that docker update and the
// like change is seen.
func TestExamineReadsTheEngine(t *testing.T) {
	spec := driver.Spec{
		Image: "sha256:aa", Command: []string{"serve"}, Env: []string{"COLOR=blue", "EMPTY="}, Limits: driver.Limits{CPUs: 0.5, Memory: 64 << 20, Pids: 50},
		Container: &driver.Container{Networks: []driver.Network{{Name: "shop_default", Key: "default"}}, CPUSet: "0", CPUShares: 512},
	}
	d := &Driver{}
	host, config := hostConfig(spec), d.config(spec)
	if all := append(programOf(spec, config), grantsOf(spec, host)...); len(all) > 0 {
		t.Fatalf("as it was made, and it says %q", said(all))
	}
	host.NanoCPUs, host.CPUQuota, host.CPUPeriod = 0, 25000, 100000
	host.Memory, host.PidsLimit, host.CPUShares, host.CpusetCpus, host.MemoryReservation = 32<<20, nil, 0, "0-1", 16<<20
	host.RestartPolicy.Name = container.RestartPolicyAlways
	config.Image, config.Cmd, config.Env = "sha256:bb", []string{"serve", "-v"}, []string{"COLOR=green", "MORE=1"}
	want := []string{
		"image : sha256:aa -> sha256:bb", "command : serve -> serve -v", "env COLOR: blue -> green", "env EMPTY:  -> <nil>",
		"limit cpus: 0.5 -> 0.25", "limit memory: 67108864 -> 33554432", "limit pids: 50 -> <nil>", "limit cpu_shares: 512 -> <nil>",
		"limit cpuset: 0 -> 0-1", "limit mem_reservation: <nil> -> 16777216", "restart : no -> always",
	}
	if diff := cmp.Diff(want, said(append(programOf(spec, config), grantsOf(spec, host)...))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	holder := container.InspectResponse{NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{"theirs": {}}}}
	want = []string{"network shop_default: joined -> <nil>", "network theirs: <nil> -> joined"}
	if diff := cmp.Diff(want, said(networksOf(spec, holder))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestExamineFiles(t *testing.T) {
	dir := t.TempDir()
	source := dir + "/source"
	if err := os.WriteFile(source, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &Driver{cfg: Config{RuntimeDir: dir}}
	spec := driver.Spec{ID: "shop/web-1-aa", Files: []driver.File{{Source: source, Target: "/run/secrets/password", Secret: true}}}
	check := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, said(d.examineFiles(spec))); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	check("file /run/secrets/password: content -> <nil>")
	if err := d.writeFiles(spec, owner{}); err != nil {
		t.Fatal(err)
	}
	check()
	if err := os.WriteFile(d.filePath(spec.ID, 0), []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	check("file /run/secrets/password: content -> another content")
}
