package kubernetes

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"trellis/compose"
	"trellis/telemetry"
	"trellis/telemetry/alerts"
	"trellis/telemetry/metrics"
)

var (
	podMonitorKind     = schema.GroupVersionKind{Group: "monitoring.coreos.com", Version: "v1", Kind: "PodMonitor"}
	prometheusRuleKind = schema.GroupVersionKind{Group: "monitoring.coreos.com", Version: "v1", Kind: "PrometheusRule"}
)

const (
	// ExposedPath is where pods of Trellis itself tell at HealthPort what they measure, as Prometheus asks for it.
	ExposedPath = "/metrics"
	// LabelProject is on all that the cluster's Prometheus has of a project: a cluster has many.
	LabelProject = "trellis_project"

	labelNamespace = "namespace" // which the operator gives to all that it scrapes
	keyScrape      = "key"       // of the Secret that the operator reads

	// How often services are asked for their metrics, and pods of Trellis itself for what is written down here as often: rules look at
	// 20 s of it.
	scrapeServices, scrapeOwn = "15s", "5s"
	evaluateRules             = "15s"
)

// ScrapeKey is what pods of Trellis itself are asked for metrics with, made of the key that they tell everything for; "" of "".
func ScrapeKey(key string) string {
	if key == "" {
		return ""
	}
	sum := hmac.New(sha256.New, []byte(key))
	sum.Write([]byte("scrape"))
	return hex.EncodeToString(sum.Sum(nil))
}

func scrapeName(project string) string { return cleaned("trellis-"+project+"-scrape", maxName) }

// podMonitor is the spec of a PodMonitor (monitoring.coreos.com/v1), as far as it is written here.
type podMonitor struct {
	Selector  metav1.LabelSelector `json:"selector"`
	Endpoints []podEndpoint        `json:"podMetricsEndpoints"`
	// Protocols are asked for in this order: the binary one has native histograms.
	Protocols []string `json:"scrapeProtocols,omitempty"`
	Native    bool     `json:"scrapeNativeHistograms,omitempty"`
}

type podEndpoint struct {
	Port            string         `json:"port"`
	Path            string         `json:"path"`
	Interval        string         `json:"interval"`
	HonorLabels     bool           `json:"honorLabels,omitempty"`
	Authorization   *authorization `json:"authorization,omitempty"`
	Relabel         []relabeling   `json:"relabelings,omitempty"`
	RelabelEachItem []relabeling   `json:"metricRelabelings,omitempty"`
}

type authorization struct {
	Credentials corev1.SecretKeySelector `json:"credentials"`
}

// relabeling is one step; without an action it replaces.
type relabeling struct {
	Action string   `json:"action,omitempty"`
	Source []string `json:"sourceLabels,omitempty"`
	Regex  string   `json:"regex,omitempty"`
	Target string   `json:"targetLabel,omitempty"`
	Value  string   `json:"replacement,omitempty"`
}

// ruleGroup is a group of a PrometheusRule (monitoring.coreos.com/v1), as far as it is written here.
type ruleGroup struct {
	Name     string `json:"name"`
	Interval string `json:"interval,omitempty"`
	Offset   string `json:"query_offset,omitempty"`
	Limit    int    `json:"limit,omitempty"`
	Rules    []rule `json:"rules"`
}

type rule struct {
	Record      string            `json:"record,omitempty"`
	Alert       string            `json:"alert,omitempty"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	KeepFor     string            `json:"keep_firing_for,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// monitoring renders what the Prometheus Operator is told: what exposes metrics, and the rules of the project.
func (r *renderer) monitoring() {
	if !r.monitored() {
		return
	}
	for _, name := range r.p.ServiceNames() {
		r.monitor(r.p.Services[name])
	}
	if r.controlled() {
		m := r.meta(compose.Service{}, scrapeName(r.p.Name))
		r.add(&corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: m, Type: corev1.SecretTypeOpaque,
			Data: map[string][]byte{keyScrape: []byte(ScrapeKey(r.opt.Key))},
		})
		r.add(r.ownMonitor(r.planeMeta(), r.planeSelector()), r.ownMonitor(r.controlMeta(controlName(r.p.Name)), r.controlSelector()))
	}
	if groups := r.ruleGroups(); len(groups) > 0 {
		m := r.meta(compose.Service{}, cleaned("trellis-"+r.p.Name, maxName))
		r.add(made(prometheusRuleKind, m, map[string]any{"groups": groups}))
	}
}

// ofProject are the labels by which everything that a Prometheus has of a project is known there.
func (r *renderer) ofProject() map[string]string {
	all := map[string]string{LabelProject: r.p.Name}
	if r.opt.Namespace != "" {
		all[labelNamespace] = r.opt.Namespace
	}
	return all
}

// monitor has the metrics of a service scraped, with the labels that Trellis itself gives them.
func (r *renderer) monitor(svc compose.Service) {
	m := svc.Trellis.Metrics
	if m == nil || svc.Provided() || r.image(svc) == "" {
		return
	}
	port, ok := metricsPort(svc)
	switch {
	case !ok:
		r.note(at(svc, "x-trellis.metrics"), "has no effect: the file names no port of %s: write port", svc.Name)
		return
	case svc.NetworkMode == "none":
		r.note(at(svc, "x-trellis.metrics"), "has no effect: nobody reaches %s, which has network_mode none", svc.Name)
		return
	}
	fixed := func(label, value string) relabeling { return relabeling{Target: label, Value: value} }
	r.add(made(podMonitorKind, r.meta(svc, r.names.of[svc.Name]), podMonitor{
		Selector: metav1.LabelSelector{MatchLabels: r.selector(svc.Name)},
		Endpoints: []podEndpoint{{Port: port.name, Path: exposedBy(svc), Interval: scrapeServices, Relabel: []relabeling{
			fixed(LabelProject, r.p.Name), fixed("job", svc.Name), fixed("service", svc.Name),
			{Source: []string{"__meta_kubernetes_pod_name"}, Target: "instance"},
			{Source: []string{"__meta_kubernetes_pod_annotation_trellis_dev_revision"}, Target: "revision"},
		}}},
	}))
}

// exposedBy is the path under which a service exposes metrics.
func exposedBy(svc compose.Service) string { return cmp.Or(svc.Trellis.Metrics.Path, ExposedPath) }

// metricsPort is the port at which a service exposes metrics, as Trellis itself looks for it: the one that the file names, else the first.
func metricsPort(svc compose.Service) (port, bool) {
	all := ports(svc)
	i := 0
	if number := svc.Trellis.Metrics.Port; number > 0 {
		i = slices.IndexFunc(all, func(p port) bool { return p.number == clamp(number) && p.protocol == corev1.ProtocolTCP })
	}
	if i < 0 || i >= len(all) {
		return port{}, false
	}
	return all[i], true
}

// ownMonitor has what pods of Trellis itself measure scraped, under their names and labels. What of the scraper's own labels says which pod
// has told it is left out: another pod tells the same series on.
func (r *renderer) ownMonitor(meta metav1.ObjectMeta, pods map[string]string) Object {
	return made(podMonitorKind, meta, podMonitor{
		Selector:  metav1.LabelSelector{MatchLabels: pods},
		Protocols: []string{"PrometheusProto", "OpenMetricsText1.0.0", "PrometheusText0.0.4"}, Native: true,
		Endpoints: []podEndpoint{{
			Port: "health", Path: ExposedPath, Interval: scrapeOwn, HonorLabels: true,
			Authorization: &authorization{corev1.SecretKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: scrapeName(r.p.Name)}, Key: keyScrape,
			}},
			Relabel:         []relabeling{{Target: LabelProject, Value: r.p.Name}},
			RelabelEachItem: []relabeling{{Action: "labeldrop", Regex: "pod|container|endpoint"}},
		}},
	})
}

// unmeasured are the alerts that rest on what no cluster measures: drift is told by a clock of the cluster's, and one driver runs it all.
var unmeasured = []string{alerts.Drifted, alerts.DriverAway}

// ruleGroups are the rules that Trellis itself evaluates, for a store that has other projects too.
func (r *renderer) ruleGroups() (out []ruleGroup) {
	var all []telemetry.RuleGroup
	if r.controlled() {
		all = alerts.OfObjectives(alerts.Objectives(r.p))
		for _, g := range alerts.Defaults() {
			g.Rules = slices.DeleteFunc(g.Rules, func(one telemetry.Rule) bool { return slices.Contains(unmeasured, one.Alert) })
			all = append(all, g)
		}
	}
	all = append(all, r.ruleFiles()...)
	for _, g := range all {
		to := ruleGroup{Name: g.Name, Interval: period(g.Interval), Offset: period(g.Offset), Limit: g.Limit}
		if to.Interval == "" {
			to.Interval = evaluateRules
		}
		for _, one := range g.Rules {
			expr, err := metrics.Within(one.Expr, r.ofProject())
			if err != nil {
				r.refuse("x-trellis.alerts.rules", err.Error())
				continue
			}
			labels := r.ofProject()
			maps.Copy(labels, one.Labels)
			to.Rules = append(to.Rules, rule{
				Record: one.Record, Alert: one.Alert, Expr: expr, For: period(one.For), KeepFor: period(one.KeepFor), Labels: labels, Annotations: one.Annotations,
			})
		}
		out = append(out, to)
	}
	return out
}

// ruleFiles are the groups in the configs that the project names.
func (r *renderer) ruleFiles() (all []telemetry.RuleGroup) {
	if r.p.Trellis.Alerts == nil {
		return nil
	}
	for i, name := range r.p.Trellis.Alerts.Rules {
		content, here := r.opt.Contents["configs/"+name]
		if !here {
			r.note("x-trellis.alerts.rules"+index(i), "has no effect: the content of config %s is not here", name)
			continue
		}
		groups, err := metrics.ParseRules(content)
		if err != nil {
			r.refuse("x-trellis.alerts.rules"+index(i), err.Error())
			continue
		}
		for _, g := range groups {
			g.Name = name + "/" + g.Name // names of groups are one file's own
			all = append(all, g)
		}
	}
	return all
}

// period is a duration as Prometheus writes it, "" for none.
func period(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	if d%time.Second == 0 {
		return strconv.FormatInt(int64(d/time.Second), 10) + "s"
	}
	return strconv.FormatInt(max(1, d.Milliseconds()), 10) + "ms"
}

// scrapers are the pods that the Prometheus Operator makes to ask for metrics, wherever they are.
func scrapers() networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{}, PodSelector: &metav1.LabelSelector{
		MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: labelService, Operator: metav1.LabelSelectorOpIn, Values: []string{"prometheus", "prometheus-agent"}},
			{Key: labelManagedBy, Operator: metav1.LabelSelectorOpIn, Values: []string{"prometheus-operator"}},
		},
	}}
}

// scraped lets the cluster's Prometheus reach the port at which a service exposes metrics.
func (r *renderer) scraped(svc compose.Service) []networkingv1.NetworkPolicyIngressRule {
	if !r.monitored() || svc.Trellis.Metrics == nil || svc.NetworkMode == "none" {
		return nil
	}
	port, ok := metricsPort(svc)
	if !ok {
		return nil
	}
	return []networkingv1.NetworkPolicyIngressRule{{
		From:  []networkingv1.NetworkPolicyPeer{scrapers()},
		Ports: []networkingv1.NetworkPolicyPort{{Protocol: pointer(port.protocol), Port: pointer(intstr.FromInt32(port.number))}},
	}}
}
