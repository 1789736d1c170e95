package local

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
)

// mountsOf returns what a service mounts.
func mountsOf(p compose.Project, svc compose.Service) []driver.Mount {
	var all []driver.Mount
	for _, m := range svc.Volumes {
		mount := driver.Mount{
			Kind: m.Type, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly, CreateSource: m.CreateHostPath,
			Subpath: m.Subpath, Size: m.TmpfsSize, Mode: m.TmpfsMode,
		}
		if svc.Trellis.Process == nil {
			mount.Propagation, mount.NoCopy = m.Propagation, m.NoCopy
		}
		if m.Type == compose.MountVolume && m.Source != "" {
			mount.Source = volumeName(p, m.Source)
		}
		all = append(all, mount)
	}
	for _, text := range svc.Tmpfs {
		all = append(all, tmpfsOf(text))
	}
	return all
}

// volumeName returns the full name of the volume with a key of the file.
func volumeName(p compose.Project, key string) string {
	return cmp.Or(p.Volumes[key].Name, p.Name+"_"+key)
}

// tmpfsOf reads "path[:size=64m,mode=1777,ro]".
func tmpfsOf(text string) driver.Mount {
	target, options, _ := strings.Cut(text, ":")
	m := driver.Mount{Kind: compose.MountTmpfs, Target: target}
	for _, option := range strings.Split(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "size":
			m.Size = bytesOf(value)
		case "mode":
			mode, _ := strconv.ParseUint(value, 8, 32)
			m.Mode = uint32(mode)
		case "ro":
			m.ReadOnly = true
		}
	}
	return m
}

const (
	secretMode = 0o400
	configMode = 0o444
)

// filesOf returns the secrets and configs of a service.
func filesOf(p compose.Project, svc compose.Service) ([]driver.File, error) {
	var all []driver.File
	for _, use := range svc.Secrets {
		target := engine.SecretTarget(use)
		f, err := fileOf(p.Secrets, use, target, secretMode)
		if err != nil {
			return nil, fmt.Errorf("service %s: secret %s: %w", svc.Name, use.Source, err)
		}
		f.Secret = true
		all = append(all, f)
	}
	for _, use := range svc.Configs {
		target := engine.ConfigTarget(use)
		f, err := fileOf(p.Configs, use, target, configMode)
		if err != nil {
			return nil, fmt.Errorf("service %s: config %s: %w", svc.Name, use.Source, err)
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b driver.File) int { return strings.Compare(a.Target, b.Target) })
	return all, nil
}

func fileOf(values map[string]compose.FileValue, use compose.FileMount, target string, mode uint32) (driver.File, error) {
	value, ok := values[use.Source]
	if !ok {
		return driver.File{}, fmt.Errorf("%w: the file does not define it", errdefs.ErrInvalid)
	}
	source := cmp.Or(value.Ref, value.File)
	if source == "" {
		return driver.File{}, fmt.Errorf("%w: its content was not kept by the apply", errdefs.ErrInvalid)
	}
	if use.Mode != nil {
		mode = *use.Mode
	}
	return driver.File{Source: source, Target: target, UID: use.UID, GID: use.GID, Mode: mode}, nil
}
