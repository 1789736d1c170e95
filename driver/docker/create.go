package docker

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"trellis/driver"
	kinds "trellis/errdefs"
)

// The bounds of an instance's output where the file gives none.
const (
	defaultLogSize  = 10 << 20
	defaultLogFiles = 3
)

func containerOf(spec driver.Spec) driver.Container {
	if spec.Container == nil {
		return driver.Container{}
	}
	return *spec.Container
}

// create makes the container of an instance, in the network of another one ("" the machine's).
func (d *Driver) create(ctx context.Context, spec driver.Spec, holder string) (string, error) {
	opt := client.ContainerCreateOptions{Name: containerName(spec.ID), Config: d.config(spec), HostConfig: hostConfig(spec)}
	if holder != "" {
		opt.HostConfig.NetworkMode = container.NetworkMode("container:" + holder)
	} else {
		opt.HostConfig.NetworkMode = "host"
		opt.Config.Hostname = spec.Hostname
		for name, address := range spec.Hosts {
			opt.HostConfig.ExtraHosts = append(opt.HostConfig.ExtraHosts, name+":"+address)
		}
	}
	if p := containerOf(spec).Platform; p != "" {
		opt.Platform = platformOf(p)
	}
	mounts, err := d.mounts(ctx, spec)
	if err != nil {
		return "", err
	}
	opt.HostConfig.Mounts = mounts
	if err := d.writeFiles(spec, owner{}); err != nil {
		return "", err
	}
	made, err := d.engine.api.ContainerCreate(ctx, opt)
	if isNotFound(err) {
		return "", fmt.Errorf("%w: there is no image %s here: `trellis pull` or `trellis build` gets it (%w)", kinds.ErrNotFound, spec.Image, err)
	}
	if err != nil {
		return "", fmt.Errorf("make the container: %w", kind(err))
	}
	return made.ID, nil
}

// config is what runs.
func (d *Driver) config(spec driver.Spec) *container.Config {
	ct := containerOf(spec)
	c := &container.Config{
		Image: spec.Image, Env: spec.Env, Cmd: spec.Command, Entrypoint: ct.Entrypoint, WorkingDir: spec.Dir, User: spec.User,
		StopSignal: spec.StopSignal, Labels: d.labels(spec, roleInstance), Tty: ct.TTY, OpenStdin: ct.OpenStdin,
		// Trellis probes by itself, from outside of the image.
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
	switch {
	case ct.Idle:
		c.Entrypoint, c.Cmd = append(d.pauseCommand(), "pause"), nil
	case ct.Entrypoint != nil && len(ct.Entrypoint) == 0:
		c.Entrypoint = []string{""}
	}
	return c
}

// hostConfig is what it gets of the machine.
func hostConfig(spec driver.Spec) *container.HostConfig {
	ct := containerOf(spec)
	init := spec.Init
	h := &container.HostConfig{
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled}, LogConfig: logConfig(spec.Log),
		CapAdd: spec.CapAdd, CapDrop: spec.CapDrop, GroupAdd: spec.GroupAdd, Privileged: spec.Privileged, ReadonlyRootfs: spec.ReadOnly,
		OomScoreAdj: spec.OomScore, ShmSize: spec.ShmSize, Init: &init, Runtime: ct.Runtime, Annotations: ct.Annotations,
		IpcMode: container.IpcMode(ct.IPC), PidMode: container.PidMode(ct.PID), SecurityOpt: ct.SecurityOpt, Sysctls: map[string]string{},
		Resources: container.Resources{
			NanoCPUs: int64(spec.Limits.CPUs * 1e9), Memory: spec.Limits.Memory, CPUShares: ct.CPUShares, CpusetCpus: ct.CPUSet,
			MemoryReservation: ct.MemoryReservation, MemorySwap: ct.MemorySwap, CgroupParent: ct.CgroupParent,
		},
	}
	maps.Copy(h.Sysctls, spec.Sysctls)
	if !spec.HostNetwork {
		for name := range netSysctls(spec.Sysctls) {
			delete(h.Sysctls, name) // the container that holds the network has them
		}
	}
	if spec.NoNewPrivileges {
		h.SecurityOpt = append(h.SecurityOpt, "no-new-privileges")
	}
	if spec.Limits.Pids != 0 {
		h.PidsLimit = &spec.Limits.Pids
	}
	for name, l := range spec.Ulimits {
		h.Ulimits = append(h.Ulimits, &units.Ulimit{Name: name, Soft: l.Soft, Hard: l.Hard})
	}
	for _, text := range ct.Devices {
		parts := strings.SplitN(text, ":", 3)
		m := container.DeviceMapping{PathOnHost: parts[0], PathInContainer: parts[0], CgroupPermissions: "rwm"}
		if len(parts) > 1 {
			m.PathInContainer = parts[1]
		}
		if len(parts) > 2 {
			m.CgroupPermissions = parts[2]
		}
		h.Devices = append(h.Devices, m)
	}
	return h
}

func logConfig(l driver.LogLimits) container.LogConfig {
	size, files := l.MaxSize, l.MaxFiles
	if size <= 0 {
		size = defaultLogSize
	}
	if files <= 0 {
		files = defaultLogFiles
	}
	return container.LogConfig{Type: "json-file", Config: map[string]string{
		"max-size": strconv.FormatInt(size, 10), "max-file": strconv.Itoa(files),
	}}
}

// mounts are those of the instance. Its volumes and the sources of its binds are there then.
func (d *Driver) mounts(ctx context.Context, spec driver.Spec) ([]mount.Mount, error) {
	var all []mount.Mount
	for _, m := range spec.Mounts {
		t := mount.Mount{Type: mount.Type(m.Kind), Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
		switch m.Kind {
		case "bind":
			if m.CreateSource {
				if err := os.MkdirAll(m.Source, 0o755); err != nil {
					return nil, fmt.Errorf("make the source of the mount at %s: %w", m.Target, err)
				}
			}
			if m.Propagation != "" {
				t.BindOptions = &mount.BindOptions{Propagation: mount.Propagation(m.Propagation)}
			}
		case "volume":
			if err := d.makeVolume(ctx, spec, m.Source); err != nil {
				return nil, err
			}
			t.VolumeOptions = &mount.VolumeOptions{NoCopy: m.NoCopy, Subpath: m.Subpath}
			if m.Subpath != "" && !d.engine.atLeast("1.45") {
				return nil, fmt.Errorf("%w: the subpath of the volume at %s needs a Docker engine with API 1.45 (Docker 26)", kinds.ErrUnsupported, m.Target)
			}
		case "tmpfs":
			t.TmpfsOptions = &mount.TmpfsOptions{SizeBytes: m.Size, Mode: os.FileMode(m.Mode)}
		default:
			return nil, fmt.Errorf("%w: mount of the kind %q", kinds.ErrUnsupported, m.Kind)
		}
		all = append(all, t)
	}
	if containerOf(spec).Idle {
		all = append(all, mount.Mount{Type: mount.TypeBind, Source: d.cfg.Shim[0], Target: pauseProgram, ReadOnly: true})
	}
	for i, f := range spec.Files {
		all = append(all, mount.Mount{Type: mount.TypeBind, Source: d.filePath(spec.ID, i), Target: f.Target, ReadOnly: true})
	}
	return all, nil
}
