package kubernetes

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"trellis/compose"
)

// place says on which nodes pods may be: as the file says, apart from each other, and together where they share a volume.
func (r *renderer) place(svc compose.Service, k kind, t *corev1.PodTemplateSpec, shared []string) {
	terms, spread := r.placement(svc)
	if os, arch, ok := strings.Cut(svc.Platform, "/"); ok {
		arch, _, _ = strings.Cut(arch, "/")
		for key, value := range map[string]string{"kubernetes.io/os": os, "kubernetes.io/arch": arch} {
			if len(validation.IsValidLabelValue(value)) == 0 && value != "" {
				t.Spec.NodeSelector = with(t.Spec.NodeSelector, key, value)
			}
		}
	}
	affinity := &corev1.Affinity{}
	if len(terms) > 0 {
		affinity.NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: terms}},
		}}
	}
	for _, key := range shared {
		if affinity.PodAffinity == nil {
			affinity.PodAffinity = &corev1.PodAffinity{}
		}
		affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution,
			corev1.PodAffinityTerm{
				TopologyKey: corev1.LabelHostname,
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{
					labelProject: labelValue(r.p.Name), labelVolume + short(key): "shared",
				}},
			})
	}
	most, _ := svc.Deploy.Placement["max_replicas_per_node"].(float64)
	own := &metav1.LabelSelector{MatchLabels: r.selector(svc.Name)}
	if most == 1 {
		affinity.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: corev1.LabelHostname, LabelSelector: own,
		}}}
	} else if most > 1 {
		r.note(at(svc, "deploy.placement.max_replicas_per_node"), "has no effect: a cluster bounds it to 1 only; replicas are spread anyway")
	}
	// However many there are now: another number of replicas is no other pod.
	spreads := k != daemonSet && k != job && len(shared) == 0
	if spreads && len(spread) == 0 {
		spread = []string{corev1.LabelHostname}
		affinity.PodAntiAffinity = cmp.Or(affinity.PodAntiAffinity, &corev1.PodAntiAffinity{})
		affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = otherZones(own)
	}
	if affinity.NodeAffinity != nil || affinity.PodAffinity != nil || affinity.PodAntiAffinity != nil {
		t.Spec.Affinity = affinity
	}
	if !spreads {
		return
	}
	for _, key := range spread {
		c := corev1.TopologySpreadConstraint{MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: own}
		if k == deployment {
			c.MatchLabelKeys = []string{"pod-template-hash"} // those of an older revision do not count
		}
		t.Spec.TopologySpreadConstraints = append(t.Spec.TopologySpreadConstraints, c)
	}
}

// otherZones has pods be in other zones than those of their own kind, as far as nodes are known by zones. As a second
// constraint of the spread it would void the first one where they are not: the scheduler leaves nodes out of its count that
// lack a label of any of them.
func otherZones(own *metav1.LabelSelector) []corev1.WeightedPodAffinityTerm {
	return []corev1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: corev1.LabelTopologyZone, LabelSelector: own}}}
}

// placement reads deploy.placement: what nodes have to be, and over which of their labels replicas are spread.
func (r *renderer) placement(svc compose.Service) (terms []corev1.NodeSelectorRequirement, spread []string) {
	constraints, _ := svc.Deploy.Placement["constraints"].([]any)
	for i, c := range constraints {
		text := fmt.Sprint(c)
		term, ok := constraint(text)
		if !ok {
			r.note(at(svc, "deploy.placement.constraints")+index(i), "has no effect: %q asks for what nodes of a cluster are not known by", text)
			continue
		}
		terms = append(terms, term)
	}
	preferences, _ := svc.Deploy.Placement["preferences"].([]any)
	for i, p := range preferences {
		m, _ := p.(map[string]any)
		key, ok := nodeLabel(fmt.Sprint(m["spread"]))
		if !ok {
			r.note(at(svc, "deploy.placement.preferences")+index(i), "has no effect: nodes of a cluster are not known by %v", m["spread"])
			continue
		}
		if !slices.Contains(spread, key) {
			spread = append(spread, key)
		}
	}
	return terms, spread
}

// constraint reads "node.labels.zone == eu" as Swarm writes it.
func constraint(text string) (corev1.NodeSelectorRequirement, bool) {
	operator := corev1.NodeSelectorOpIn
	key, value, ok := strings.Cut(text, "==")
	if !ok {
		key, value, ok = strings.Cut(text, "!=")
		operator = corev1.NodeSelectorOpNotIn
	}
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if key == "node.role" && ok && (value == "manager" || value == "worker") {
		exists := corev1.NodeSelectorOpExists
		if (value == "manager") != (operator == corev1.NodeSelectorOpIn) {
			exists = corev1.NodeSelectorOpDoesNotExist
		}
		return corev1.NodeSelectorRequirement{Key: "node-role.kubernetes.io/control-plane", Operator: exists}, true
	}
	label, known := nodeLabel(key)
	if known && label == corev1.LabelArchStable { // which Docker names as machines do, and a cluster as Go does
		value = cmp.Or(map[string]string{"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i386": "386", "i686": "386"}[strings.ToLower(value)], value)
	}
	if !ok || !known || len(validation.IsValidLabelValue(value)) > 0 {
		return corev1.NodeSelectorRequirement{}, false
	}
	return corev1.NodeSelectorRequirement{Key: label, Operator: operator, Values: []string{value}}, true
}

// nodeLabel is the label of nodes that a word of Swarm's means.
func nodeLabel(word string) (string, bool) {
	switch word {
	case "node.hostname":
		return corev1.LabelHostname, true
	case "node.platform.os":
		return corev1.LabelOSStable, true
	case "node.platform.arch":
		return corev1.LabelArchStable, true
	}
	label, ok := strings.CutPrefix(word, "node.labels.")
	return label, ok && len(validation.IsQualifiedName(label)) == 0
}
