package kubernetes

import (
	"context"
	"slices"

	apiversion "k8s.io/apimachinery/pkg/util/version"

	"trellis/compose"
)

// ground is what a cluster gives a project besides the project's own objects, and what it keeps for whoever deploys next. It is asked once
// for all that a deploy makes of it.
type ground struct {
	noted   string              // under imageKey
	image   string              // of Trellis, "" where there is to be neither data plane nor control plane
	durable bool                // the control plane gets a volume
	metered bool                // what wants to be scaled by requests can be
	key     []byte              // under which refs are made; nil: none yet
	version *apiversion.Version // of the cluster, nil where it does not say
}

// ground asks for it.
func (e *Engine) ground(ctx context.Context, p compose.Project, live Live) (g ground, err error) {
	if g.noted, err = e.client.note(ctx, e.project, imageKey); err != nil {
		return g, err
	}
	g.image = e.plane.Of(g.noted)
	if g.key, err = e.client.refKey(ctx, e.project, false); err != nil {
		return g, err
	}
	if g.durable, err = e.durable(ctx, g.image, live); err != nil {
		return g, err
	}
	if g.version, err = e.version(); err != nil {
		return g, err
	}
	g.metered, err = e.metered(p, g.image, live)
	return g, err
}

// noteGround keeps for whoever comes next what was said of the image of Trellis, and says what it means that something is not there.
func (e *Engine) noteGround(ctx context.Context, p compose.Project, g ground) error {
	if g.image == "" && e.plane.Image != NoImage && g.noted != NoImage {
		const without, remedy = "there is no data plane and no control plane in the cluster: calls are not repeated, nothing waits for an instance, ", "nothing is measured; name a registry that the cluster pulls from (--registry), or an image of trellis in TRELLIS_IMAGE"
		if GatewayClass(p) != "" {
			e.log.WarnContext(ctx, without+remedy, "project", e.project)
		} else {
			e.log.WarnContext(ctx, without+"the file's routes lead nowhere, "+remedy, "project", e.project)
		}
	}
	if g.image != "" && !g.durable {
		e.log.WarnContext(ctx, "the cluster has no storage class that is its default: what the control plane there measures and hears goes with its pod", "project", e.project)
	}
	if g.image != "" && !g.metered && Autoscaler(p) == "" && slices.ContainsFunc(p.ServiceNames(), func(name string) bool { return byRequests(p.Services[name]) }) {
		e.log.WarnContext(ctx, "nothing is scaled by requests: the cluster has no metrics API of Trellis, or it does not answer; an administrator installs it once for all projects, then repeat",
			"project", e.project, "with", InstallMetrics)
	}
	if !from(g.version, stopSignals) {
		for _, name := range p.ServiceNames() {
			if p.Services[name].StopSignal != "" {
				e.log.WarnContext(ctx, "the cluster knows no stop_signal: the image's own is sent; it takes Kubernetes 1.33 or later", "project", e.project, "service", name)
			}
		}
	}
	e.noteFeatures(ctx, p)
	e.noteInjector(ctx, p)
	if now := e.plane.note(g.noted); now != g.noted {
		return e.client.setNote(ctx, e.project, imageKey, now)
	}
	return nil
}
