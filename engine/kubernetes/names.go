package kubernetes

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"trellis/compose"
)

// maxName is how long the name of a workload may be, so that what Kubernetes makes of it still fits into a label.
const maxName = 52

// short is the hash of a text, as names have it.
func short(text ...string) string {
	h := sha256.New()
	for _, t := range text {
		h.Write([]byte(t))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))[:10]
}

// cleaned returns name as a cluster can have it: a DNS label that begins with a letter, of at most limit bytes.
func cleaned(name string, limit int) string {
	var b strings.Builder
	for _, c := range strings.ToLower(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			b.WriteRune(c)
		default:
			b.WriteByte('-')
		}
	}
	out := strings.Trim(b.String(), "-")
	if out == "" || out[0] >= '0' && out[0] <= '9' {
		out = strings.TrimSuffix("x-"+out, "-")
	}
	if len(out) > limit {
		out = strings.Trim(out[:limit-11], "-") + "-" + short(name)
	}
	return out
}

// NamespaceOf returns the namespace that a project has where nothing says another: its name, where that can be one.
func NamespaceOf(project string) string {
	if len(validation.IsDNS1123Label(project)) == 0 {
		return project
	}
	return cleaned(project, maxName)
}

// labelValue returns text as the value of a label: itself, where it can be one.
func labelValue(text string) string {
	if len(validation.IsValidLabelValue(text)) == 0 {
		return text
	}
	return cleaned(text, validation.LabelValueMaxLength)
}

// names are those of a project's services in the cluster, and which names are given out among the Services.
type names struct {
	of    map[string]string
	taken map[string]bool
}

// newNames gives each service its name: its own, where a cluster can have it.
func newNames(p compose.Project) names {
	n := names{of: map[string]string{}, taken: map[string]bool{}}
	for _, service := range p.ServiceNames() {
		if cleaned(service, maxName) == service {
			n.of[service], n.taken[service] = service, true
		}
	}
	for _, service := range p.ServiceNames() {
		if n.of[service] == "" {
			n.of[service] = n.take(cleaned(service, maxName), service)
		}
	}
	for _, name := range n.of {
		n.taken[name+DirectSuffix] = true
	}
	return n
}

// take gives out a name among the Services; one that is taken gets a hash of whom it is for.
func (n names) take(name, whom string) string {
	if len(name) > validation.DNS1035LabelMaxLength || n.taken[name] {
		name = cleaned(name, validation.DNS1035LabelMaxLength-11) + "-" + short(name, whom)
	}
	n.taken[name] = true
	return name
}

// Names returns what each service of a project is called in a cluster.
func Names(p compose.Project) map[string]string { return newNames(p).of }
