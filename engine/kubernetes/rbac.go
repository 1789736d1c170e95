package kubernetes

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
)

// resources are the names by which the API asks for the kinds that Render makes.
var resources = map[string]string{
	"AuthorizationPolicy": "authorizationpolicies", "ConfigMap": "configmaps", "CronJob": "cronjobs", "DaemonSet": "daemonsets", "Deployment": "deployments",
	"DestinationRule": "destinationrules", "GRPCRoute": "grpcroutes",
	"Gateway": "gateways", "HTTPRoute": "httproutes", "HorizontalPodAutoscaler": "horizontalpodautoscalers", "Job": "jobs", "Lease": "leases",
	"MeshTLSAuthentication": "meshtlsauthentications", "NetworkAuthentication": "networkauthentications", "NetworkPolicy": "networkpolicies", "PersistentVolumeClaim": "persistentvolumeclaims", "PodDisruptionBudget": "poddisruptionbudgets",
	"PeerAuthentication": "peerauthentications", "PodMonitor": "podmonitors", "PrometheusRule": "prometheusrules", "Role": "roles", "RoleBinding": "rolebindings", "ScaledObject": "scaledobjects", "Secret": "secrets", "Server": "servers", "Service": "services", "ServiceAccount": "serviceaccounts",
	"StatefulSet": "statefulsets",
}

// everyKind are the resources of the kinds that Render makes for any project, by their API group: of a foreigner's only those that a project
// has are given, or whoever deploys could not give them in clusters that have none.
var everyKind = map[string][]string{
	"":                          {"configmaps", "persistentvolumeclaims", "secrets", "serviceaccounts", "services"},
	"apps":                      {"daemonsets", "deployments", "statefulsets"},
	"autoscaling":               {"horizontalpodautoscalers"},
	"batch":                     {"cronjobs", "jobs"},
	"coordination.k8s.io":       {"leases"},
	"gateway.networking.k8s.io": {"gateways", "grpcroutes", "httproutes"},
	"networking.k8s.io":         {"networkpolicies"},
	"policy":                    {"poddisruptionbudgets"},
	"rbac.authorization.k8s.io": {"rolebindings", "roles"},
}

// Role returns the rights in its namespace that deploying a project and looking after it takes, and no others: those to
// the kinds of object that it has, and to what Trellis keeps beside them. What a later version of the file has of other
// kinds, or an earlier one had, takes more; a project with a control plane in the cluster takes those to every kind, because that
// goes from one version to another by itself. Trellis makes no namespace with it: that has to be there.
func Role(p compose.Project, opt Options) (*rbacv1.Role, error) {
	opt.Revision, opt.Gates = 1, Gates{} // as an apply renders it
	for _, name := range p.ServiceNames() {
		if svc := p.Services[name]; svc.Image == "" && opt.Images[name] == "" {
			opt.Images = with(maps.Clone(opt.Images), name, "any")
		}
	}
	objects, err := Render(p, nil, opt)
	if err != nil {
		return nil, err
	}
	// get is what a web socket asks with
	connect := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/exec", "pods/portforward"}, Verbs: []string{"create", "get"}}
	return &rbacv1.Role{
		TypeMeta:   metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role"},
		ObjectMeta: metav1.ObjectMeta{Name: cleaned("trellis-"+p.Name, maxName), Namespace: opt.Namespace},
		Rules:      append(rights(objects), connect),
	}, nil
}

// rights are what deploying objects and looking after them takes in their namespace.
func rights(objects []Object) (rules []rbacv1.PolicyRule) {
	made := map[string][]string{"": {"configmaps", "secrets"}}
	run := map[string][]string{"": {"pods"}}
	if slices.ContainsFunc(objects, func(o Object) bool { return o.GetLabels()[labelComponent] == controlPlane }) {
		made = maps.Clone(everyKind)
		run["apps"], run["batch"] = slices.Clone(everyKind["apps"]), slices.Clone(everyKind["batch"])
	}
	for _, o := range objects {
		kind := o.GetObjectKind().GroupVersionKind()
		made[kind.Group] = append(slices.Clip(made[kind.Group]), resources[kind.Kind])
		if kind.Kind == "Role" { // nobody gives rights that he has not
			for _, rule := range o.(*rbacv1.Role).Rules {
				if !slices.Contains(rule.Verbs, "watch") {
					continue // everything else whoever deploys has
				}
				for _, group := range rule.APIGroups {
					run[group] = append(run[group], rule.Resources...)
				}
			}
		}
		if slices.Contains(workloads, kind.Kind) {
			run[kind.Group] = append(run[kind.Group], resources[kind.Kind])
		}
	}
	allow := func(of map[string][]string, verbs ...string) {
		for _, group := range slices.Sorted(maps.Keys(of)) {
			names := slices.Compact(slices.Sorted(slices.Values(of[group])))
			rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: names, Verbs: verbs})
		}
	}
	allow(made, "get", "list", "create", "patch", "delete")
	allow(run, "watch")
	core := func(resource string, verbs ...string) { allow(map[string][]string{"": {resource}}, verbs...) }
	core("pods", "get", "list", "delete") // of pods only those that 'down --now' does not wait for are deleted
	if claimed := slices.ContainsFunc(objects, claimsForPods); claimed && !slices.Contains(made[""], resources["PersistentVolumeClaim"]) {
		core(resources["PersistentVolumeClaim"], "get", "list", "delete") // which the cluster makes, and 'down --volumes' removes
	}
	core("pods/log", "get")
	core("events", "list", "create")
	allow(map[string][]string{"metrics.k8s.io": {"pods"}}, "list")
	if made["coordination.k8s.io"] != nil {
		allow(map[string][]string{"coordination.k8s.io": {"leases"}}, "update") // which the control plane holds
	}
	return rules
}

// claimsForPods says whether an object has the cluster claim a volume for each of its pods.
func claimsForPods(o Object) bool {
	set, ok := o.(*appsv1.StatefulSet)
	return ok && len(set.Spec.VolumeClaimTemplates) > 0
}
