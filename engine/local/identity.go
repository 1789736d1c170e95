package local

import (
	"path/filepath"
	"slices"
	"strings"

	"trellis/compose"
	"trellis/driver"
	"trellis/identity"
	"trellis/proxy"
)

const (
	identityMark     = "identity:" // stands for a service's folder until it becomes a path
	identityTarget   = "/run/identity"
	identityVariable = "TRELLIS_IDENTITY"
)

// Identity is somebody who needs a certificate: the path of its SPIFFE ID, and the DNS names for programs that look for
// one.
type Identity struct {
	Path  string
	Names []string
}

// Identities returns who needs a certificate in a project: the services that ask for one, and where a service is called
// over mutual TLS everybody who may call.
func Identities(p compose.Project) []Identity {
	var all []Identity
	mutual := slices.ContainsFunc(p.ServiceNames(), func(name string) bool { return p.Services[name].MutualAnywhere() })
	for _, name := range p.ServiceNames() {
		if mutual || p.Services[name].HasIdentity() {
			all = append(all, Identity{identity.ServicePath(name), []string{name}})
		}
	}
	if mutual {
		all = append(all, Identity{Path: identity.GatewayPath})
	}
	return all
}

// IdentityFolder is the folder, in that of all, of the files of an identity.
func IdentityFolder(dir, path string) string { return filepath.Join(dir, filepath.FromSlash(path)) }

// placeIdentity puts paths where the spec of an instance has identityMark. t gets mounts of its own. A process that sees
// the machine's own files is told where they are there.
func (e *Engine) placeIdentity(t *driver.Spec, process bool) {
	t.Mounts = slices.Clone(t.Mounts)
	i := slices.IndexFunc(t.Mounts, func(m driver.Mount) bool { return m.Source == identityMark })
	if i < 0 {
		return
	}
	dir := IdentityFolder(e.cfg.IdentityDir, identity.ServicePath(t.Service))
	if d := e.cfg.Drivers["process"]; process && d != nil && !d.Capabilities().Namespaces {
		t.Mounts = slices.Delete(t.Mounts, i, i+1)
		t.Env = mergeEnv(t.Env, []string{identityVariable + "=" + dir})
		return
	}
	t.Mounts[i].Source = dir
}

// identityOf returns the line of an environment that says where the identity is.
func identityOf(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return !strings.HasPrefix(kv, identityVariable+"=") })
}

// mutualOf returns how the data plane calls a service over mutual TLS; nil: it does not.
func (e *Engine) mutualOf(svc compose.Service) *proxy.Mutual {
	if !svc.MutualAnywhere() {
		return nil
	}
	m := &proxy.Mutual{ID: identity.ServiceID(e.cfg.Project, svc.Name), Identities: e.cfg.IdentityDir}
	for _, p := range svc.Ports {
		switch {
		case svc.Trellis.TLS == compose.TLSMutual && !svc.Mutual(p.Target):
			m.Plain = append(m.Plain, p.Target)
		case svc.Trellis.TLS != compose.TLSMutual && svc.Mutual(p.Target):
			m.Ports = append(m.Ports, p.Target)
		}
	}
	return m
}
