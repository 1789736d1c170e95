// Package kubernetes is the engine for a cluster. Kubernetes itself runs what is rendered here; nothing in this package
// schedules, restarts or balances anything.
//
// It is a first slice: Render makes the Deployments, the pairs of Services and the Lease of a project, Read tells what a
// cluster says of these objects as an engine.State. It exists so that the contract of package engine is not shaped by
// one machine alone; docs/decisions/100 says what it has taught. What it does not render it refuses, with the path.
package kubernetes

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"trellis/compose"
)

// Labels and annotations by which objects are found again. The selectors of a Deployment can never change: they are the
// project and the service, and nothing else.
const (
	labelProject   = "app.kubernetes.io/part-of"
	labelService   = "app.kubernetes.io/name"
	labelManagedBy = "app.kubernetes.io/managed-by"
	labelComponent = "app.kubernetes.io/component" // of Trellis' own pods

	// annotationRevision is on pods the revision that asked for them: one that changes nothing about them does not count.
	annotationRevision = "trellis.dev/revision"
	annotationHash     = "trellis.dev/hash" // of everything else about a pod

	managedBy    = "trellis"
	dataPlane    = "data-plane"
	controlPlane = "control-plane"
)

// DirectSuffix is what the name of a service's headless Service ends with: it is where the data plane finds instances.
const DirectSuffix = "-direct"

// firstMeshPort is the first port that the data plane's pods listen on for services; each port of each service has one.
const firstMeshPort = 20000

// Object is one object of a cluster, of a type of k8s.io/api.
type Object interface {
	metav1.Object
	runtime.Object
}

// Live is what a cluster says of a project's objects.
type Live struct {
	Objects []Object
	Pods    []corev1.Pod
}

// objectsOf returns those of one type, in their order.
func objectsOf[T Object](all []Object) []T {
	var out []T
	for _, o := range all {
		if one, ok := o.(T); ok {
			out = append(out, one)
		}
	}
	return out
}

// Options say what the file does not.
type Options struct {
	Namespace string
	Revision  int64 // that is applied
	// Images are the images by service, pinned by digest; a service that is not in it runs its own image as written.
	Images map[string]string
	// Standalone leaves the data plane out: the Service of a service leads to its instances.
	Standalone bool
}

func revisionOf(m metav1.ObjectMeta) int64 {
	n, err := strconv.ParseInt(m.Annotations[annotationRevision], 10, 64)
	if err != nil {
		return 0 // not ours, or written by hand
	}
	return n
}

// labels are those of every object of a service.
func labels(p compose.Project, service string) map[string]string {
	return map[string]string{labelProject: p.Name, labelService: service, labelManagedBy: managedBy}
}

// selector finds the pods of a service.
func selector(p compose.Project, service string) map[string]string {
	return map[string]string{labelProject: p.Name, labelService: service}
}

// meta is that of an object of a service.
func meta(p compose.Project, service, name string, opt Options) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: opt.Namespace, Labels: labels(p, service)}
}
