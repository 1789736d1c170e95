package kubernetes

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiversion "k8s.io/apimachinery/pkg/util/version"

	"trellis/errdefs"
)

// The minor versions of Kubernetes 1 from which on a cluster has what is rendered for it.
const (
	sleeps      = 30 // a pod waits before it is stopped (preStop.sleep): every pod does
	stopSignals = 33 // lifecycle.stopSignal
	sameNode    = 35 // trafficDistribution PreferSameNode, which cannot be switched off any more
)

// ExportedFor is the version of Kubernetes that objects are for where there is no cluster to ask: it knows all that a file can say.
const ExportedFor = "1.33"

// versionFor is how long the version of the cluster is believed.
const versionFor = 10 * time.Minute

// from says whether a cluster of that version has what there is from a minor version on. One that is not known has not: it would refuse
// what it does not know.
func from(v *apiversion.Version, minor uint) bool {
	return v != nil && v.AtLeast(apiversion.MajorMinor(1, minor))
}

// version returns that of the cluster, nil where it does not say, or whoever asks may not know. One that would refuse every pod:
// ErrUnsupported.
func (e *Engine) version() (*apiversion.Version, error) {
	c := e.client
	c.version.Lock()
	defer c.version.Unlock()
	if time.Since(c.version.asked) > versionFor {
		said, err := c.kinds.version()
		if err != nil && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
			return nil, c.explain(err)
		}
		c.version.is, c.version.asked = nil, time.Now()
		if err == nil {
			if v, err := apiversion.ParseGeneric(said); err == nil {
				c.version.is = v
			}
		}
	}
	v := c.version.is
	if v != nil && !from(v, sleeps) {
		return nil, fmt.Errorf("%w: %s is Kubernetes %s, which cannot have a pod wait before it stops: Trellis takes 1.%d or later",
			errdefs.ErrUnsupported, c.Server, v, sleeps)
	}
	return v, nil
}

// nearby has a Service that leads to the data plane lead to the pod on the node where a caller or a connection from outside
// arrives, where there is one: a node that dies takes its own traffic along, and not half of everybody else's until the cluster has
// noticed.
func (r *renderer) nearby(s *corev1.Service) {
	if from(r.opt.Version, sameNode) {
		s.Spec.TrafficDistribution = pointer(corev1.ServiceTrafficDistributionPreferSameNode)
	}
}
