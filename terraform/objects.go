package terraform

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"trellis/lazyregexp"
)

// Object is one object of a cluster, as a resource of Terraform's own provider for Kubernetes.
type Object struct {
	Address  string         // of the resource, within its type and its root
	Service  string         // that it belongs to, "" for the project
	Manifest map[string]any // as JSON has it, in which an Expression may stand anywhere
	Wait     string         // for what an apply waits: WaitRollout, WaitComplete, or nothing
	After    []string       // the addresses of what has to be there before
}

// Expression is Terraform code in place of a value.
type Expression string

// What an apply waits for.
const (
	WaitRollout  = "rollout"
	WaitComplete = "complete"
)

// EnvSecret is a Secret of a cluster whose contents are variables that look like secrets.
type EnvSecret struct {
	Address, Object string
	Keys            map[string]string // of the Secret, to those of Root.Hidden
}

// nativeFiles are those of a root in which the objects themselves stand.
func (r Root) nativeFiles(at string) []File {
	files := []File{
		code(at+"/main.tf", r.nativeMain()),
		code(at+"/outputs.tf", fmt.Sprintf(nativeOutputs, quoted(r.Project))),
		code(at+"/variables.tf", r.variables()),
		code(at+"/versions.tf", platformVersions),
		code(at+"/tests/root.tftest.hcl", r.tests()),
	}
	texts := map[string]string{}
	for _, o := range r.Objects {
		name := "project.tf"
		if o.Service != "" {
			name = "service_" + identifier(o.Service) + ".tf"
		}
		texts[name] += o.text()
	}
	for _, s := range r.EnvSecrets {
		texts["project.tf"] += s.text()
	}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		files = append(files, code(at+"/"+name, strings.TrimSpace(texts[name])+"\n"))
	}
	return files
}

func (r Root) nativeMain() string { return clusterProvider + r.platform() }

func (o Object) text() string {
	var b strings.Builder
	manifest := o.Manifest
	if template, ok := o.annotated(); ok {
		fmt.Fprintf(&b, "\nlocals {\n%s = ", o.template())
		value(&b, template)
		b.WriteString("\n}\n")
		manifest = o.numbered()
	}
	fmt.Fprintf(&b, "\nresource \"kubernetes_manifest\" %s {\nmanifest = ", quoted(o.Address))
	value(&b, manifest)
	// A plan that was looked at is what was asked for, also where somebody else has set a field.
	b.WriteString("\n\nfield_manager {\nforce_conflicts = true\n}\n")
	switch o.Wait {
	case WaitRollout:
		b.WriteString("\nwait {\nrollout = true\n}\n")
	case WaitComplete:
		// The cluster labels the pods of a Job; the other two are what the provider has for itself.
		b.WriteString("\ncomputed_fields = [\"metadata.annotations\", \"metadata.labels\", \"spec.template.metadata.labels\"]\n")
		b.WriteString("\nwait {\ncondition {\ntype = \"Complete\"\nstatus = \"True\"\n}\n}\n")
	}
	if o.Wait != "" {
		b.WriteString("\ntimeouts {\ncreate = var.timeout\nupdate = var.timeout\n}\n")
	}
	if len(o.After) > 0 {
		fmt.Fprintf(&b, "\ndepends_on = [%s]\n", strings.Join(o.After, ", "))
	}
	b.WriteString("}\n")
	return b.String()
}

// annotated returns the template of the pods of a workload whose annotations the cluster itself changes with every template:
// a Deployment's number of its ReplicaSet, and a DaemonSet's of its generation.
func (o Object) annotated() (template any, ok bool) {
	if kind := o.Manifest["kind"]; kind != "Deployment" && kind != "DaemonSet" {
		return nil, false
	}
	spec, _ := o.Manifest["spec"].(map[string]any)
	template, ok = spec["template"]
	return template, ok
}

// template is the local value that the template of the pods is.
func (o Object) template() string { return o.Address + "_template" }

// numbered returns the manifest with the template as a local value, and an annotation that is another for each. The provider
// plans the annotations as they were unless the code changes one of them, and fails where they are others after the apply:
// https://github.com/hashicorp/terraform-provider-kubernetes/issues/2808.
func (o Object) numbered() map[string]any {
	local := "local." + o.template()
	m := maps.Clone(o.Manifest)
	spec, _ := m["spec"].(map[string]any)
	spec = maps.Clone(spec)
	spec["template"] = Expression(local)
	metadata, _ := m["metadata"].(map[string]any)
	metadata = maps.Clone(metadata)
	annotations, _ := metadata["annotations"].(map[string]any)
	annotations = maps.Clone(annotations)
	if annotations == nil {
		annotations = map[string]any{}
	}
	annotations["trellis.dev/template"] = Expression("sha256(jsonencode(" + local + "))")
	metadata["annotations"], m["spec"], m["metadata"] = annotations, spec, metadata
	return m
}

// Reference is how another resource of the root names this one.
func (o Object) Reference() string { return "kubernetes_manifest." + o.Address }

func (s EnvSecret) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nresource \"kubernetes_secret_v1\" %s {\nmetadata {\nname = %s\nnamespace = module.platform.namespace\n}\n\ndata = ", quoted(s.Address), quoted(s.Object))
	b.WriteString(object(s.Keys, func(name string) string { return "var.secret_environment[" + quoted(name) + "]" }))
	b.WriteString("\n}\n")
	return b.String()
}

// Reference is how another resource of the root names this one.
func (s EnvSecret) Reference() string { return "kubernetes_secret_v1." + s.Address }

// value writes a value as code.
func value(b *strings.Builder, v any) {
	switch v := v.(type) {
	case Expression:
		b.WriteString(string(v))
	case string:
		b.WriteString(quoted(v))
	case map[string]any:
		if len(v) == 0 {
			b.WriteString("{}")
			return
		}
		b.WriteString("{\n")
		for _, key := range slices.Sorted(maps.Keys(v)) {
			b.WriteString(quotedKey(key) + " = ")
			value(b, v[key])
			b.WriteString("\n")
		}
		b.WriteString("}")
	case []any:
		b.WriteString("[")
		for i, e := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			value(b, e)
		}
		b.WriteString("]")
	default: // numbers, true, false and null are JSON's
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // plain data
		}
		b.Write(text)
	}
}

var plainKey = lazyregexp.New(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// quotedKey writes the key of an object: bare where it can be.
func quotedKey(key string) string {
	if plainKey.MatchString(key) && !slices.Contains([]string{"null", "true", "false", "for", "if", "in"}, key) {
		return key
	}
	return quoted(key)
}

// identifier makes of a text a name of Terraform's.
func identifier(text string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' {
			return c
		}
		return '_'
	}, text)
}

var (
	madeName = lazyregexp.New(`-[0-9a-f]{10}$`)
	newWord  = lazyregexp.New(`([a-z0-9])([A-Z])`)
)

// Address returns the address of the resource of an object, the same for every content that it may have. taken are those
// that are given out, and it is added to them.
func Address(kind, name string, taken map[string]bool) string {
	base := strings.ToLower(newWord.ReplaceAllString(kind, "${1}_${2}")) + "_" + identifier(madeName.ReplaceAllString(name, ""))
	address := base
	for i := 2; taken[address]; i++ {
		address = fmt.Sprintf("%s_%d", base, i)
	}
	taken[address] = true
	return address
}

// Lookup is the value that a variable of the root says for a service, or what the project says.
func Lookup(variable, service string, otherwise any) Expression {
	var b strings.Builder
	value(&b, otherwise)
	return Expression(fmt.Sprintf("lookup(var.%s, %s, %s)", variable, quoted(service), b.String()))
}

// Namespace is the namespace of a root's platform.
const Namespace Expression = "module.platform.namespace"
