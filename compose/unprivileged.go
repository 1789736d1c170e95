package compose

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Unprivileged returns what of a project's processes cannot be had by a user without privileges: what needs a mount, or
// another user than the one who runs Trellis, whom self recognises. Each is an error at the line that asks for it:
// starting the service without it would be to ignore it.
func Unprivileged(p Project, self func(user string) bool) []Diagnostic {
	var out []Diagnostic
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		if s.Trellis.Process == nil {
			continue
		}
		say := func(key, what string) {
			at := JoinPath("services", name) + "." + key
			d := Diagnostic{Path: at, Message: what + " needs root: run trellis as root, the service in Docker (--driver docker), or without it"}
			d.File, d.Line, d.Column = p.Positions.short(at)
			out = append(out, d)
		}
		for i, m := range s.Volumes {
			if m.Type != MountBind || m.ReadOnly || filepath.Clean(m.Source) != filepath.Clean(m.Target) {
				say(indexPath("volumes", i), "a mount at "+m.Target)
			}
		}
		for i, text := range s.Tmpfs {
			say(indexPath("tmpfs", i), "a mount at "+text)
		}
		for i, f := range s.Secrets {
			say(indexPath("secrets", i), fmt.Sprintf("the file of secret %s", f.Source))
		}
		for i, f := range s.Configs {
			say(indexPath("configs", i), fmt.Sprintf("the file of config %s", f.Source))
		}
		for _, other := range []struct {
			asked     bool
			key, what string
		}{
			{s.User != "" && !self(s.User), "user", "running as user " + s.User},
			{len(s.GroupAdd) > 0, "group_add", "another group"},
			{s.ReadOnly, "read_only", "a read-only root"},
			{s.Privileged, "privileged", "a privileged service"},
			{len(s.CapAdd) > 0, "cap_add", "a capability"},
			{len(s.Sysctls) > 0, "sysctls", "a network of its own, whose sysctls these are,"},
			{len(s.Trellis.Calls) > 0, "x-trellis.calls", "to know who calls"},
			{s.ShmSize > 0, "shm_size", "a /dev/shm of its own"},
		} {
			if other.asked {
				say(other.key, other.what)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Diagnostic) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return out
}
