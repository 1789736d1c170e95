package kubernetes

import (
	"context"
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// rationed says which ResourceQuota or LimitRange of a namespace an API server names in what it refuses, and what to do about that; "" where
// it names none. passing says that there may be room later, for the same request. The server has no type for any of it: its words are those of
// the admission plugins ResourceQuota and LimitRanger.
func rationed(message, namespace string) (why string, passing bool) {
	if _, after, is := strings.Cut(message, "exceeded quota: "); is {
		quota, numbers, _ := strings.Cut(after, ", ")
		return fmt.Sprintf("ResourceQuota %s of namespace %s has no room for it (%s): remove what is not needed there, ask for less (deploy.replicas, deploy.resources), "+
			"or have an administrator raise it", quota, namespace, numbers), true
	}
	if _, after, is := strings.Cut(message, "failed quota: "); is {
		quota, lacks, _ := strings.Cut(after, ": ")
		return fmt.Sprintf("ResourceQuota %s of namespace %s takes only what says how much it needs (%s): set deploy.resources.limits and deploy.resources.reservations, "+
			"or have an administrator set defaults in a LimitRange", quota, namespace, lacks), false
	}
	for _, words := range []string{" usage per ", " limit to request ratio per "} {
		if before, _, is := strings.Cut(message, words); is && (strings.Contains(before, "maximum ") || strings.Contains(before, "minimum ") || strings.HasSuffix(before, " max")) {
			return fmt.Sprintf("a LimitRange of namespace %s does not take it (%s): change deploy.resources of the service, or the size of the volume, "+
				"or have an administrator change it", namespace, message), false
		}
	}
	return "", false
}

// denied says whether an API server says that a webhook or a policy of the cluster has looked at an object and does not take it, which no right
// of whoever asks would change.
func denied(message string) bool {
	return strings.HasPrefix(message, "admission webhook ") && strings.Contains(message, " denied the request") ||
		strings.Contains(message, "ValidatingAdmissionPolicy ") && strings.Contains(message, " denied request")
}

// refusals say why services have fewer pods than they are to have, by service, where the cluster refuses these. Of a Deployment it says so
// itself, of anything else in its events; those from before the newest pod of a service are over.
func (c *Client) refusals(ctx context.Context, live Live) map[string]string {
	all := map[string]string{}
	for _, w := range live.workloads() {
		message := w.refused
		if message == "" && w.kind != "Deployment" && !w.completed && !w.failed {
			message = c.lastRefusal(ctx, w, live.Pods)
		}
		if message == "" {
			continue
		}
		why, _ := rationed(message, c.Namespace)
		if why == "" {
			why = message
		}
		all[w.service] = "its pods are refused: " + why
	}
	return all
}

// lastRefusal returns why a workload could not make a pod last, "" where it has as many as it is to have, or one that is newer.
func (c *Client) lastRefusal(ctx context.Context, w workload, all []corev1.Pod) string {
	there, newest := 0, time.Time{}
	for _, pod := range all {
		if serviceOf(&pod) == w.service && madeBy(&pod, w.kind) && (w.kind != "Job" || pod.Labels[batchv1.JobNameLabel] == w.name) {
			there, newest = there+1, latest(newest, pod.CreationTimestamp.Time)
		}
	}
	if there >= w.want {
		return ""
	}
	at, said := c.lastEvent(ctx, w.kind, w.name, "FailedCreate")
	if at.Before(newest) {
		return ""
	}
	return said
}

// lastEvent returns the newest event of an object that has a reason, and when that was; "" where there is none, or one may not look.
func (c *Client) lastEvent(ctx context.Context, kind, name, reason string) (at time.Time, said string) {
	r, err := c.resource(events)
	if err != nil {
		return at, ""
	}
	list, err := r.List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + name + ",reason=" + reason})
	if err != nil {
		return at, "" // the rest is said without it
	}
	for _, o := range list.Items {
		var e corev1.Event
		if runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &e) != nil || e.InvolvedObject.Kind != kind {
			continue
		}
		if then := latest(e.LastTimestamp.Time, e.EventTime.Time); !then.Before(at) {
			at, said = then, e.Message
		}
	}
	return at, strings.TrimSpace(said)
}
