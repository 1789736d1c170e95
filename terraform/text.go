package terraform

import (
	"fmt"
	"slices"
	"strings"
)

// What does not depend on the project. It is formatted when it is written.

const kubernetesProvider = `kubernetes = {
source = "hashicorp/kubernetes"
version = ">= 2.30"
}
`

const applicationMain = `# The application: a Compose file, run by Trellis.
resource "trellis_project" "this" {
file = var.file
project_directory = var.project_directory
engine = var.engine
context = var.context
namespace = var.namespace
variables = var.variables
secret_variables = var.secret_variables
delete_volumes = var.delete_volumes

timeouts = {
create = var.timeout
update = var.timeout
}
}

data "trellis_outputs" "this" {
project = trellis_project.this.id
}
`

// outputs are those of an application, from the values of its project, revision, gateway and ports.
const outputs = `output "project" {
description = "The project's name as it runs."
value = %s
}

output "revision" {
description = "The revision in force."
value = %s
}

output "gateway" {
description = "The gateway's addresses, null where it does not listen."
value = %s
}

output "ports" {
description = "The published ports by what they lead to, such as web:80."
value = %s
}
`

const gatewayOutput = `{
http = data.trellis_outputs.this.gateway_http
https = data.trellis_outputs.this.gateway_https
}`

const applicationVariables = `variable "file" {
description = "The Compose file."
type = string
}

variable "project_directory" {
description = "The directory that paths in the Compose file start from."
type = string
}

variable "engine" {
description = "Where it runs: local, the machine where Terraform runs, or kubernetes."
type = string

validation {
condition = contains(["local", "kubernetes"], var.engine)
error_message = "The engine is local or kubernetes."
}
}

variable "context" {
description = "With kubernetes, the kubeconfig's context; null for the current one."
type = string
default = null
}

variable "namespace" {
description = "With kubernetes, the namespace."
type = string
default = null
}

variable "variables" {
description = "Variables of the Compose file."
type = map(string)
default = {}
}

variable "secret_variables" {
description = "Variables of the Compose file whose values nobody may see."
type = map(string)
default = {}
sensitive = true
}

variable "delete_volumes" {
description = "Whether destroying the application deletes its volumes and their data."
type = bool
default = false
}

variable "timeout" {
description = "How long to wait for health."
type = string
default = "10m"
}
`

const platformVersions = `terraform {
required_version = ">= 1.9"
required_providers {
` + kubernetesProvider + `}
}
`

const platformMain = `# A cluster that is there: a namespace in it, and the secrets of the application.
resource "kubernetes_namespace_v1" "this" {
metadata {
name = var.namespace
labels = {
"app.kubernetes.io/part-of" = var.project
}
}
}

resource "kubernetes_secret_v1" "this" {
for_each = var.secrets

metadata {
name = each.value.object
namespace = kubernetes_namespace_v1.this.metadata[0].name
labels = {
"app.kubernetes.io/part-of" = var.project
}
}

data = {
(each.value.key) = var.contents[each.key]
}
}
`

const platformOutputs = `# What an application has to know of the platform that it runs on. A module for another platform has these outputs too.
output "context" {
description = "The kubeconfig's context; null for the current one."
value = var.context
}

output "namespace" {
description = "The namespace of the application."
value = kubernetes_namespace_v1.this.metadata[0].name
depends_on = [kubernetes_secret_v1.this] # which are there before the application
}
`

const platformVariables = `variable "project" {
description = "The project's name, as a label."
type = string
}

variable "context" {
description = "The kubeconfig's context; null for the current one."
type = string
default = null
}

variable "namespace" {
description = "The namespace to make."
type = string
}

variable "secrets" {
description = "The secrets by name: in which object at which key they are."
type = map(object({
object = string
key = string
}))
default = {}
}

variable "contents" {
description = "The contents of the secrets, by name."
type = map(string)
default = {}
sensitive = true
}
`

const clusterVariables = `variable "kubeconfig" {
description = "The kubeconfig."
type = string
default = "~/.kube/config"
}

variable "context" {
description = "The kubeconfig's context; null for the current one."
type = string
default = %s
}

variable "namespace" {
description = "The namespace, which is made."
type = string
default = %s

validation {
condition = can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", var.namespace))
error_message = "A namespace has at most 63 lower-case letters, digits and hyphens, and neither begins nor ends with a hyphen."
}
}

`

// secretsVariable: name, description, default, keys, name, name, keys.
const secretsVariable = `variable %q {
description = %q
type = map(string)
sensitive = true
%s
validation {
condition = length(setsubtract(%s, keys(var.%s))) == 0
error_message = "%s has to have all of ${jsonencode(%s)}."
}
}

`

// rootVariables: the services that have an image, those that have replicas.
const rootVariables = `variable "images" {
description = "Images in place of those of compose.yaml, by service."
type = map(string)
default = {}

validation {
condition = length(setsubtract(keys(var.images), %[1]s)) == 0
error_message = "images is by service, of ${jsonencode(%[1]s)}."
}

validation {
condition = alltrue([for image in values(var.images) : image != "" && !strcontains(image, " ")])
error_message = "An image is a name such as registry.example.org/web:1.4.2."
}
}

variable "replicas" {
description = "Numbers of instances in place of those of compose.yaml, by service."
type = map(number)
default = {}

validation {
condition = length(setsubtract(keys(var.replicas), %[2]s)) == 0
error_message = "replicas is by service, of ${jsonencode(%[2]s)}."
}

validation {
condition = alltrue([for n in values(var.replicas) : n >= 0 && floor(n) == n])
error_message = "A number of instances is 0, 1, 2 and so on."
}
}

variable "timeout" {
description = "How long to wait for health."
type = string
default = "10m"

validation {
condition = can(regex("^([0-9]+(h|m|s))+$", var.timeout))
error_message = "A time-out is a duration such as 90s or 10m."
}
}
`

// trellisVariables are those of a root that Trellis runs.
const trellisVariables = `
variable "delete_volumes" {
description = "Whether destroying the application deletes its volumes and their data."
type = bool
default = false
}

variable "trellis_command" {
description = "The trellis program: a path, or a name that is in PATH."
type = string
default = "trellis"
}
`

// nativeOutputs: the project.
const nativeOutputs = `output "project" {
description = "The project's name as it runs."
value = %s
}

output "namespace" {
description = "The namespace that it runs in."
value = module.platform.namespace
}
`

const testsOfAll = `
run "plans" {
command = plan
}

run "applies" {
assert {
condition = output.project != null
error_message = "The application has no name."
}
}

run "refuses_an_image_of_no_service" {
command = plan

variables {
images = { "no such service" = "web:1" }
}

expect_failures = [var.images]
}

run "refuses_half_an_instance" {
command = plan

variables {
replicas = { "no such service" = 0.5 }
}

expect_failures = [var.replicas]
}

run "refuses_a_timeout_without_a_unit" {
command = plan

variables {
timeout = "10"
}

expect_failures = [var.timeout]
}
`

// testOfMissing: thrice the variable.
const testOfMissing = `
run "refuses_missing_%s" {
command = plan

variables {
%s = {}
}

expect_failures = [var.%s]
}
`

func readme(project string, roots []Root) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s as Terraform\n\n", project)
	b.WriteString("Each folder of `environments` is a root: apply it by itself. They share the folders of `modules`.\n\n" +
		"| environment | project | runs | secrets to give |\n|---|---|---|---|\n")
	for _, r := range roots {
		where := "on the machine where Terraform runs"
		if r.Cluster != nil {
			where = "in a cluster"
			if r.Cluster.Context != "" {
				where += ", context `" + r.Cluster.Context + "`"
			}
		}
		secrets := "none"
		if names := append(keys(r.Secrets), keys(r.Hidden)...); len(names) > 0 {
			secrets = "`" + strings.Join(names, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| [%[1]s](environments/%[1]s) | `%[2]s` | %[3]s | %[4]s |\n", r.Name, r.Project, where, secrets)
	}
	fmt.Fprintf(&b, "\n```\ncd environments/%s\nterraform init\nterraform test    # needs no cluster, changes nothing\nterraform plan\nterraform apply\n```\n\n", roots[0].Name)
	if slices.ContainsFunc(roots, Root.native) {
		b.WriteString(readmeNative)
	} else {
		b.WriteString(readmeTrellis)
	}
	b.WriteString(readmeRest)
	return []byte(b.String())
}

const readmeTrellis = `What is needed: Terraform 1.9 or later, the program ` + "`trellis`" + ` in the PATH, and its provider where Terraform finds it.

`

const readmeNative = `What is needed: Terraform 1.9 or later, and the cluster, at which a plan looks for the kinds that it has. Nothing of Trellis runs
any more: each object is a resource of the provider ` + "`kubernetes`" + `, in a file for each service. An apply makes them in the order
of ` + "`depends_on`" + ` and waits for their health.

` + "`terraform destroy`" + ` deletes the volumes, with their data. A secret that is given with another value reaches a pod when it is made
anew: ` + "`kubectl rollout restart`" + `.

An apply that takes back what somebody changed in the pods of a service by hand does so, and may then end with "Provider produced
inconsistent result": the cluster has numbered the change ([the provider's issue
2808](https://github.com/hashicorp/terraform-provider-kubernetes/issues/2808)). The next plan is empty.

`

const readmeRest = `**Values.** ` + "`terraform.tfvars`" + ` of an environment is yours; it is written once. It can say other images, other numbers of
instances, another place. Secrets are given with the environment and stand in no file:

` + "```" + `
export TF_VAR_secrets='{"NAME":"VALUE"}' TF_VAR_secret_environment='{"SERVICE.VARIABLE":"VALUE"}'
` + "```" + `
Terraform keeps them in its state, so that belongs where only those may look who may know them. Say where in a file
` + "`backend.tf`" + ` of your own beside ` + "`main.tf`" + `.

**Yours and generated.** A generated file begins with a line that says so and is written anew by the next export, unless you
have changed it: then the export stops before it writes anything. Files beside them, of whatever name, are left alone.

**Another platform.** In a cluster, ` + "`modules/platform`" + ` makes a namespace and the secrets. A module that also makes the
cluster can take its place: the application needs to know its outputs ` + "`context` and `namespace`" + `, and nothing else.
`
