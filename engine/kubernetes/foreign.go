package kubernetes

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubejson "k8s.io/apimachinery/pkg/util/json"

	"trellis/compose"
	"trellis/errdefs"
)

// foreign is what a cluster may have besides Kubernetes, as an environment says it: its kinds are written with a few fields of ours, and
// nothing of its own code is linked.
type foreign struct {
	key   string // of the environment
	word  string // its value
	is    string // what it is called
	kinds []schema.GroupVersionKind
}

// foreigners are all that there are.
func foreigners() []foreign {
	return []foreign{
		{"mesh", compose.Istio, "Istio", []schema.GroupVersionKind{peerKind, istioPolicyKind, destinationKind}},
		{"mesh", compose.Linkerd, "Linkerd", []schema.GroupVersionKind{serverKind, linkerdPolicyKind, meshTLSKind, anyNetworkKind, linkerdRouteKind}},
		{"autoscaler", compose.KEDA, "KEDA", []schema.GroupVersionKind{scaledKind}},
		{"monitoring", compose.PrometheusOperator, "the Prometheus Operator", []schema.GroupVersionKind{podMonitorKind, prometheusRuleKind}},
	}
}

// Monitoring returns what in the cluster looks at a project's metrics besides Trellis, "" for nothing.
func Monitoring(p compose.Project) string { return p.Trellis.Environments[p.Environment].Monitoring }

// said is what the environment of a project says for the key of a foreigner.
func (f foreign) said(p compose.Project) bool {
	return f.word == map[string]string{"mesh": Mesh(p), "monitoring": Monitoring(p), "autoscaler": Autoscaler(p)}[f.key]
}

// monitored says whether the Prometheus Operator looks at the project: as whoever renders says, else the environment.
func (r *renderer) monitored() bool {
	return cmp.Or(r.opt.Monitoring, Monitoring(r.p)) == compose.PrometheusOperator
}

// foreignOf returns what a kind comes with; ok is false for one that is Kubernetes' own, or the Gateway API's.
func foreignOf(kind schema.GroupKind) (of foreign, ok bool) {
	for _, f := range foreigners() {
		if slices.ContainsFunc(f.kinds, func(k schema.GroupVersionKind) bool { return k.GroupKind() == kind }) {
			return f, true
		}
	}
	return foreign{}, false
}

// foreignIn says whether the cluster has what the environment of a project says that it has. It has not: ErrUnsupported, which says
// what to do.
func (c *Client) foreignIn(p compose.Project) error {
	for _, f := range foreigners() {
		if !f.said(p) {
			continue
		}
		for _, kind := range f.kinds {
			_, err := c.kinds.find(kind)
			if errors.Is(err, errdefs.ErrUnsupported) {
				at := compose.JoinPath("x-trellis.environments", p.Environment) + "." + f.key
				return fmt.Errorf("%w: %s is %s, and the cluster has no %s (%s): install %s, in a version that has it, or leave %s out",
					errdefs.ErrUnsupported, at, f.word, kind.Kind, kind.GroupVersion(), f.is, f.key)
			}
			if err != nil {
				return c.explain(err)
			}
		}
	}
	return nil
}

// made is an object of a kind for which there is no type here; spec is one of ours that has what is written of it.
func made(kind schema.GroupVersionKind, meta metav1.ObjectMeta, spec any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	if err := kubejson.Unmarshal(mustJSON(map[string]any{"metadata": meta, "spec": spec}), &o.Object); err != nil { // which has whole numbers as such
		panic(err) // it was just written
	}
	unstructured.RemoveNestedField(o.Object, "metadata", "creationTimestamp")
	o.SetGroupVersionKind(kind)
	return o
}
