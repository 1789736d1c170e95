package kubernetes

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"trellis/driver"
	"trellis/engine"
)

// TestContainersBesideTheProgram: in a pod into which others put containers (a mesh does), in any order, it is the program that is told
// of, whose output is read, and in which a command runs.
func TestContainersBesideTheProgram(t *testing.T) {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	pod := corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Labels: map[string]string{labelService: "web", labelProject: "shop", labelManagedBy: managedBy}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "istio-proxy", Ports: []corev1.ContainerPort{{ContainerPort: 15090}}}, {Name: "web", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}},
		}},
		Status: corev1.PodStatus{PodIP: "10.0.0.9", ContainerStatuses: []corev1.ContainerStatus{
			{Name: "istio-proxy", ContainerID: "containerd://other", Ready: true, State: running, RestartCount: 7},
			{Name: "web", ContainerID: "containerd://ours", State: running, RestartCount: 1},
		}},
	}
	if one := instance(pod); one.Address != "10.0.0.9:8080" || one.Container != "ours" || one.Restarts != 1 || one.Ready {
		t.Errorf("told of is %+v", one)
	}
	s, client := cluster(t)
	plain, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&pod)
	if err != nil {
		t.Fatal(err)
	}
	s.objects["/api/v1/namespaces/shop/pods/web-1"] = plain
	ran := ""
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		container := r.URL.Query().Get("container")
		switch {
		case strings.HasSuffix(r.URL.Path, "/log") && container == "":
			answer(w, http.StatusBadRequest, "BadRequest", "a container name must be specified for pod web-1, choose one of: [istio-proxy web]")
		case strings.HasSuffix(r.URL.Path, "/log"):
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprintln(w, "2026-01-02T03:04:05Z output of", container)
		case strings.HasSuffix(r.URL.Path, "/exec"):
			ran = container
			answer(w, http.StatusForbidden, "Forbidden", "may not")
		default:
			return false
		}
		return true
	}
	e := quiet(client)
	r, err := e.Logs(t.Context(), "shop", "web-1", driver.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if text, err := io.ReadAll(r); err != nil || !strings.Contains(string(text), "output of web") {
		t.Errorf("%q, %v", text, err)
	}
	if got := client.tail(t.Context(), &pod, false); len(got) != 1 || !strings.HasSuffix(got[0], "output of web") {
		t.Errorf("its last output is %q", got)
	}
	_, _ = e.Exec(context.WithoutCancel(t.Context()), "shop", engine.InstanceID("web-1"), driver.Command{Args: []string{"ls"}})
	if ran != "web" {
		t.Errorf("a command runs in %q", ran)
	}
}
