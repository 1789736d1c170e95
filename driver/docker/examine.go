package docker

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"trellis/driver"
	kinds "trellis/errdefs"
)

var _ driver.Examiner = (*Driver)(nil)

// Examine implements driver.Examiner: what docker update, pause, network connect and disconnect change, and a container
// that somebody has put in the place of ours.
func (d *Driver) Examine(ctx context.Context, spec driver.Spec) ([]driver.Deviation, error) {
	all, err := d.examine(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("examine %s: %w", spec.ID, kind(err))
	}
	return all, nil
}

func (d *Driver) examine(ctx context.Context, spec driver.Spec) ([]driver.Deviation, error) {
	found, err := d.engine.api.ContainerInspect(ctx, containerName(spec.ID), client.ContainerInspectOptions{})
	if isNotFound(err) {
		return nil, fmt.Errorf("%w: it has no container", kinds.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	c := found.Container
	if !c.State.Running || c.Config.Labels[labelState] != d.cfg.StateDir || c.Config.Labels[labelHash] != spec.Hash {
		return nil, fmt.Errorf("%w: it does not run", kinds.ErrNotFound)
	}
	var all []driver.Deviation
	if c.State.Paused {
		all = append(all, driver.Deviation{
			Field: driver.DeviatesState, Want: "running", Have: "paused", Message: "it was paused; 'docker unpause' lets it go on",
		})
	}
	all = append(all, programOf(spec, c.Config)...)
	all = append(all, grantsOf(spec, c.HostConfig)...)
	all = append(all, d.examineFiles(spec)...)
	if spec.HostNetwork || spec.Container == nil {
		return all, nil
	}
	holder, err := d.engine.api.ContainerInspect(ctx, networkName(spec.ID), client.ContainerInspectOptions{})
	if isNotFound(err) {
		return append(all, driver.Deviation{
			Field: driver.DeviatesState, Want: "running", Have: "without a network", Message: "the container that holds its network was removed",
		}), nil
	}
	if err != nil {
		return nil, err
	}
	return append(all, networksOf(spec, holder.Container)...), nil
}

// programOf compares what runs: another image, command or environment is another container under our labels.
func programOf(spec driver.Spec, c *container.Config) []driver.Deviation {
	var all []driver.Deviation
	if spec.Image != c.Image {
		all = append(all, driver.Deviation{Field: driver.DeviatesImage, Want: spec.Image, Have: c.Image})
	}
	if len(spec.Command) > 0 && !containerOf(spec).Idle && !slices.Equal(spec.Command, c.Cmd) {
		all = append(all, driver.Deviation{Field: driver.DeviatesCommand, Want: strings.Join(spec.Command, " "), Have: strings.Join(c.Cmd, " ")})
	}
	have := map[string]string{}
	for _, kv := range c.Env {
		name, value, _ := strings.Cut(kv, "=")
		have[name] = value
	}
	for _, kv := range spec.Env {
		name, want, _ := strings.Cut(kv, "=")
		value, there := have[name]
		if there && value == want {
			continue
		}
		dev := driver.Deviation{Field: driver.DeviatesEnv, Key: name, Want: want}
		if there {
			dev.Have = value
		}
		all = append(all, dev)
	}
	return all
}

// grantsOf compares what the engine gives a container of the machine: all of it can be changed while it runs.
func grantsOf(spec driver.Spec, h *container.HostConfig) []driver.Deviation {
	ct := containerOf(spec)
	var all []driver.Deviation
	limit := func(name string, want, have any) {
		if want != have {
			all = append(all, driver.Deviation{Field: driver.DeviatesLimit, Key: name, Want: want, Have: have})
		}
	}
	var pids int64
	if h.PidsLimit != nil && *h.PidsLimit > 0 {
		pids = *h.PidsLimit
	}
	limit("cpus", cpusOf(int64(spec.Limits.CPUs*1e9)), cpusOf(cpuNanos(h)))
	limit("memory", some(spec.Limits.Memory), some(h.Memory))
	limit("pids", some(max(spec.Limits.Pids, 0)), some(pids))
	limit("cpu_shares", some(ct.CPUShares), some(h.CPUShares))
	limit("cpuset", someText(ct.CPUSet), someText(h.CpusetCpus))
	limit("mem_reservation", some(ct.MemoryReservation), some(h.MemoryReservation))
	if h.RestartPolicy.Name != container.RestartPolicyDisabled && h.RestartPolicy.Name != "" {
		all = append(all, driver.Deviation{
			Field: driver.DeviatesRestart, Want: string(container.RestartPolicyDisabled), Have: string(h.RestartPolicy.Name),
			Message: "the Docker engine restarts the container beside Trellis",
		})
	}
	return all
}

// cpuNanos is the limit on CPU, in whichever of its two ways it was set.
func cpuNanos(h *container.HostConfig) int64 {
	if h.NanoCPUs == 0 && h.CPUQuota > 0 {
		period := h.CPUPeriod
		if period == 0 {
			period = 100000
		}
		return h.CPUQuota * 1e9 / period
	}
	return h.NanoCPUs
}

func cpusOf(nanos int64) any {
	if nanos <= 0 {
		return nil
	}
	return float64(nanos) / 1e9
}

func some(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}

func someText(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// networksOf compares the networks that an instance is in.
func networksOf(spec driver.Spec, holder container.InspectResponse) []driver.Deviation {
	if spec.Container.NetworkMode != "" || len(spec.Container.Networks) == 0 || holder.NetworkSettings == nil {
		return nil
	}
	want := map[string]bool{}
	for _, n := range spec.Container.Networks {
		want[n.Name] = true
	}
	var all []driver.Deviation
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if _, in := holder.NetworkSettings.Networks[name]; !in {
			all = append(all, driver.Deviation{Field: driver.DeviatesNetwork, Key: name, Want: "joined", Message: "it was disconnected from the network " + name})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(holder.NetworkSettings.Networks)) {
		if !want[name] {
			all = append(all, driver.Deviation{Field: driver.DeviatesNetwork, Key: name, Have: "joined", Message: "it was connected to the network " + name})
		}
	}
	return all
}

// examineFiles compares the secrets and configs as they lie where the container has them from.
func (d *Driver) examineFiles(spec driver.Spec) []driver.Deviation {
	var all []driver.Deviation
	for i, f := range spec.Files {
		want, err := os.ReadFile(f.Source)
		if err != nil {
			continue // it is not there to compare with
		}
		have, err := os.ReadFile(d.filePath(spec.ID, i))
		switch {
		case err != nil:
			all = append(all, driver.Deviation{Field: driver.DeviatesFile, Key: f.Target, Want: "content", Message: "what is at " + f.Target + " was removed"})
		case !bytes.Equal(want, have):
			all = append(all, driver.Deviation{
				Field: driver.DeviatesFile, Key: f.Target, Want: "content", Have: "another content", Message: "the content at " + f.Target + " was changed",
			})
		}
	}
	return all
}
