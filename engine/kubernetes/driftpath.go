package kubernetes

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"trellis/compose"
	"trellis/engine"
	"trellis/lazyregexp"
)

const (
	templatePath = ".spec.template."
	replicasPath = ".spec.replicas"
)

// attribute is what a field of an object is in a Compose file: a path below the service, "" for the service as a whole.
type attribute struct {
	path      string
	adoptable bool
	value     func(any) any // the field's value as the file writes it; nil: not shown
}

var (
	ofContainer = lazyregexp.New(`^\.spec\.template\.spec\.containers\[name="([^"]+)"\](.*)$`)
	ofVariable  = lazyregexp.New(`^\.env\[name="([^"]+)"\](.*)$`)
)

func asIs(v any) any { return v }

// graceOf returns the grace period of a file for the one of a pod, which is longer where requests end before the program does.
func graceOf(kind string) func(any) any {
	return func(v any) any {
		n, ok := v.(int64)
		if kind != "Job" {
			n -= unrouteSeconds
		}
		if !ok || n < 0 {
			return nil
		}
		return compose.Duration(time.Duration(n) * time.Second).String()
	}
}

// attributeAt says what a field of an object of a service is in its file.
func attributeAt(svc compose.Service, container, kind, path string) attribute {
	if path == replicasPath {
		return attribute{"deploy.replicas", true, asIs}
	}
	if m := ofContainer.FindStringSubmatch(path); m != nil && m[1] == container {
		return containerAttribute(m[2])
	}
	switch {
	case path == ".spec.template.spec.terminationGracePeriodSeconds":
		return attribute{"stop_grace_period", true, graceOf(kind)}
	case kind == "Deployment" && (strings.HasPrefix(path, ".spec.strategy") || path == ".spec.minReadySeconds"):
		return attribute{path: "deploy.update_config"}
	case strings.HasPrefix(path, templatePath):
		return podAttribute(strings.TrimPrefix(path, ".spec.template.spec"))
	case kind == "Service" && len(svc.Ports) > 0:
		return attribute{path: "ports"}
	case kind == "HorizontalPodAutoscaler" && path == ".spec.minReplicas":
		return attribute{"deploy.x-trellis.autoscale.min", true, asIs}
	case kind == "HorizontalPodAutoscaler" && path == ".spec.maxReplicas":
		return attribute{"deploy.x-trellis.autoscale.max", true, asIs}
	case kind == scaledKind.Kind && path == ".spec.minReplicaCount":
		return attribute{"deploy.x-trellis.autoscale.min", true, asIs}
	case kind == scaledKind.Kind && path == ".spec.maxReplicaCount":
		return attribute{"deploy.x-trellis.autoscale.max", true, asIs}
	case kind == "HorizontalPodAutoscaler", kind == scaledKind.Kind:
		return attribute{path: "deploy.x-trellis.autoscale"}
	case kind == istioPolicyKind.Kind, kind == meshTLSKind.Kind:
		return attribute{path: "x-trellis.calls"}
	case kind == podMonitorKind.Kind:
		return attribute{path: "x-trellis.metrics"}
	}
	return attribute{}
}

// ofProject is what an object that is no service's is in a Compose file.
func (d *drifting) ofProject(of item) string {
	if f, ok := foreignOf(of.kind().GroupKind()); ok {
		return compose.JoinPath("x-trellis.environments", d.project.Environment) + "." + f.key
	}
	return "x-trellis.gateway"
}

// podAttribute is the attribute of a field of a pod.
func podAttribute(path string) attribute {
	return known(path, []knownField{
		{".volumes", attribute{path: "volumes"}}, {".hostNetwork", attribute{path: "network_mode"}},
		{".hostAliases", attribute{path: "extra_hosts"}}, {".dnsConfig", attribute{path: "dns"}}, {".dnsPolicy", attribute{path: "dns"}},
		{".nodeSelector", attribute{path: "deploy.placement"}}, {".affinity", attribute{path: "deploy.placement"}},
		{".tolerations", attribute{path: "deploy.placement"}}, {".topologySpreadConstraints", attribute{path: "deploy.placement"}},
		{".securityContext", attribute{path: "security_opt"}},
	})
}

// knownField says what a field, and everything below it, is in a Compose file.
type knownField struct {
	field string
	attribute
}

// known returns the attribute of the first field that a path is, or is below of.
func known(path string, all []knownField) attribute {
	for _, k := range all {
		if path == k.field || strings.HasPrefix(path, k.field+".") || strings.HasPrefix(path, k.field+"[") {
			return k.attribute
		}
	}
	return attribute{}
}

func containerAttribute(path string) attribute {
	if m := ofVariable.FindStringSubmatch(path); m != nil {
		return attribute{compose.JoinPath("environment", m[1]), !strings.HasPrefix(m[2], ".valueFrom"), variable}
	}
	return known(path, []knownField{
		{".image", attribute{"image", true, asIs}},
		{".command", attribute{"entrypoint", false, asIs}},
		{".args", attribute{"command", false, asIs}},
		{".workingDir", attribute{"working_dir", true, asIs}},
		{".resources.limits.cpu", attribute{"deploy.resources.limits.cpus", true, cpus}},
		{".resources.limits.memory", attribute{"deploy.resources.limits.memory", true, bytesOf}},
		{".resources.requests.cpu", attribute{"deploy.resources.reservations.cpus", true, cpus}},
		{".resources.requests.memory", attribute{"deploy.resources.reservations.memory", true, bytesOf}},
		{".readinessProbe", attribute{path: "healthcheck"}}, {".livenessProbe", attribute{path: "healthcheck"}}, {".startupProbe", attribute{path: "healthcheck"}},
		{".volumeMounts", attribute{path: "volumes"}}, {".ports", attribute{path: "ports"}},
		{".securityContext.privileged", attribute{"privileged", true, asIs}}, {".securityContext.readOnlyRootFilesystem", attribute{"read_only", true, asIs}},
		{".securityContext.runAsUser", attribute{path: "user"}}, {".securityContext.runAsGroup", attribute{path: "user"}},
		{".securityContext", attribute{path: "security_opt"}}, {".lifecycle", attribute{path: "pre_stop"}},
	})
}

// variable is the value of a variable, or of the element of a list that it is, as the program gets it.
func variable(v any) any {
	if m, ok := v.(map[string]any); ok {
		v = m["value"]
	}
	if text, ok := v.(string); ok {
		return strings.ReplaceAll(text, "$$", "$") // see unexpanded
	}
	return v
}

func cpus(v any) any {
	q, ok := quantity(v)
	if !ok {
		return nil
	}
	return q.AsApproximateFloat64()
}

func bytesOf(v any) any {
	q, ok := quantity(v)
	if !ok {
		return nil
	}
	return q.Value()
}

func quantity(v any) (resource.Quantity, bool) {
	text, ok := v.(string)
	if !ok {
		return resource.Quantity{}, false
	}
	q, err := resource.ParseQuantity(text)
	return q, err == nil
}

// driftAt tells one field of an object that is another than was asked for, in Compose terms.
func (d *drifting) driftAt(service string, of item, path string, want, have any, owner string) engine.Drift {
	svc := d.project.Services[service]
	verb := "set"
	if want == nil {
		verb = "added"
	} else if have == nil {
		verb = "taken out"
	}
	at := attributeAt(svc, d.names.of[service], of.Kind, path)
	one := engine.Drift{
		Change: engine.Change{Path: compose.JoinPath("services", service), Action: engine.Modify, Effect: engine.EffectInPlace},
		Kind:   engine.DriftObject, Service: service,
		Reason: fmt.Sprintf("%s of %s was %s by %s", strings.TrimPrefix(path, "."), of, verb, owner),
	}
	if service == "" {
		one.Path, at = d.ofProject(of), attribute{}
	}
	if at.path != "" {
		one.Path += "." + at.path
	}
	switch {
	case path == replicasPath:
		one.Kind = engine.DriftScaled
	case strings.HasPrefix(path, templatePath):
		one.Kind, one.Effect = engine.DriftChanged, engine.ReplacedEffect(svc)
	}
	if at.value != nil {
		var whole bool
		one.From, _ = engine.Masked(one.Path, at.value(want))
		one.To, whole = engine.Masked(one.Path, at.value(have))
		one.Adoptable = at.adoptable && whole
	}
	switch {
	case want == nil:
		one.Action = engine.Add
	case have == nil:
		one.Action = engine.Remove
	}
	return one
}
