package kubernetes

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"trellis/compose"
	"trellis/errdefs"
)

const (
	// MetricsNamespace is where MetricsAPI puts what it consists of, if nobody says otherwise.
	MetricsNamespace = "trellis-system"
	// MetricsService is the Service by which the API server reaches it, and MetricsPort the port of its pod.
	MetricsService = "trellis-metrics-api"
	MetricsPort    = 19443
	// MetricsGroup and MetricsVersion are what it serves, of which a cluster has one.
	MetricsGroup   = "external.metrics.k8s.io"
	MetricsVersion = MetricsGroup + "/v1beta1"
	// InstallMetrics is how an administrator installs it.
	InstallMetrics = "trellis export kubernetes --metrics-api | kubectl apply -f -"

	// LoadPath is where the control plane of a project says at its health port what load there is: a Load for each service, by the
	// service's name in the cluster.
	LoadPath = "/load"

	registration  = "v1beta1." + MetricsGroup
	metricsMemory = "128Mi"
)

// Load is how much there was of what the external metrics say of a service, over the last seconds.
type Load struct {
	Concurrency float64 `json:"concurrency"` // requests being worked on or waiting, on average
	RPS         float64 `json:"rps"`         // requests arriving a second
}

// MetricsAPI returns what serves the external metrics of every project in a cluster, made of an image of Trellis. It is one for the cluster,
// and installed by whoever administers that.
func MetricsAPI(namespace, image string) []Object {
	r := newRenderer(compose.Project{}, nil, Options{Namespace: namespace, Image: image})
	labels := map[string]string{labelService: MetricsService}
	meta := metav1.ObjectMeta{Name: MetricsService, Namespace: namespace, Labels: labels}
	all := metav1.ObjectMeta{Name: MetricsService, Labels: labels}
	const group = rbacv1.GroupName
	account := []rbacv1.Subject{{Kind: "ServiceAccount", Name: meta.Name, Namespace: namespace}}
	rights := func(rules ...rbacv1.PolicyRule) []rbacv1.PolicyRule { return rules }
	return []Object{
		&corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		r.ownAccount(meta),
		&rbacv1.ClusterRole{TypeMeta: metav1.TypeMeta{APIVersion: group + "/v1", Kind: "ClusterRole"}, ObjectMeta: all, Rules: rights(
			rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}}, // where the control planes are
			rbacv1.PolicyRule{
				APIGroups: []string{registrations.Group}, Resources: []string{registrations.Resource}, ResourceNames: []string{registration}, Verbs: []string{"get", "patch"},
			},
		)},
		&rbacv1.ClusterRoleBinding{
			TypeMeta: metav1.TypeMeta{APIVersion: group + "/v1", Kind: "ClusterRoleBinding"}, ObjectMeta: all,
			RoleRef: rbacv1.RoleRef{APIGroup: group, Kind: "ClusterRole", Name: all.Name}, Subjects: account,
		},
		&rbacv1.RoleBinding{ // by which requests of the API server itself are known
			TypeMeta: metav1.TypeMeta{APIVersion: group + "/v1", Kind: "RoleBinding"}, ObjectMeta: metav1.ObjectMeta{Name: meta.Name, Namespace: metav1.NamespaceSystem, Labels: labels},
			RoleRef: rbacv1.RoleRef{APIGroup: group, Kind: "Role", Name: "extension-apiserver-authentication-reader"}, Subjects: account,
		},
		metricsDeployment(r, meta),
		&corev1.Service{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: meta,
			Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromInt32(MetricsPort), Protocol: corev1.ProtocolTCP}}},
		},
		metricsRegistration(namespace, labels),
	}
}

// metricsRegistration says to the API server who serves the external metrics. Whom to believe that the server itself adds, see TrustMetrics.
func metricsRegistration(namespace string, labels map[string]string) *unstructured.Unstructured {
	o := object(registrations.GroupVersion().WithKind("APIService"), registration, labels)
	o.Object["spec"] = map[string]any{
		"group": MetricsGroup, "version": "v1beta1", "groupPriorityMinimum": int64(100), "versionPriority": int64(100),
		"service": map[string]any{"name": MetricsService, "namespace": namespace, "port": int64(443)},
	}
	return o
}

func metricsDeployment(r *renderer, meta metav1.ObjectMeta) *appsv1.Deployment {
	c := corev1.Container{
		Name: "metrics-api", Image: r.opt.Image, Args: []string{"serve", "--metrics-api", "--namespace", meta.Namespace},
		Env: noticesSilence(),
		Ports: []corev1.ContainerPort{
			{Name: "health", ContainerPort: HealthPort, Protocol: corev1.ProtocolTCP}, {Name: "https", ContainerPort: MetricsPort, Protocol: corev1.ProtocolTCP},
		},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m"), corev1.ResourceMemory: resource.MustParse("48Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(metricsMemory)},
		},
		ReadinessProbe:           ownReadiness(),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
	return &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: meta,
		Spec: appsv1.DeploymentSpec{
			Replicas: pointer(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: meta.Labels},
			// The API server believes one certificate, which is made by the pod that serves.
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}, RevisionHistoryLimit: new(int32),
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: meta.Labels}, Spec: r.ownPod(meta.Name, c)},
		},
	}
}

var registrations = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}

// TrustMetrics has the API server believe the certificates of an authority when it asks for external metrics.
func (c *Client) TrustMetrics(ctx context.Context, authority []byte) error {
	fail := func(err error) error { return fmt.Errorf("register the external metrics: %w", c.explain(err)) }
	r := c.dynamic.Resource(registrations)
	there, err := r.Get(ctx, registration, metav1.GetOptions{})
	if err != nil {
		return fail(err)
	}
	text := base64.StdEncoding.EncodeToString(authority)
	if now, _, _ := unstructured.NestedString(there.Object, "spec", "caBundle"); now == text {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"caBundle": text}})
	if err != nil {
		return err
	}
	if _, err := r.Patch(ctx, registration, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}); err != nil {
		return fail(err)
	}
	return nil
}

// FrontProxy is how requests are known that the API server passes on.
type FrontProxy struct {
	Authorities *x509.CertPool
	Names       []string // of its certificate; none: any that the authorities have signed
}

// FrontProxy asks the cluster for that.
func (c *Client) FrontProxy(ctx context.Context) (FrontProxy, error) {
	const name = "extension-apiserver-authentication"
	fail := func(err error) (FrontProxy, error) {
		return FrontProxy{}, fmt.Errorf("ask by which certificates the API server is known: %w", err)
	}
	o, err := c.dynamic.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fail(c.explain(err))
	}
	data, _, _ := unstructured.NestedStringMap(o.Object, "data")
	f := FrontProxy{Authorities: x509.NewCertPool()}
	if !f.Authorities.AppendCertsFromPEM([]byte(data["requestheader-client-ca-file"])) {
		return fail(fmt.Errorf("%w: ConfigMap %s of kube-system names no authority in requestheader-client-ca-file: the API server has to be started with --requestheader-client-ca-file", errdefs.ErrUnsupported, name))
	}
	if text := data["requestheader-allowed-names"]; text != "" {
		if err := json.Unmarshal([]byte(text), &f.Names); err != nil {
			return fail(fmt.Errorf("%w: requestheader-allowed-names of ConfigMap %s: %w", errdefs.ErrInvalid, name, err))
		}
	}
	return f, nil
}

// ControlPlane returns the address of the pod that is the control plane of a project.
// There is none that is ready: ErrUnavailable.
func (c *Client) ControlPlane(ctx context.Context, namespace, project string) (host string, err error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("find the control plane of %s in namespace %s: %w", project, namespace, err)
	}
	all, err := c.pods(ctx, namespace, labelProject+"="+project+","+labelComponent+"="+controlPlane)
	if err != nil {
		return fail(err)
	}
	for _, pod := range all {
		if _, ready := readySince(pod); ready && pod.DeletionTimestamp == nil && pod.Status.PodIP != "" {
			return pod.Status.PodIP, nil
		}
	}
	return fail(fmt.Errorf("%w: no pod of it is ready", errdefs.ErrUnavailable))
}

// Measured returns whom an external metric is asked of: the project and the service that a selector's labels name.
func Measured(labels map[string]string) (project, service string) {
	return labels[labelProject], labels[labelService]
}
