package kubernetes

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/features"

	"trellis/compose"
)

var classKind = schema.FromAPIVersionAndKind(gatewayv1.GroupVersion.String(), "GatewayClass")

// noteFeatures says what routes ask for that the class of their gateway does not name among what its controller carries out. Not
// every controller refuses such a route: one leaves the time-out out, and another answers every request with an error. Who may not
// look at classes, or gets no answer, hears nothing: it is no reason not to deploy.
func (e *Engine) noteFeatures(ctx context.Context, p compose.Project) {
	if GatewayClass(p) == "" {
		return
	}
	var class gatewayv1.GatewayClass
	there, err := e.client.read(ctx, classKind, GatewayClass(p), &class)
	if err != nil || !there || len(class.Status.SupportedFeatures) == 0 { // a controller that names none knows nothing of naming them
		return
	}
	var asked []features.FeatureName
	by := map[features.FeatureName][]string{}
	for _, x := range decided(p).routings {
		for _, f := range featuresOf(x.object) {
			if slices.Contains(class.Status.SupportedFeatures, gatewayv1.SupportedFeature{Name: gatewayv1.FeatureName(f)}) {
				continue
			}
			if by[f] == nil {
				asked = append(asked, f)
			}
			by[f] = append(by[f], x.place(p))
		}
	}
	for _, f := range asked {
		e.log.WarnContext(ctx, "the cluster's gateway does not say that it carries out what routes ask for: they may do without it, or answer nothing",
			"project", e.project, "gateway_class", class.Name, "feature", string(f), "routes", by[f])
	}
}

// featuresOf returns what a route asks for that not every gateway has to carry out.
func featuresOf(o Object) []features.FeatureName {
	if _, ok := o.(*gatewayv1.GRPCRoute); ok {
		return []features.FeatureName{features.SupportGRPCRoute}
	}
	route, ok := o.(*gatewayv1.HTTPRoute)
	if !ok {
		return nil
	}
	var all []features.FeatureName
	add := func(f features.FeatureName, asked bool) {
		if asked && !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	for _, rule := range route.Spec.Rules {
		for _, m := range rule.Matches {
			add(features.SupportHTTPRouteMethodMatching, m.Method != nil)
		}
		add(features.SupportHTTPRouteBackendTimeout, rule.Timeouts != nil && rule.Timeouts.BackendRequest != nil)
		for _, f := range rule.Filters {
			add(features.SupportHTTPRouteResponseHeaderModification, f.ResponseHeaderModifier != nil)
			add(features.SupportHTTPRouteCORS, f.CORS != nil)
			add(features.SupportHTTPRouteRequestMirror, f.RequestMirror != nil)
			add(features.SupportHTTPRouteRequestPercentageMirror, f.RequestMirror != nil && f.RequestMirror.Fraction != nil)
			add(features.SupportHTTPRoutePathRewrite, f.URLRewrite != nil)
			if to := f.RequestRedirect; to != nil {
				add(features.SupportHTTPRouteSchemeRedirect, to.Scheme != nil)
				add(features.SupportHTTPRoutePortRedirect, to.Port != nil)
				add(features.SupportHTTPRoutePathRedirect, to.Path != nil)
				for status, f := range map[int]features.FeatureName{
					303: features.SupportHTTPRoute303RedirectStatusCode, 307: features.SupportHTTPRoute307RedirectStatusCode,
					308: features.SupportHTTPRoute308RedirectStatusCode,
				} {
					add(f, to.StatusCode != nil && *to.StatusCode == status)
				}
			}
		}
	}
	return all
}
