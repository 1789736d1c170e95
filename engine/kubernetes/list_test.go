package kubernetes

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"trellis/errdefs"
)

// answering is an API server that has every kind, and answers all that it is asked of them with one text.
func answering(t testing.TB, text string) *Client {
	t.Helper()
	s, c := cluster(t)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/") {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, text)
		return true
	}
	return c
}

// TestList: a list is read as client-go reads it, but for who has set which field; an answer that is cut short, or is none, is an error,
// and never less than there is.
func TestList(t *testing.T) {
	const pod = `{"metadata": {"name": "web-1", "generation": 3, "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}]},
		"spec": {"containers": [{"name": "web", "ports": [{"containerPort": 8080}]}]}, "status": {"podIP": "10.0.0.1"}}`
	for name, test := range map[string]struct {
		text string
		want int
		fail bool
	}{
		"none":              {`{"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []}`, 0, false},
		"null":              {`{"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": null}`, 0, false},
		"some":              {`{"kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": [` + pod + `, ` + pod + `]}`, 2, false},
		"items first":       {`{"items": [` + pod + `], "metadata": {"a": [{"items": [1]}]}}`, 1, false},
		"cut in an item":    {`{"items": [` + pod + `, {"metadata": {"na`, 0, true},
		"cut between items": {`{"items": [` + pod, 0, true},
		"cut after items":   {`{"items": [` + pod + `]`, 0, true},
		"nothing":           {``, 0, true},
		"no object":         {`[1]`, 0, true},
		"no list":           {`{"items": {"a": 1}}`, 0, true},
		"an item is a text": {`{"items": ["a"]}`, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := answering(t, test.text)
			all, err := c.podsOf(t.Context(), "shop", "")
			maps, merr := c.list(t.Context(), configMaps, "shop")
			if test.fail {
				if !errors.Is(err, errdefs.ErrUnavailable) || !errors.Is(merr, errdefs.ErrUnavailable) {
					t.Fatalf("got %v and %v, want ErrUnavailable", err, merr)
				}
				return
			}
			if err != nil || merr != nil || len(all) != test.want || len(maps) != test.want {
				t.Fatalf("got %d pods and %d other objects, %v, %v", len(all), len(maps), err, merr)
			}
			var theirs unstructured.UnstructuredList
			if err := theirs.UnmarshalJSON([]byte(strings.Replace(test.text, "{", `{"kind": "PodList", "apiVersion": "v1",`, 1))); err != nil {
				t.Fatal(err)
			}
			for i, one := range theirs.Items {
				one.SetManagedFields(nil)
				var want corev1.Pod
				if err := runtime.DefaultUnstructuredConverter.FromUnstructured(one.Object, &want); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(all[i], want) {
					t.Errorf("pod %d is %v, want %v", i, all[i], want)
				}
				one.SetKind("ConfigMap")
				if got := maps[i].(*unstructured.Unstructured); !reflect.DeepEqual(got.Object, one.Object) {
					t.Errorf("object %d is %v, want %v", i, got.Object, one.Object)
				}
			}
		})
	}
}

// BenchmarkPods reads the pods of 500 services of four instances, and beside that as client-go's dynamic client does: the whole answer,
// then all pods as maps, then as pods.
func BenchmarkPods(b *testing.B) {
	const n = 2000
	owned := `{"f:status":{"f:conditions":{` + strings.Repeat(`"k:{\"type\":\"Ready\"}":{".":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}},`, 8) + `"k:{}":{}}}}`
	var items []string
	for i := range n {
		pod := corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprint("web-", i), Namespace: "shop", UID: "0f4e7d0e-4e0b-4a57-9d36-6c2a6b0f4e3f", Labels: selectedLabels("web"),
				ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet", Operation: "Update", FieldsV1: metav1.NewFieldsV1(owned)}},
			},
			Spec: corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{
				Name: "web", Image: "registry.example/web@sha256:0123456789abcdef", Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
				Env: []corev1.EnvVar{{Name: "PORT", Value: "8080"}, {Name: "LEVEL", Value: "info"}},
			}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", ContainerStatuses: []corev1.ContainerStatus{{Name: "web", Ready: true}}},
		}
		for _, c := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
			pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue})
		}
		items = append(items, string(mustJSON(pod)))
	}
	text := `{"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [` + strings.Join(items, ",") + `]}`
	if !json.Valid([]byte(text)) {
		b.Fatal("the list is no JSON")
	}
	c := answering(b, text)
	read := func(b *testing.B, how func() (int, error)) {
		b.ReportAllocs()
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			if got, err := how(); got != n || err != nil {
				b.Fatal(got, err)
			}
		}
	}
	b.Run("one at a time", func(b *testing.B) {
		read(b, func() (int, error) {
			all, err := c.podsOf(b.Context(), "shop", "")
			return len(all), err
		})
	})
	b.Run("client-go", func(b *testing.B) {
		read(b, func() (int, error) {
			list, err := c.dynamic.Resource(corev1.SchemeGroupVersion.WithResource("pods")).Namespace("shop").List(b.Context(), selectProject("shop"))
			if err != nil {
				return 0, err
			}
			all := make([]corev1.Pod, len(list.Items))
			for i, o := range list.Items {
				if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &all[i]); err != nil {
					return 0, err
				}
			}
			return len(all), nil
		})
	})
}

func selectedLabels(service string) map[string]string {
	return map[string]string{labelProject: "shop", labelManagedBy: managedBy, labelService: service}
}
