package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubejson "k8s.io/apimachinery/pkg/util/json"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"trellis/errdefs"
)

var scalerKind = autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler")

// empty returns an object of a kind with nothing in it: of the type that Render and Read know, or else one that has any fields.
func empty(kind schema.GroupVersionKind) Object {
	switch kind {
	case appsv1.SchemeGroupVersion.WithKind("Deployment"):
		return &appsv1.Deployment{}
	case appsv1.SchemeGroupVersion.WithKind("StatefulSet"):
		return &appsv1.StatefulSet{}
	case appsv1.SchemeGroupVersion.WithKind("DaemonSet"):
		return &appsv1.DaemonSet{}
	case batchv1.SchemeGroupVersion.WithKind("Job"):
		return &batchv1.Job{}
	case corev1.SchemeGroupVersion.WithKind("Service"):
		return &corev1.Service{}
	case pods:
		return &corev1.Pod{}
	case scalerKind:
		return &autoscalingv2.HorizontalPodAutoscaler{}
	case coordinationv1.SchemeGroupVersion.WithKind("Lease"):
		return &coordinationv1.Lease{}
	case gatewayKind:
		return &gatewayv1.Gateway{}
	case httpRouteKind:
		return &gatewayv1.HTTPRoute{}
	case grpcRouteKind:
		return &gatewayv1.GRPCRoute{}
	}
	return &unstructured.Unstructured{}
}

// typed makes of an object one of the types that Render and Read know; any other kind stays as it is.
func typed(o *unstructured.Unstructured) (Object, error) {
	one := empty(o.GroupVersionKind())
	if _, loose := one.(*unstructured.Unstructured); loose {
		return o, nil
	}
	return one, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, one)
}

// list returns the objects of a kind that Trellis made for a project, as each gives them: none where the cluster has no such kind any
// more, for with the definition of a kind goes all that there was of it.
func (c *Client) list(ctx context.Context, kind schema.GroupVersionKind, project string) (all []Object, err error) {
	at, err := c.kinds.find(kind)
	if errors.Is(err, errdefs.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, c.explain(err)
	}
	namespace := ""
	if at.namespaced {
		namespace = c.Namespace
	}
	err = c.each(ctx, at.GroupVersionResource, kind, namespace, selectProject(project).LabelSelector, func(o Object) { all = append(all, o) })
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kind.Kind, c.explain(err))
	}
	return all, nil
}

// each gives take what a selector of labels finds of a kind, in a namespace unless that is "", one object at a time as the API server sends
// them, without who has set which field. A list of hundreds of pods that is read as a whole and as maps takes ten times the memory of
// the pods. Errors are the API server's own.
func (c *Client) each(ctx context.Context, at schema.GroupVersionResource, kind schema.GroupVersionKind, namespace, selector string, take func(Object)) error {
	path := []string{"/api", at.Version}
	if at.Group != "" {
		path = []string{"/apis", at.Group, at.Version}
	}
	if namespace != "" {
		path = append(path, "namespaces", namespace)
	}
	body, err := c.api.Get().AbsPath(append(path, at.Resource)...).Param("labelSelector", selector).SetHeader("Accept", runtime.ContentTypeJSON).Stream(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if err := readList(json.NewDecoder(body), kind, take); err != nil {
		return fmt.Errorf("%w: the API server's answer is cut short or no list: %w", errdefs.ErrUnavailable, err)
	}
	return nil
}

// readList reads a list.
func readList(from *json.Decoder, kind schema.GroupVersionKind, take func(Object)) error {
	if err := delimiter(from, '{'); err != nil {
		return err
	}
	for from.More() {
		key, err := from.Token()
		if err != nil {
			return err
		}
		if key != "items" {
			var other json.RawMessage
			if err := from.Decode(&other); err != nil {
				return err
			}
			continue
		}
		start, err := from.Token()
		if err != nil {
			return err
		}
		if start == nil { // null: there are none
			continue
		}
		if start != json.Delim('[') {
			return fmt.Errorf("items begins with %v", start)
		}
		for from.More() {
			o, err := readItem(from, kind)
			if err != nil {
				return err
			}
			take(o)
		}
		if err := delimiter(from, ']'); err != nil {
			return err
		}
	}
	return delimiter(from, '}')
}

// readItem reads one object of a list, which does not repeat of what kind it is.
func readItem(from *json.Decoder, kind schema.GroupVersionKind) (Object, error) {
	one := empty(kind)
	if o, loose := one.(*unstructured.Unstructured); loose {
		var text json.RawMessage
		if err := from.Decode(&text); err != nil {
			return nil, err
		}
		if err := kubejson.Unmarshal(text, &o.Object); err != nil { // which has whole numbers as such
			return nil, err
		}
		if o.Object == nil {
			return nil, errors.New("an item is null")
		}
	} else if err := from.Decode(one); err != nil {
		return nil, err
	}
	one.GetObjectKind().SetGroupVersionKind(kind)
	one.SetManagedFields(nil)
	return one, nil
}

// delimiter reads one.
func delimiter(from *json.Decoder, want json.Delim) error {
	got, err := from.Token()
	if err == nil && got != want {
		err = fmt.Errorf("%v in place of %v", got, want)
	}
	return err
}
