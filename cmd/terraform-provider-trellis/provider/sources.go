package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"terraform-provider-trellis/cli"
)

// source is a data source that asks one question about a project that runs; M is what it answers.
type source[M any] struct {
	kind    string
	schema  func() schema.Schema
	read    func(ctx context.Context, c *cli.Command, p cli.Project, s cli.Status) (M, error)
	command *cli.Command
}

// Metadata implements datasource.DataSource.
func (d *source[M]) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_" + d.kind
}

// Schema implements datasource.DataSource.
func (d *source[M]) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	resp.Schema = d.schema()
	resp.Schema.Attributes["project"] = schema.StringAttribute{
		MarkdownDescription: "Which project: the `id` of a `trellis_project`, or what one would be imported by, such as `compose.yaml` or `compose.yaml?environment=staging`.",
		Required:            true,
	}
}

// Configure implements datasource.DataSourceWithConfigure.
func (d *source[M]) Configure(_ context.Context, req datasource.ConfigureRequest, _ *datasource.ConfigureResponse) {
	d.command, _ = req.ProviderData.(*cli.Command)
}

// Read implements datasource.DataSource.
func (d *source[M]) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	var id types.String
	if resp.Diagnostics.Append(req.Config.GetAttribute(ctx, path.Root("project"), &id)...); resp.Diagnostics.HasError() {
		return
	}
	p, err := projectOf(id.ValueString())
	if err != nil {
		resp.Diagnostics.AddAttributeError(path.Root("project"), "Not a project", err.Error())
		return
	}
	s, p, err := status(ctx, d.command, p, "")
	switch {
	case err != nil:
		resp.Diagnostics.AddError("Cannot find "+id.ValueString(), err.Error())
		return
	case s.Revision == nil:
		resp.Diagnostics.AddAttributeError(path.Root("project"), s.Project+" does not run", "Refer to the id of its trellis_project, so that it is read after that was applied.")
		return
	}
	m, err := d.read(ctx, d.command, p, s)
	if err != nil {
		resp.Diagnostics.AddError("Cannot read the "+d.kind+" of "+s.Project, err.Error())
		return
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root("project"), id)...)
}

func computedText(description string) schema.StringAttribute {
	return schema.StringAttribute{MarkdownDescription: description, Computed: true}
}

func computedNumber(description string) schema.Int64Attribute {
	return schema.Int64Attribute{MarkdownDescription: description, Computed: true}
}
