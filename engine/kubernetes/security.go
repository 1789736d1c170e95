package kubernetes

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"trellis/compose"
)

// asRoot are the capabilities that a program has which starts as root: Docker's own without those that let it make device
// files, forge packets or give files capabilities. Entry points of many images need them to hand their data to another
// user and become it.
var asRoot = []corev1.Capability{
	"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

// safeSysctls may be set for a pod on every cluster; all others only where its administrator allows them.
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// security sets what a pod and its program may do: as little as the file allows.
func (r *renderer) security(svc compose.Service, spec *corev1.PodSpec, c *corev1.Container) {
	pod := &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	own := &corev1.SecurityContext{AllowPrivilegeEscalation: new(bool)}
	spec.SecurityContext, c.SecurityContext = pod, own
	pod.RunAsUser, pod.RunAsGroup = r.user(at(svc, "user"), svc.User)
	if pod.RunAsUser != nil && *pod.RunAsUser != 0 {
		pod.RunAsNonRoot = pointer(true)
		pod.FSGroup = pod.RunAsUser // volumes are empty and root's at first
		if pod.RunAsGroup != nil {
			pod.FSGroup = pod.RunAsGroup
		}
		pod.FSGroupChangePolicy = pointer(corev1.FSGroupChangeOnRootMismatch)
	}
	for i, group := range svc.GroupAdd {
		if g, ok := id(group); ok {
			pod.SupplementalGroups = append(pod.SupplementalGroups, g)
		} else {
			r.note(at(svc, "group_add")+index(i), "has no effect: %q is a name, which only the image knows; write its number", group)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(svc.Sysctls)) {
		if !slices.Contains(safeSysctls, name) {
			r.note(compose.JoinPath(at(svc, "sysctls"), name), "has no effect: most clusters refuse pods that set it; have its administrator allow it, and add it to the pods")
			continue
		}
		if svc.NetworkMode == "host" && strings.HasPrefix(name, "net.") || svc.Ipc == "host" && strings.HasPrefix(name, "kernel.") {
			r.note(compose.JoinPath(at(svc, "sysctls"), name), "has no effect: %s has that of its node, which no pod sets", svc.Name)
			continue
		}
		pod.Sysctls = append(pod.Sysctls, corev1.Sysctl{Name: name, Value: svc.Sysctls[name]})
	}
	r.lowPorts(svc, pod)
	if svc.ReadOnly {
		own.ReadOnlyRootFilesystem = pointer(true)
	}
	if svc.StopSignal != "" && c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		spec.OS = &corev1.PodOS{Name: corev1.Linux} // a stop signal needs it
	}
	spec.HostPID, spec.HostIPC = svc.Pid == "host", svc.Ipc == "host"
	if svc.Init && svc.Pid != "host" {
		spec.ShareProcessNamespace = pointer(true) // the pod's own first process reaps what is left behind
	}
	r.options(svc, pod, own)
	r.capabilities(svc, pod, own)
}

// unprivilegedPorts is the first port that everybody may listen on.
const unprivilegedPorts = "net.ipv4.ip_unprivileged_port_start"

// lowPorts lets whoever runs a service listen on ports below 1024, as Docker does since version 20.10: it is the pod's own
// network.
func (r *renderer) lowPorts(svc compose.Service, pod *corev1.PodSecurityContext) {
	_, said := svc.Sysctls[unprivilegedPorts]
	low := slices.ContainsFunc(ports(svc), func(p port) bool { return p.number < 1024 })
	if low && !said && svc.NetworkMode != "host" {
		pod.Sysctls = append(pod.Sysctls, corev1.Sysctl{Name: unprivilegedPorts, Value: "0"})
	}
}

// user reads "uid[:gid]"; a name means nothing to a cluster, but root's.
func (r *renderer) user(path, text string) (uid, gid *int64) {
	if text == "" {
		return nil, nil
	}
	user, group, grouped := strings.Cut(text, ":")
	u, ok := id(user)
	if !ok {
		r.note(path, "has no effect: %q is a name, which only the image knows, so the image's own user runs it; write its number", user)
		return nil, nil
	}
	if !grouped {
		return &u, nil
	}
	g, ok := id(group)
	if !ok {
		r.note(path, "is changed: the group %q is a name, which only the image knows; write its number", group)
		return &u, nil
	}
	return &u, &g
}

// id reads the number of a user or group.
func id(text string) (int64, bool) {
	if text == "root" {
		return 0, true
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n >= 0 && n <= math.MaxInt32
}

// options carries security_opt out.
func (r *renderer) options(svc compose.Service, pod *corev1.PodSecurityContext, own *corev1.SecurityContext) {
	for i, option := range svc.SecurityOpt {
		name, value := option, ""
		if cut := strings.IndexAny(option, ":="); cut >= 0 {
			name, value = option[:cut], option[cut+1:]
		}
		switch {
		case name == "no-new-privileges":
			own.AllowPrivilegeEscalation = pointer(value == "false")
		case name == "seccomp" && value == "unconfined":
			pod.SeccompProfile.Type = corev1.SeccompProfileTypeUnconfined
		case name == "apparmor" && value == "unconfined":
			pod.AppArmorProfile = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
		default:
			r.note(at(svc, "security_opt")+index(i), "has no effect: profiles and labels are the nodes'; only no-new-privileges, seccomp:unconfined and apparmor:unconfined are carried out")
		}
	}
}

func (r *renderer) capabilities(svc compose.Service, pod *corev1.PodSecurityContext, own *corev1.SecurityContext) {
	if svc.Privileged {
		own.Privileged, own.AllowPrivilegeEscalation = pointer(true), nil
		return
	}
	caps := &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
	dropped := capabilityNames(svc.CapDrop)
	if pod.RunAsNonRoot == nil && !slices.Contains(dropped, "ALL") {
		caps.Add = slices.Clone(asRoot)
	}
	caps.Add = append(caps.Add, capabilityNames(svc.CapAdd)...)
	caps.Add = slices.DeleteFunc(caps.Add, func(c corev1.Capability) bool { return slices.Contains(dropped, c) })
	slices.Sort(caps.Add)
	caps.Add = slices.Compact(caps.Add)
	if slices.Contains(caps.Add, "ALL") {
		slices.Sort(dropped)
		caps.Add, caps.Drop = []corev1.Capability{"ALL"}, slices.Compact(dropped)
	}
	if slices.Contains(caps.Add, "SYS_ADMIN") || slices.Contains(caps.Add, "ALL") {
		own.AllowPrivilegeEscalation = nil // a cluster refuses the one without the other
	}
	own.Capabilities = caps
}

func capabilityNames(names []string) []corev1.Capability {
	var all []corev1.Capability
	for _, n := range names {
		all = append(all, corev1.Capability(strings.TrimPrefix(strings.ToUpper(n), "CAP_")))
	}
	return all
}
