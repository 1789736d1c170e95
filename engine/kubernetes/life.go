package kubernetes

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"trellis/compose"
	"trellis/engine"
	"trellis/probe"
)

const (
	// unrouteSeconds pass between a pod's deletion and its stop signal: long enough for everyone who sends it requests to
	// have heard of it, so that nothing new is sent to a program that is asked to end.
	unrouteSeconds = 5
	// startSeconds is how often a program is asked during its start period where start_interval does not say; Compose's
	// default.
	startSeconds = 5
	// hungAfter times as many failures as take an instance out of rotation have it started again, as the local engine
	// does it.
	hungAfter = 3
)

// probes sets how the cluster asks how a container is. Without a probe in the file it is ready when it listens on its
// first port.
func (r *renderer) probes(svc compose.Service, c *corev1.Container) {
	s := engine.Probe(svc)
	if tcp := engine.TCPPorts(svc); s.Kind == "" && len(tcp) > 0 && (svc.Healthcheck == nil || !svc.Healthcheck.Disable) {
		c.ReadinessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(tcp[0])}},
			PeriodSeconds: 2, TimeoutSeconds: 1, FailureThreshold: 3,
		}
		return
	}
	c.ReadinessProbe = probed(s)
	if c.ReadinessProbe == nil {
		return
	}
	live := svc.Trellis.Probe != nil && svc.Trellis.Probe.Liveness
	if s.StartPeriod > 0 {
		start := probed(s)
		start.PeriodSeconds = min(start.PeriodSeconds, max(1, cmp.Or(seconds(s.StartInterval), startSeconds)))
		start.FailureThreshold = math.MaxInt32 // a cluster kills what fails it
		if live {
			whole := int64(seconds(s.StartPeriod)) + int64(s.Retries)*int64(c.ReadinessProbe.PeriodSeconds)
			start.FailureThreshold = clampSeconds((whole + int64(start.PeriodSeconds) - 1) / int64(start.PeriodSeconds))
		}
		c.StartupProbe = start
	}
	if live {
		c.LivenessProbe = probed(s)
		c.LivenessProbe.FailureThreshold = clampSeconds(int64(s.Retries) * hungAfter)
	}
}

// probed is a probe as Kubernetes asks it.
func probed(s probe.Spec) *corev1.Probe {
	p := &corev1.Probe{
		PeriodSeconds: max(1, seconds(s.Interval)), TimeoutSeconds: max(1, seconds(s.Timeout)), FailureThreshold: clampSeconds(int64(max(1, s.Retries))),
	}
	switch s.Kind {
	case probe.HTTP:
		scheme := corev1.URISchemeHTTP
		if s.TLS {
			scheme = corev1.URISchemeHTTPS
		}
		p.HTTPGet = &corev1.HTTPGetAction{Path: s.Path, Port: intstr.FromInt(s.Port), Scheme: scheme}
	case probe.TCP:
		p.TCPSocket = &corev1.TCPSocketAction{Port: intstr.FromInt(s.Port)}
	case probe.GRPC:
		p.GRPC = &corev1.GRPCAction{Port: int32(s.Port), Service: &s.Path}
	case probe.Exec:
		if len(s.Command) == 0 {
			return nil
		}
		p.Exec = &corev1.ExecAction{Command: literal(s.Command)}
	default:
		return nil
	}
	return p
}

// lifecycle renders the hooks, and the wait before the stop signal, in seconds, in which nothing new is sent to the pod any more.
func (r *renderer) lifecycle(svc compose.Service, wait int) *corev1.Lifecycle {
	l := &corev1.Lifecycle{}
	if len(svc.PostStart) > 0 {
		l.PostStart = &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: hookCommand(svc.PostStart, 0)}}
	}
	switch {
	case len(svc.PreStop) > 0:
		l.PreStop = &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: hookCommand(svc.PreStop, wait)}}
	case wait > 0:
		l.PreStop = &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: int64(wait)}}
	}
	if svc.StopSignal != "" {
		switch signal, ok := signalOf(svc.StopSignal); {
		case !ok:
			r.note(at(svc, "stop_signal"), "has no effect: a cluster knows no signal %s, and sends the image's", svc.StopSignal)
		case !from(r.opt.Version, stopSignals):
			r.note(at(svc, "stop_signal"), "has no effect: the cluster is older than Kubernetes 1.%d, or does not say what it is, and gets none; it sends the image's", stopSignals)
		default:
			l.StopSignal = &signal
		}
	}
	for _, list := range []struct {
		key   string
		hooks []compose.Hook
	}{{"post_start", svc.PostStart}, {"pre_stop", svc.PreStop}} {
		for i, h := range list.hooks {
			if h.User != "" && h.User != svc.User {
				r.note(at(svc, list.key)+index(i)+".user", "has no effect: a hook runs as the service does")
			}
		}
	}
	return l
}

// signalOf returns a signal as Kubernetes names it.
func signalOf(text string) (corev1.Signal, bool) {
	numbers := map[string]string{"1": "HUP", "2": "INT", "3": "QUIT", "6": "ABRT", "9": "KILL", "10": "USR1", "12": "USR2", "15": "TERM", "28": "WINCH", "37": "RTMIN+3"}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	name = cmp.Or(numbers[name], name)
	known := []string{"ABRT", "ALRM", "CONT", "HUP", "INT", "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "STOP", "TERM", "TRAP", "TSTP",
		"TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMIN+3", "RTMAX"}
	return corev1.Signal("SIG" + name), slices.Contains(known, name)
}

// hookCommand is what runs hooks one after the other. A single one that needs nothing else runs as it is, without a shell.
func hookCommand(hooks []compose.Hook, wait int) []string {
	if h := hooks[0]; len(hooks) == 1 && wait == 0 && h.WorkingDir == "" && len(h.Environment) == 0 {
		return h.Command
	}
	var script strings.Builder
	script.WriteString("set -e\n")
	if wait > 0 {
		fmt.Fprintf(&script, "sleep %d\n", wait)
	}
	for _, h := range hooks {
		script.WriteByte('(')
		if h.WorkingDir != "" {
			script.WriteString("cd " + quoted(h.WorkingDir) + " && ")
		}
		if len(h.Environment) > 0 {
			script.WriteString("env ")
			for _, name := range slices.Sorted(maps.Keys(h.Environment)) {
				script.WriteString(quoted(name+"="+h.Environment[name]) + " ")
			}
		}
		for i, word := range h.Command {
			if i > 0 {
				script.WriteByte(' ')
			}
			script.WriteString(quoted(word))
		}
		script.WriteString(")\n")
	}
	return []string{"/bin/sh", "-c", script.String()}
}

// quoted is a word as a shell takes it literally.
func quoted(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
