// Package kubernetes is the engine for a cluster. Kubernetes itself runs what is rendered here; nothing in this package
// schedules, restarts or balances anything.
//
// Render makes the objects of a project, Notes says what becomes of it otherwise than its file says, Read tells what a
// cluster says of the objects as an engine.State. All three are pure.
package kubernetes

import (
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiversion "k8s.io/apimachinery/pkg/util/version"

	"trellis/state"
)

// Labels and annotations by which objects are found again. The selectors of a workload can never change: they are the
// project and the service, and nothing else.
const (
	labelProject   = "app.kubernetes.io/part-of"
	labelService   = "app.kubernetes.io/name" // the service's name as a cluster can have it
	labelManagedBy = "app.kubernetes.io/managed-by"
	labelComponent = "app.kubernetes.io/component" // of Trellis' own pods, and of those that prepare a service
	// labelVolume begins the label of pods that have to be on one node because they share a volume.
	labelVolume = "volume.trellis.dev/"

	// annotationService is a service's name in the file, where labelService cannot be it.
	annotationService = "trellis.dev/service"
	// annotationRevision is on pods the revision that asked for them: one that changes nothing about them does not count.
	annotationRevision = "trellis.dev/revision"
	annotationHash     = "trellis.dev/hash" // of everything else about a pod
	// annotationRestart counts how often pods were asked to be made anew.
	annotationRestart = "trellis.dev/restart"
	// labelNowhere is a label that no node has: of pods that are to be on none.
	labelNowhere = "trellis.dev/stopped"
	// annotationPast is on Services that lead past the data plane for as long as that does not serve.
	annotationPast = "trellis.dev/past"
	// annotationFollows is the hash of the pods of a service's dependencies with restart: true.
	annotationFollows = "trellis.dev/follows"

	managedBy    = "trellis"
	byNobody     = "kustomize" // of objects that are exported: Trellis does not know them again
	dataPlane    = "data-plane"
	controlPlane = "control-plane"
	preparation  = "pre-start"
)

// DirectSuffix is what the name of a service's headless Service ends with: it is where instances are found one by one.
const DirectSuffix = "-direct"

// firstMeshPort is the first port that the data plane's pods listen on for services; each port of each service has one.
const firstMeshPort = 20000

// Object is one object of a cluster, of a type of k8s.io/api or of the Gateway API.
type Object interface {
	metav1.Object
	runtime.Object
}

// Live is what a cluster says of a project's objects.
type Live struct {
	Objects []Object
	Leaving []Object // workloads that serve until one of another kind does in their place, see dismiss
	Pods    []corev1.Pod
	At      time.Time         // when it said so; zero: nobody knows
	Refused map[string]string // why pods are refused, by service, as far as that was asked
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

// Options say what the file does not. The zero value renders a project that nothing else is known of.
type Options struct {
	Namespace string // "" leaves it open
	// Revision is the one that is applied. With 0 the objects are nobody's: they carry nothing that Trellis reads, as an
	// export has them.
	Revision int64
	// AppliedAt is when it was applied: a time to live begins then.
	AppliedAt time.Time
	// Images are the images by service, pinned by digest; a service that is not in it runs its own image as written.
	Images map[string]string
	// Contents are those of secrets and configs, as compose.Contents returns them. What is not among them is taken for an
	// object that the namespace has already.
	Contents map[string][]byte
	// Folders are what bind mounts of the project hold, by path; see ReadFolders.
	Folders map[string]Folder
	// Overrides are the wishes beside the file, by service.
	Overrides map[string]state.Override
	// Standalone leaves the data plane out: the Service of a service leads to its instances. So it is without an Image.
	Standalone bool
	// Image is that of Trellis itself, of which the data plane is made.
	Image string
	// Durable gives the control plane a volume; without it, what it knows goes with its pod.
	Durable bool
	// Metered says that the cluster has the external metrics of Trellis, see MetricsAPI: it can scale by requests.
	Metered bool
	// Version is that of the cluster, nil where nobody knows: what it does not know yet is left out. See ExportedFor.
	Version *apiversion.Version
	// Key is what the pods of the data plane are asked with for what they have measured; "": they tell nobody.
	Key string
	// Direct has the Services lead to the instances although there is to be a data plane: it does not serve yet.
	Direct bool
	// Gates are the images of the containers that hold a pod back until what it depends on is there. Without them nothing
	// holds it back: whoever applies the objects keeps the order.
	Gates Gates
	// Publish is how published ports are opened to the outside; "" is PublishLoadBalancer.
	Publish string
	// GatewayClass names the class of the Gateway that routes are mounted on; "" renders no routes.
	GatewayClass string
	// Mesh says which mesh of the cluster the project is a part of; "" is what the environment says.
	Mesh string
	// Monitoring says what in the cluster looks at metrics besides Trellis; "" is what the environment says.
	Monitoring string
	// Autoscaler says what of the cluster scales services; "" is what the environment says.
	Autoscaler string
	// StorageClass is the class of volumes; "" is the cluster's default.
	StorageClass string
	// VolumeSize is the size of volumes in bytes; 0 is 1 GiB.
	VolumeSize int64
	// PullSecrets name the Secrets of the namespace that registries ask for.
	PullSecrets []string
	// PriorityClass is the class of the project's pods; "" is the cluster's default.
	PriorityClass string
}

// Gates are the images of the containers that wait.
type Gates struct {
	Wait string // has a shell and nc, as busybox has
	Ask  string // is kubectl
}

// How published ports are opened.
const (
	PublishLoadBalancer = "load-balancer"
	PublishNodePort     = "node-port" // the cluster chooses the ports
	PublishNone         = "none"
)

func revisionOf(m metav1.ObjectMeta) int64 {
	n, err := strconv.ParseInt(m.Annotations[annotationRevision], 10, 64)
	if err != nil {
		return 0 // not ours, or written by hand
	}
	return n
}

// InCluster returns what the service that an object belongs to is called in a cluster, "" for an object of the project.
func InCluster(o metav1.Object) string { return o.GetLabels()[labelService] }

// serviceOf returns the service that an object belongs to, as the file calls it.
func serviceOf(o metav1.Object) string {
	if name := o.GetAnnotations()[annotationService]; name != "" {
		return name
	}
	return o.GetLabels()[labelService]
}

func pointer[T any](v T) *T { return &v }
