package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// projectModel is trellis_project.
type projectModel struct {
	ID              types.String   `tfsdk:"id"`
	File            types.String   `tfsdk:"file"`
	Overrides       types.List     `tfsdk:"overrides"`
	Directory       types.String   `tfsdk:"project_directory"`
	Name            types.String   `tfsdk:"name"`
	Environment     types.String   `tfsdk:"environment"`
	Profiles        types.List     `tfsdk:"profiles"`
	EnvFiles        types.List     `tfsdk:"env_files"`
	Variables       types.Map      `tfsdk:"variables"`
	SecretVariables types.Map      `tfsdk:"secret_variables"`
	Engine          types.String   `tfsdk:"engine"`
	Context         types.String   `tfsdk:"context"`
	Namespace       types.String   `tfsdk:"namespace"`
	StateDir        types.String   `tfsdk:"state_dir"`
	DeleteVolumes   types.Bool     `tfsdk:"delete_volumes"`
	Project         types.String   `tfsdk:"project"`
	Revision        types.Int64    `tfsdk:"revision"`
	Healthy         types.Bool     `tfsdk:"healthy"`
	Configuration   types.Map      `tfsdk:"configuration"`
	Effects         types.Map      `tfsdk:"effects"`
	Timeouts        timeouts.Value `tfsdk:"timeouts"`
}

const elsewhere = "another one is another project: the one that ran is removed"

// Schema implements resource.Resource.
func (r *project) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	notEmpty := []validator.String{stringvalidator.LengthAtLeast(1)}
	resp.Schema = schema.Schema{
		MarkdownDescription: "A project that a Compose file describes, running. Planning it shows what Trellis will change, as the difference of `configuration` in Compose paths; " +
			"applying it builds what has to be built, carries out the change without losing a request, and waits until every service is healthy. " +
			"What was changed since by hand (`trellis scale`, another `trellis up`, a limit of a running instance) is seen when Terraform refreshes, and brought back by the next apply. " +
			"Destroying it stops everything and keeps the volumes' data unless `delete_volumes` is set.",
		Attributes: map[string]schema.Attribute{
			"file": schema.StringAttribute{
				MarkdownDescription: "The Compose file. Relative to the directory where Terraform runs; write `${path.module}/compose.yaml` for one beside the configuration.",
				Required:            true, Validators: notEmpty,
			},
			"overrides": schema.ListAttribute{
				MarkdownDescription: "More Compose files, each merged over those before it, as with `-f`.", Optional: true, ElementType: types.StringType,
				Validators: []validator.List{listvalidator.ValueStringsAre(notEmpty...)},
			},
			"project_directory": schema.StringAttribute{
				MarkdownDescription: "The directory that relative paths in the files start from, which they may not leave. Default: that of `file`.", Optional: true, Validators: notEmpty,
			},
			"name": schema.StringAttribute{
				MarkdownDescription: "The project's name in place of the file's. To change it is to make another project.", Optional: true, Validators: notEmpty,
			},
			"environment": schema.StringAttribute{
				MarkdownDescription: "An environment of the file, as with `--environment`: adds `compose.ENVIRONMENT.yaml` and runs as `NAME-ENVIRONMENT`.", Optional: true, Validators: notEmpty,
			},
			"profiles":  schema.ListAttribute{MarkdownDescription: "Compose profiles to activate.", Optional: true, ElementType: types.StringType},
			"env_files": schema.ListAttribute{MarkdownDescription: "Files of variables in place of the `.env` beside the Compose file.", Optional: true, ElementType: types.StringType},
			"variables": schema.MapAttribute{
				MarkdownDescription: "Variables for the `${...}` of the Compose file. They go before those of Terraform's own environment and of `env_files`.", Optional: true, ElementType: types.StringType,
			},
			"secret_variables": schema.MapAttribute{
				MarkdownDescription: "As `variables`, with values that are shown nowhere: also in `configuration` they are masked. Like everything of a resource, they are in Terraform's state.",
				Optional:            true, Sensitive: true, ElementType: types.StringType,
			},
			"engine": schema.StringAttribute{
				MarkdownDescription: "Where it runs: `local`, the machine where Terraform runs, or `kubernetes`. Default: what the environment says, or `local`. To change it is to make another project.",
				Optional:            true, Validators: []validator.String{stringvalidator.OneOf("local", "kubernetes")},
				PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplaceIf(otherEngine, elsewhere, elsewhere)},
			},
			"context": schema.StringAttribute{
				MarkdownDescription: "With `kubernetes`, the kubeconfig's context. Default: that of the environment, or the current one.", Optional: true,
				PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"namespace": schema.StringAttribute{
				MarkdownDescription: "With `kubernetes`, the namespace. Default: that of the environment, or the context's.", Optional: true,
				PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"state_dir": schema.StringAttribute{
				MarkdownDescription: "With `local`, the folder for the project's state. Default: `.trellis/NAME` beside the file.", Optional: true,
				PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"delete_volumes": schema.BoolAttribute{MarkdownDescription: "Whether destroying the project deletes its named volumes and their data. Default: `false`.", Optional: true},
			"id": schema.StringAttribute{
				MarkdownDescription: "What the project is found by, and what the data sources take: the files, and where it runs.", Computed: true,
			},
			"project":  schema.StringAttribute{MarkdownDescription: "The project's name as it runs.", Computed: true},
			"revision": schema.Int64Attribute{MarkdownDescription: "The revision in force.", Computed: true},
			"healthy": schema.BoolAttribute{
				MarkdownDescription: "Whether the revision in force became healthy. Where it did not, the next apply waits for it again.", Computed: true,
			},
			"configuration": schema.MapAttribute{
				MarkdownDescription: "All that the project says, by Compose path (`services.web.deploy.replicas`), as it runs: with what was changed by hand. Values that look like secrets are masked.",
				Computed:            true, ElementType: types.StringType,
			},
			"effects": schema.MapAttribute{
				MarkdownDescription: "What the change that Terraform made last does to what runs, by Compose path: `in-place` (nothing restarts), `rollout` (replaced under traffic, without loss), " +
					"`stop-first` (stopped before the replacement starts) or `data-loss` (a volume that leaves the project: no service has its data any more, which stays until somebody deletes it).",
				Computed: true, ElementType: types.StringType,
			},
			"timeouts": timeouts.Attributes(ctx, timeouts.Opts{
				Create: true, Update: true, Delete: true,
				CreateDescription: waitDescription, UpdateDescription: waitDescription,
				DeleteDescription: "How long to wait until everything has stopped (`90s`, `5m`). Default: `10m`.",
			}),
		},
	}
}

const waitDescription = "How long to wait for health, after building (`90s`, `5m`). Default: `10m`."

// otherEngine says whether an engine is another than before; none stands for local.
func otherEngine(_ context.Context, req planmodifier.StringRequest, resp *stringplanmodifier.RequiresReplaceIfFuncResponse) {
	local := func(v types.String) bool { return v.IsNull() || v.ValueString() == "local" }
	resp.RequiresReplace = !req.PlanValue.IsUnknown() && local(req.StateValue) != local(req.PlanValue)
}
