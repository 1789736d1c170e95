package kubernetes

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Plane says of which image of Trellis the data plane is made.
type Plane struct {
	Image   string // as whoever deploys says it; the cluster keeps it for the next one. NoImage: there is to be none
	Made    string // what whoever deploys has made of their own Trellis, where nobody has ever said it; the cluster keeps it too
	Default string // where there is neither; "": there is no data plane
	Version string // the tag of an image that has none
}

// ImageEnv is the variable that says Plane.Image.
const ImageEnv = "TRELLIS_IMAGE"

// NoImage is the image of a project that is to have no data plane.
const NoImage = "none"

// imageKey is the note of what Plane.Image was last, or after madeMark what Plane.Made was.
const (
	imageKey = "image"
	madeMark = "made "
)

// PlaneSaid says whether somebody has named an image of Trellis for the data plane of a project, and the cluster keeps it.
func (c *Client) PlaneSaid(ctx context.Context, project string) (bool, error) {
	noted, err := c.note(ctx, project, imageKey)
	return noted != "" && !strings.HasPrefix(noted, madeMark), err
}

// PlaneMade returns the image that somebody has made of their own Trellis for the data plane of a project, and that the cluster
// keeps; "" where there is none, or another one was named.
func (c *Client) PlaneMade(ctx context.Context, project string) (string, error) {
	noted, err := c.note(ctx, project, imageKey)
	made, isMade := strings.CutPrefix(noted, madeMark)
	if !isMade {
		made = ""
	}
	return made, err
}

// UsePlane says what the data plane is made of. It is called before the engine is used.
func (e *Engine) UsePlane(p Plane) { e.plane = p }

// planeImage returns the image of the data plane, "" where there is to be none.
func (e *Engine) planeImage(ctx context.Context) (string, error) {
	noted, err := e.client.note(ctx, e.project, imageKey)
	if err != nil {
		return "", err
	}
	return e.plane.Of(noted), nil
}

// Of returns the image of the data plane where noted is what the cluster keeps, "" where there is to be none.
func (p Plane) Of(noted string) string {
	made, isMade := strings.CutPrefix(noted, madeMark)
	if isMade {
		noted = ""
	} else {
		made = ""
	}
	switch image := cmp.Or(p.Image, noted, p.Made, made, p.Default); {
	case image == NoImage:
		return ""
	case untagged(image) && p.Version != "":
		return image + ":" + p.Version
	default:
		return image
	}
}

// note is what the cluster keeps where it keeps noted.
func (p Plane) note(noted string) string {
	made, isMade := strings.CutPrefix(noted, madeMark)
	switch {
	case p.Image != "" && !(isMade && p.Image == made): // a pod's own variable says what was made
		return p.Image
	case p.Image == "" && p.Made != "" && (isMade || noted == ""):
		return madeMark + p.Made
	}
	return noted
}

// planeOf returns the Deployment of the data plane, nil where there is none.
func planeOf(all []Object) *appsv1.Deployment {
	for _, d := range objectsOf[*appsv1.Deployment](all) {
		if d.Labels[labelComponent] == dataPlane {
			return d
		}
	}
	return nil
}

// planeServes says whether a pod of the data plane serves, so that Services may lead to it.
func planeServes(live []Object) bool {
	d := planeOf(live)
	return d != nil && d.Status.AvailableReplicas > 0
}

// awaitsPlane says whether the Services of objects, which were rendered for live, are to lead to the data plane and do not
// yet. One that does not come up is not waited for: it is said, and the instances are called directly.
func (e *Engine) awaitsPlane(ctx context.Context, objects []Object, live Live) bool {
	wanted := planeOf(objects)
	if wanted == nil || planeServes(live.Objects) {
		return false
	}
	why := planeTrouble(imageIn(wanted.Spec.Template.Spec), live, time.Now())
	if why == "" {
		return true
	}
	const without = "the data plane does not come up: calls are not repeated, nothing waits for an instance"
	if len(objectsOf[*gatewayv1.Gateway](objects)) > 0 {
		e.log.WarnContext(ctx, without, "project", e.project, "reason", why)
	} else {
		e.log.WarnContext(ctx, without+", the file's routes lead nowhere", "project", e.project, "reason", why)
	}
	return false
}

func imageIn(pod corev1.PodSpec) string {
	if len(pod.Containers) == 0 {
		return ""
	}
	return pod.Containers[0].Image
}

// planeTrouble says why the data plane will not come up by itself, "" while it may. What became of another image than the one
// that is wanted says nothing.
func planeTrouble(image string, live Live, now time.Time) string {
	for _, pod := range live.Pods {
		if pod.Labels[labelComponent] != dataPlane || pod.DeletionTimestamp != nil || imageIn(pod.Spec) != image {
			continue
		}
		for _, c := range pod.Status.ContainerStatuses {
			imageless := c.State.Waiting != nil && slices.Contains(unmade, c.State.Waiting.Reason) && now.Sub(pod.CreationTimestamp.Time) > stuck
			if why, _ := trouble(pod); imageless || c.RestartCount >= crashes {
				return cmp.Or(why, "it ends again and again")
			}
		}
	}
	d := planeOf(live.Objects)
	if d == nil || d.Status.ObservedGeneration < d.Generation || imageIn(d.Spec.Template.Spec) != image {
		return ""
	}
	for _, c := range d.Status.Conditions {
		switch {
		case c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse, c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue:
			return c.Message
		}
	}
	return ""
}

// goPast says whether Services lead past a data plane that serves: it came up late, or whoever applied them had not seen yet that it
// did, which may be after somebody who had.
func goPast(live []Object) bool {
	return planeServes(live) && slices.ContainsFunc(objectsOf[*corev1.Service](live), func(s *corev1.Service) bool {
		return s.Annotations[annotationPast] != ""
	})
}
