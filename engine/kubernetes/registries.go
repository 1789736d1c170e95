package kubernetes

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"trellis/compose"
	"trellis/errdefs"
)

// Where clusters for development announce the registry that they pull from (KEP-1755): kind, k3d, minikube and microk8s have
// it, or their guides tell how.
const (
	publicNamespace = "kube-public"
	hostingName     = "local-registry-hosting"
	hostingKey      = "localRegistryHosting.v1"
)

// HostingConfigMap is where a cluster announces its registry, for people.
const HostingConfigMap = publicNamespace + "/" + hostingName

// Hosting is a registry of a cluster for development.
type Hosting struct {
	Host        string `json:"host"`                     // as machines outside of the cluster push to it
	FromRuntime string `json:"hostFromContainerRuntime"` // as its nodes pull from it; "": the same
}

// Hosting returns the registry that the cluster announces, the zero Hosting where it announces none or does not tell.
func (c *Client) Hosting(ctx context.Context) (Hosting, error) {
	o, err := c.dynamic.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(publicNamespace).Get(ctx, hostingName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return Hosting{}, nil
	}
	if err != nil {
		return Hosting{}, fmt.Errorf("look for the cluster's registry: %w", c.explain(err))
	}
	data, _, _ := unstructured.NestedStringMap(o.Object, "data")
	var h Hosting
	if err := yaml.Unmarshal([]byte(data[hostingKey]), &h); err != nil {
		return Hosting{}, fmt.Errorf("look for the cluster's registry: ConfigMap %s of namespace %s: %w: %w", hostingName, publicNamespace, errdefs.ErrInvalid, err)
	}
	return h, nil
}

// NodeAddresses returns the addresses of the cluster's nodes inside of it, none where whoever asks may not see nodes.
func (c *Client) NodeAddresses(ctx context.Context) ([]string, error) {
	nodes, err := c.nodes(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("look at the cluster's nodes: %w", err)
	}
	var all []string
	for _, node := range nodes {
		for _, a := range node.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				all = append(all, a.Address)
			}
		}
	}
	return all, nil
}

// nodes lists the cluster's nodes, none where whoever asks may not see them.
func (c *Client) nodes(ctx context.Context, opt metav1.ListOptions) ([]corev1.Node, error) {
	r, err := c.resource(corev1.SchemeGroupVersion.WithKind("Node"))
	if err != nil {
		return nil, err
	}
	list, err := r.List(ctx, opt)
	if apierrors.IsForbidden(err) {
		return nil, nil
	}
	if err != nil {
		return nil, c.explain(err)
	}
	all := make([]corev1.Node, len(list.Items))
	for i, o := range list.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &all[i]); err != nil {
			return nil, fmt.Errorf("read node %s: %w", o.GetName(), err)
		}
	}
	return all, nil
}

// ofArtifacts says whether a service runs an image that was made of its artefacts: that has what runs in it, and where.
func ofArtifacts(svc compose.Service) bool {
	return svc.Trellis.ImageID != "" && svc.Trellis.Process != nil && svc.Trellis.Process.Artifact != ""
}
