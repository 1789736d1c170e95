//go:build linux

package process

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/shim"
)

// check refuses a spec that can never work.
func check(s driver.Spec) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", errdefs.ErrInvalid, fmt.Sprintf(format, args...))
	}
	project, name, found := strings.Cut(string(s.ID), "/")
	switch {
	case !found || !plain(project) || !plain(name):
		return bad("the ID %q is not <project>/<service>-<slot>-<generation>", s.ID)
	case s.Project == "" || s.Project != project:
		return bad("the project %q is not that of the ID", s.Project)
	case s.Service == "":
		return bad("it has no service")
	case len(s.Command) == 0 || s.Command[0] == "":
		return bad("it has no command")
	case s.Dir != "" && !filepath.IsAbs(s.Dir):
		return bad("the directory %q is not absolute", s.Dir)
	case s.StopSignal != "" && shim.SignalNumber(s.StopSignal) == 0:
		return bad("the stop signal %q is not known", s.StopSignal)
	case len(s.Hostname) > 64 || strings.ContainsAny(s.Hostname, "/ \t\n\x00"):
		return bad("the hostname %q is not one", s.Hostname)
	}
	if slices.ContainsFunc(s.Command, hasNUL) {
		return bad("the command has a NUL byte")
	}
	for _, kv := range s.Env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" || hasNUL(kv) {
			return bad("an environment variable is not KEY=value") // its value may be a secret
		}
	}
	for _, p := range s.Ports {
		if p < 1 || p > 65535 {
			return bad("the port %d is not one", p)
		}
	}
	for _, h := range append(slices.Clone(s.PostStart), s.PreStop...) {
		if len(h.Command) == 0 || h.Command[0] == "" {
			return bad("a hook has no command")
		}
	}
	if err := checkKernel(s, bad); err != nil {
		return err
	}
	return checkPaths(s, bad)
}

func hasNUL(text string) bool { return strings.ContainsRune(text, 0) }

// checkKernel checks the names that the kernel knows.
func checkKernel(s driver.Spec, bad func(string, ...any) error) error {
	for name, l := range s.Ulimits {
		if !shim.KnownUlimit(name) {
			return bad("the ulimit %q is not known", name)
		}
		if l.Hard >= 0 && (l.Soft < 0 || l.Soft > l.Hard) {
			return bad("the soft ulimit %s is above the hard one", name)
		}
	}
	for _, name := range append(slices.Clone(s.CapAdd), s.CapDrop...) {
		if _, err := shim.Capability(name); err != nil {
			return bad("%s", err)
		}
	}
	for name := range s.Sysctls {
		if !strings.HasPrefix(name, "net.") || strings.ContainsAny(name, "/ \n") || strings.Contains(name, "..") {
			return fmt.Errorf("%w: sysctl %s: only net.* belongs to a process; the rest is the machine's", errdefs.ErrUnsupported, name)
		}
		if s.HostNetwork {
			return fmt.Errorf("%w: sysctl %s with the machine's network would change the machine", errdefs.ErrUnsupported, name)
		}
	}
	if s.OomScore < -1000 || s.OomScore > 1000 {
		return bad("the oom_score_adj %d is not from -1000 to 1000", s.OomScore)
	}
	if s.TimerSlack < 0 {
		return bad("the timer slack %v is less than nothing", s.TimerSlack)
	}
	return nil
}

// checkPaths checks mounts and files.
func checkPaths(s driver.Spec, bad func(string, ...any) error) error {
	targets := map[string]bool{}
	target := func(path string) error {
		clean := filepath.Clean(path)
		switch {
		case !filepath.IsAbs(path) || hasNUL(path):
			return bad("the target %q is not an absolute path", path)
		case clean == "/":
			return bad("the root cannot be a target")
		case clean == "/proc" || clean == "/sys" || strings.HasPrefix(clean, "/proc/") || strings.HasPrefix(clean, "/sys/"):
			return bad("the target %s is the kernel's", path)
		case targets[clean]:
			return bad("%s is the target of two mounts", path)
		}
		targets[clean] = true
		return nil
	}
	for _, m := range s.Mounts {
		if err := target(m.Target); err != nil {
			return err
		}
		switch {
		case m.Kind != shim.Bind && m.Kind != shim.Volume && m.Kind != shim.Tmpfs:
			return bad("the mount %s has the unknown kind %q", m.Target, m.Kind)
		case m.Kind == shim.Bind && !filepath.IsAbs(m.Source):
			return bad("the bind source %q is not an absolute path", m.Source)
		case m.Kind == shim.Volume && !plain(m.Source):
			return bad("%q is not the name of a volume", m.Source)
		case m.Subpath != "" && !filepath.IsLocal(m.Subpath):
			return bad("the subpath %q leads out of the volume", m.Subpath)
		}
	}
	for _, f := range s.Files {
		if err := target(f.Target); err != nil {
			return err
		}
		if !filepath.IsAbs(f.Source) {
			return bad("the source of file %s is not an absolute path", f.Target)
		}
	}
	return nil
}

// carriable refuses what cannot be had without privileges.
func (d *Driver) carriable(s driver.Spec) error {
	refuse := func(what string) error {
		return fmt.Errorf("%w: %s; Trellis runs without the privileges for it", errdefs.ErrUnsupported, what)
	}
	for _, m := range s.Mounts {
		if m.Kind == shim.Bind && filepath.Clean(m.Source) == filepath.Clean(m.Target) && !m.ReadOnly {
			continue // it is there already
		}
		return refuse(fmt.Sprintf("%s cannot be mounted at %s", m.Kind, m.Target))
	}
	switch {
	case len(s.Files) > 0:
		return refuse(fmt.Sprintf("a secret or config cannot be put at %s", s.Files[0].Target))
	case s.User != "" && !IsSelf(s.User):
		return refuse(fmt.Sprintf("it cannot run as user %s", s.User))
	case len(s.GroupAdd) > 0:
		return refuse("groups cannot be added")
	case s.ReadOnly:
		return refuse("the root cannot be made read-only")
	case s.Privileged:
		return refuse("it cannot be privileged")
	case len(s.CapAdd) > 0:
		return refuse("capabilities cannot be added")
	case len(s.Sysctls) > 0:
		return refuse("there is no network of its own whose sysctls could be set")
	case s.ShmSize > 0:
		return refuse("/dev/shm cannot be given a size")
	}
	return nil
}
