package kubernetes

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiversion "k8s.io/apimachinery/pkg/util/version"
)

// nearFor is how long a version of the cluster is believed.
const nearFor = 10 * time.Minute

// near says whether the cluster can lead traffic to a pod on the node where it begins: every one from 1.35 on
// (ServiceTrafficDistribution PreferSameNode), where it cannot be switched off any more. Who may not ask is believed to be at an
// older one, which would refuse the Service.
func (e *Engine) near(image string) (bool, error) {
	if image == "" {
		return false, nil
	}
	c := e.client
	c.version.Lock()
	defer c.version.Unlock()
	if time.Since(c.version.asked) <= nearFor {
		return c.version.near, nil
	}
	said, err := c.kinds.ServerVersion()
	if err != nil && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
		return false, c.explain(err)
	}
	c.version.near, c.version.asked = false, time.Now()
	if err == nil {
		v, err := apiversion.ParseGeneric(said.GitVersion)
		c.version.near = err == nil && v.AtLeast(apiversion.MajorMinor(1, 35))
	}
	return c.version.near, nil
}

// nearby has a Service that leads to the data plane lead to the pod on the node where a caller or a connection from outside
// arrives, where there is one: a node that dies takes its own traffic along, and not half of everybody else's until the cluster has
// noticed.
func (r *renderer) nearby(s *corev1.Service) {
	if r.opt.Near {
		s.Spec.TrafficDistribution = pointer(corev1.ServiceTrafficDistributionPreferSameNode)
	}
}
