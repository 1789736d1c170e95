// Package provider is Trellis as Terraform sees it: the resource of a project and the data sources of what it has.
// What Terraform asks for is carried out by the trellis command of the machine where Terraform runs.
package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/provider/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-log/tflog"

	"terraform-provider-trellis/cli"
)

// Address is the provider's source address in a registry.
const Address = "registry.terraform.io/trellis/trellis"

// New returns what makes a provider of that version.
func New(version string) func() provider.Provider {
	return func() provider.Provider { return &trellis{version: version} }
}

type trellis struct{ version string }

type providerModel struct {
	Command    types.String `tfsdk:"command"`
	Kubeconfig types.String `tfsdk:"kubeconfig"`
}

// Metadata implements provider.Provider.
func (t *trellis) Metadata(_ context.Context, _ provider.MetadataRequest, resp *provider.MetadataResponse) {
	resp.TypeName, resp.Version = "trellis", t.version
}

// Schema implements provider.Provider.
func (t *trellis) Schema(_ context.Context, _ provider.SchemaRequest, resp *provider.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Runs applications that a Compose file describes with Trellis: on the machine where Terraform runs, or in a Kubernetes cluster. " +
			"What Terraform asks for is carried out by the `trellis` command, which has to be on that machine. It needs no account and no server: " +
			"the control plane of a project is started with it, as `trellis up` does, and reached as the user who runs Terraform.",
		Attributes: map[string]schema.Attribute{
			"command": schema.StringAttribute{
				MarkdownDescription: "The `trellis` program: a path, or a name that is looked for in `PATH`. Default: `trellis`.", Optional: true,
			},
			"kubeconfig": schema.StringAttribute{
				MarkdownDescription: "The kubeconfig for projects that run in a cluster. Default: `KUBECONFIG`, or `~/.kube/config`.", Optional: true,
			},
		},
	}
}

// Configure implements provider.Provider.
func (t *trellis) Configure(ctx context.Context, req provider.ConfigureRequest, resp *provider.ConfigureResponse) {
	var m providerModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	c := &cli.Command{Path: "trellis", Line: func(ctx context.Context, line string) { tflog.Info(ctx, line) }}
	if path := m.Command.ValueString(); path != "" {
		c.Path = path
	}
	if path := m.Kubeconfig.ValueString(); path != "" {
		c.Env = []string{"KUBECONFIG=" + path}
	}
	resp.ResourceData, resp.DataSourceData = c, c
}

// Resources implements provider.Provider.
func (t *trellis) Resources(context.Context) []func() resource.Resource {
	return []func() resource.Resource{func() resource.Resource { return &project{} }}
}

// DataSources implements provider.Provider.
func (t *trellis) DataSources(context.Context) []func() datasource.DataSource {
	return []func() datasource.DataSource{
		func() datasource.DataSource {
			return &source[outputsModel]{kind: "outputs", schema: outputsSchema, read: readOutputs}
		},
		func() datasource.DataSource {
			return &source[routesModel]{kind: "routes", schema: routesSchema, read: readRoutes}
		},
		func() datasource.DataSource {
			return &source[servicesModel]{kind: "services", schema: servicesSchema, read: readServices}
		},
	}
}
