//go:build linux

package process

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/shim"
)

// Files of an instance directory that only this package knows.
const (
	hostsFile    = "hosts"
	hostnameFile = "hostname"
	resolvFile   = "resolv.conf"
	namesFile    = "names.json" // what SetHosts was last told
)

// SetHosts makes the instance resolve these names to these addresses, at once and for its later runs, in place of what
// an earlier call said. Names of the Spec stay, and are overruled by one of the same name. Unknown: ErrNotFound.
// Without namespaces: ErrUnsupported.
func (d *Driver) SetHosts(id driver.ID, hosts map[string]string) error {
	if err := d.setHosts(id, hosts); err != nil {
		return fmt.Errorf("set the names of %s: %w", id, err)
	}
	return nil
}

func (d *Driver) setHosts(id driver.ID, hosts map[string]string) error {
	if !d.isolate {
		return fmt.Errorf("%w: instances share the machine's /etc/hosts", errdefs.ErrUnsupported)
	}
	for name, address := range hosts {
		if _, err := netip.ParseAddr(address); err != nil || !hostName(name) {
			return fmt.Errorf("%w: %q is no name or %q no address", errdefs.ErrInvalid, name, address)
		}
	}
	dir, err := d.directory(id)
	if err != nil {
		return err
	}
	defer d.lock(dir)()
	spec, own, err := d.spec(dir)
	if isMissing(err) {
		return fmt.Errorf("%w: no such instance", errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	if err := shim.Write(dir, namesFile, hosts); err != nil {
		return err
	}
	return rewrite(filepath.Join(dir, hostsFile), hostsText(spec.Hostname, own, hosts))
}

func hostName(name string) bool {
	return name != "" && len(name) <= 255 && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r == '#' || r > '~'
	})
}

// hostname is the name an instance has for itself.
func hostname(spec driver.Spec) string {
	if spec.Hostname != "" {
		return spec.Hostname
	}
	name := fmt.Sprintf("%s-%d", spec.Service, spec.Slot)
	return name[:min(len(name), 64)]
}

// hostsText is the content of /etc/hosts.
func hostsText(hostname string, own owner, names map[string]string) string {
	all := maps.Clone(own.Hosts)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, names)
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	self := own.Address
	if self == "" {
		self = "127.0.1.1"
	}
	fmt.Fprintf(&b, "%s\t%s\n", self, hostname)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		address := all[name]
		if address == "host-gateway" {
			if address = own.Gateway; address == "" {
				address = "127.0.0.1"
			}
		}
		fmt.Fprintf(&b, "%s\t%s\n", address, name)
	}
	return b.String()
}

// rewrite changes a file in place, since it is mounted in an instance: one write, then what is too long goes.
func rewrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(text))); err != nil {
		return err
	}
	return f.Chmod(0o644)
}

// etc writes the instance's own files of /etc and returns how they are mounted.
func (d *Driver) etc(dir string, spec driver.Spec, s shim.Spec, own owner) ([]shim.Mount, error) {
	var names map[string]string
	if b, err := os.ReadFile(filepath.Join(dir, namesFile)); err == nil {
		_ = json.Unmarshal(b, &names) // torn: the next SetHosts writes it again
	}
	files := []struct{ name, target, text string }{
		{hostsFile, "/etc/hosts", hostsText(s.Hostname, own, names)},
		{hostnameFile, "/etc/hostname", s.Hostname + "\n"},
	}
	if !own.Shared {
		if text := resolvers(); text != "" {
			files = append(files, struct{ name, target, text string }{resolvFile, "/etc/resolv.conf", text})
		}
	}
	var all []shim.Mount
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		if err := rewrite(path, f.text); err != nil {
			return nil, err
		}
		all = append(all, shim.Mount{Kind: shim.Bind, Source: path, Target: f.target, ReadOnly: true})
	}
	return all, nil
}

// resolvers returns what stands in for an /etc/resolv.conf whose servers are on the machine's loopback, where an
// instance with its own network cannot reach them; "" where the machine's own file serves.
func resolvers() string {
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil || !onLoopback(string(b)) {
		return ""
	}
	for _, path := range []string{"/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"} {
		if b, err := os.ReadFile(path); err == nil && !onLoopback(string(b)) {
			return string(b)
		}
	}
	return ""
}

// onLoopback says whether every name server of a resolv.conf is a loopback address.
func onLoopback(text string) bool {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		bare, _, _ := strings.Cut(f[1], "%")
		if a, err := netip.ParseAddr(bare); err == nil && !a.IsLoopback() {
			return false
		}
	}
	return true
}
