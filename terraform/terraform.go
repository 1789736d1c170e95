// Package terraform writes a project down as Terraform code: a root for each environment, over modules that they share.
// It knows texts only: what a project is in an environment comes from its caller, and the same input gives the same bytes.
package terraform

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// Root is one environment of a project.
type Root struct {
	Name    string // of the environment: its folder
	Project string // the project's name as it runs there
	Compose []byte // the text of its Compose file, of which the paths start from Directory
	// Directory is the project's, relative to the root.
	Directory string
	// Cluster says where it runs, nil for the machine where Terraform runs.
	Cluster *Cluster
	// Images and Replicas are the variables of Compose by the services that they are of, with what they are unset.
	Images, Replicas map[string]Variable
	// Secrets are those of the project whose content the cluster's namespace has to have, by name.
	Secrets map[string]Secret
	// Hidden are variables of Compose that have no value in the file, by what they are for: "SERVICE.VARIABLE".
	Hidden map[string]string
	// Objects are the cluster's own, in place of a Compose file that Trellis runs; nil where it does.
	Objects    []Object
	EnvSecrets []EnvSecret
}

// native says that a root has the cluster's own objects.
func (r Root) native() bool { return r.Objects != nil }

// Cluster is a place in a cluster. A context of "" is the current one.
type Cluster struct{ Context, Namespace string }

// Variable is a variable of a Compose file and its default.
type Variable struct{ Name, Default string }

// Secret is a Secret of a cluster: its name, and the key at which the content is.
type Secret struct{ Object, Key string }

// File is one file of the export. An Own one belongs to the user: it is written once and never again.
type File struct {
	Path string // slash-separated, below the folder of the export
	Text []byte
	Own  bool
}

// CloudNone is the cloud of a platform that is there already: a cluster, or the machine where Terraform runs.
const CloudNone = "none"

// Files returns the export of a project for a platform that is there already, in order of path.
//
// The modules are the seam for a platform that is not: whatever module "platform" a root has, its outputs namespace and
// context are all that module "application" needs to know of it.
func Files(project string, roots []Root) []File {
	files := []File{{Path: "README.md", Text: readme(project, roots)}}
	if !slices.ContainsFunc(roots, Root.native) {
		files = append(files,
			code("modules/application/main.tf", applicationMain),
			code("modules/application/outputs.tf", fmt.Sprintf(outputs,
				"trellis_project.this.project", "trellis_project.this.revision", gatewayOutput, "data.trellis_outputs.this.ports")),
			code("modules/application/variables.tf", applicationVariables),
			code("modules/application/versions.tf", versions(false)),
		)
	}
	if slices.ContainsFunc(roots, func(r Root) bool { return r.Cluster != nil }) {
		files = append(files,
			code("modules/platform/main.tf", platformMain),
			code("modules/platform/outputs.tf", platformOutputs),
			code("modules/platform/variables.tf", platformVariables),
			code("modules/platform/versions.tf", platformVersions),
		)
	}
	for _, r := range roots {
		at := path.Join("environments", r.Name)
		files = append(files, File{Path: at + "/terraform.tfvars", Text: hclwrite.Format([]byte(r.values())), Own: true})
		if r.native() {
			files = append(files, r.nativeFiles(at)...)
			continue
		}
		files = append(files,
			code(at+"/main.tf", r.main()),
			code(at+"/outputs.tf", fmt.Sprintf(outputs,
				"module.application.project", "module.application.revision", "module.application.gateway", "module.application.ports")),
			code(at+"/variables.tf", r.variables()),
			code(at+"/versions.tf", versions(r.Cluster != nil)),
			code(at+"/tests/root.tftest.hcl", r.tests()),
			File{Path: at + "/compose.yaml", Text: r.Compose},
		)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files
}

// code is a generated file in Terraform's own form.
func code(path, text string) File { return File{Path: path, Text: hclwrite.Format([]byte(text))} }

// quoted writes a text as HCL does.
func quoted(text string) string {
	return string(hclwrite.TokensForValue(cty.StringVal(text)).Bytes())
}

// escape writes a text as a part of a quoted one.
func escape(text string) string {
	q := quoted(text)
	return q[1 : len(q)-1]
}

// list writes texts as a list.
func list(texts []string) string {
	all := make([]string, len(texts))
	for i, text := range texts {
		all[i] = quoted(text)
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// object writes a map with a line for each key, in order.
func object[V any](m map[string]V, value func(V) string) string {
	if len(m) == 0 {
		return "{}"
	}
	var b strings.Builder
	b.WriteString("{\n")
	for _, key := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s = %s\n", quoted(key), value(m[key]))
	}
	b.WriteString("}")
	return b.String()
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// versions are the requirements of a module that runs a project.
func versions(cluster bool) string {
	more := ""
	if cluster {
		more = kubernetesProvider
	}
	return fmt.Sprintf(`terraform {
required_version = ">= 1.9"
required_providers {
trellis = {
source = "trellis/trellis"
}
%s}
}
`, more)
}

func (r Root) main() string {
	var b strings.Builder
	name := func(v Variable) string { return quoted(v.Name) }
	fmt.Fprintf(&b, `locals {
# Which variable of compose.yaml says what of a service.
images = %s
replicas = %s
secret_environment = %s
}

provider "trellis" {
command = var.trellis_command
`, object(r.Images, name), object(r.Replicas, name), object(r.Hidden, quoted))
	if r.Cluster == nil {
		b.WriteString("}\n\n" + r.application("local", "null", "null"))
		return b.String()
	}
	b.WriteString("kubeconfig = pathexpand(var.kubeconfig)\n}\n\n" + clusterProvider + r.platform() + "\n")
	b.WriteString(r.application("kubernetes", "module.platform.context", "module.platform.namespace"))
	return b.String()
}

// clusterProvider is the provider for the cluster of a root.
const clusterProvider = `provider "kubernetes" {
config_path = pathexpand(var.kubeconfig)
config_context = var.context
}

`

// platform is the module that a root in a cluster runs on.
func (r Root) platform() string {
	return fmt.Sprintf(`# Where the application runs. Another platform may take its place: what it has to have is what its outputs say.
module "platform" {
source = "../../modules/platform"

project = %s
context = var.context
namespace = var.namespace
secrets = %s
contents = var.secrets
}
`, quoted(r.Project), object(r.Secrets, func(s Secret) string {
		return fmt.Sprintf("{ object = %s, key = %s }", quoted(s.Object), quoted(s.Key))
	}))
}

func (r Root) application(engine, context, namespace string) string {
	return fmt.Sprintf(`module "application" {
source = "../../modules/application"

file = "${path.root}/compose.yaml"
project_directory = "${path.root}/%s"
engine = %s
context = %s
namespace = %s
variables = merge(
{ for service, image in var.images : local.images[service] => image },
{ for service, n in var.replicas : local.replicas[service] => tostring(n) },
)
secret_variables = { for name, variable in local.secret_environment : variable => var.secret_environment[name] }
delete_volumes = var.delete_volumes
timeout = var.timeout
}
`, escape(r.Directory), quoted(engine), context, namespace)
}

func (r Root) variables() string {
	var b strings.Builder
	if r.Cluster != nil {
		fmt.Fprintf(&b, clusterVariables, orNull(r.Cluster.Context), quoted(r.Cluster.Namespace))
		fmt.Fprintf(&b, secretsVariable, "secrets", "The contents of the project's secrets, by name.", defaultOf(r.Secrets), list(keys(r.Secrets)), "secrets", "secrets", list(keys(r.Secrets)))
	}
	fmt.Fprintf(&b, secretsVariable, "secret_environment", "The values of environment variables that look like secrets, as SERVICE.VARIABLE.",
		defaultOf(r.Hidden), list(keys(r.Hidden)), "secret_environment", "secret_environment", list(keys(r.Hidden)))
	fmt.Fprintf(&b, rootVariables, list(keys(r.Images)), list(keys(r.Replicas)))
	if !r.native() {
		b.WriteString(trellisVariables)
	}
	return b.String()
}

// defaultOf is the default of a map that has to have some keys: none where it has to have none.
func defaultOf[V any](m map[string]V) string {
	if len(m) == 0 {
		return "default = {}\n"
	}
	return ""
}

func orNull(text string) string {
	if text == "" {
		return "null"
	}
	return quoted(text)
}

func (r Root) tests() string {
	var b strings.Builder
	b.WriteString("# Plans with providers that do nothing: 'terraform test' needs no cluster and changes nothing.\n")
	if !r.native() {
		b.WriteString("mock_provider \"trellis\" {}\n")
	}
	if r.Cluster != nil {
		b.WriteString("mock_provider \"kubernetes\" {}\n")
	}
	if len(r.Secrets)+len(r.Hidden) > 0 {
		b.WriteString("\nvariables {\n")
		if len(r.Secrets) > 0 {
			fmt.Fprintf(&b, "secrets = %s\n", object(r.Secrets, func(Secret) string { return `"for the test"` }))
		}
		if len(r.Hidden) > 0 {
			fmt.Fprintf(&b, "secret_environment = %s\n", object(r.Hidden, func(string) string { return `"for the test"` }))
		}
		b.WriteString("}\n")
	}
	b.WriteString(testsOfAll)
	if len(r.Secrets) > 0 {
		fmt.Fprintf(&b, testOfMissing, "secrets", "secrets", "secrets")
	}
	if len(r.Hidden) > 0 {
		fmt.Fprintf(&b, testOfMissing, "secret_environment", "secret_environment", "secret_environment")
	}
	return b.String()
}

// values is the file of variables that the user goes on with: everything that can be said, as it is when nothing is.
func (r Root) values() string {
	var b strings.Builder
	b.WriteString("# Yours: an export writes this file once and never again.\n")
	commented := func(name string, m map[string]Variable, value func(string) string) {
		if len(m) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n# %s = {\n", name)
		for _, key := range keys(m) {
			fmt.Fprintf(&b, "#   %s = %s\n", quoted(key), value(m[key].Default))
		}
		b.WriteString("# }\n")
	}
	commented("images", r.Images, quoted)
	commented("replicas", r.Replicas, func(n string) string { return n })
	if len(r.Secrets)+len(r.Hidden) > 0 {
		b.WriteString("\n# Secrets do not belong here: give them with the environment, as README.md says.\n")
	}
	return b.String()
}
