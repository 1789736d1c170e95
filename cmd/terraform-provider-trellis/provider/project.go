package provider

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"terraform-provider-trellis/cli"
)

const (
	// defaultTimeout is what `trellis up` waits for health.
	defaultTimeout = 10 * time.Minute
	// building is how much longer an apply may take than the wait for health: what it builds first.
	building = time.Hour
)

// project is trellis_project.
type project struct{ command *cli.Command }

var (
	_ resource.ResourceWithConfigure   = (*project)(nil)
	_ resource.ResourceWithModifyPlan  = (*project)(nil)
	_ resource.ResourceWithImportState = (*project)(nil)
)

// Metadata implements resource.Resource.
func (r *project) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_project"
}

// Configure implements resource.ResourceWithConfigure.
func (r *project) Configure(_ context.Context, req resource.ConfigureRequest, _ *resource.ConfigureResponse) {
	r.command, _ = req.ProviderData.(*cli.Command)
}

// Read implements resource.Resource.
func (r *project) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var m projectModel
	if resp.Diagnostics.Append(req.State.Get(ctx, &m)...); resp.Diagnostics.HasError() {
		return
	}
	there, err := r.observe(ctx, &m)
	switch {
	case err != nil:
		resp.Diagnostics.AddError("Cannot find out how "+m.File.ValueString()+" runs", err.Error())
	case !there:
		resp.State.RemoveResource(ctx)
	default:
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

// observe fills m with what runs, and says whether anything does.
func (r *project) observe(ctx context.Context, m *projectModel) (there bool, err error) {
	s, p, err := status(ctx, r.command, m.called(), m.Project.ValueString())
	if err != nil || s.Revision == nil {
		return false, err
	}
	changes, err := r.command.Revision(ctx, p, *s.Revision)
	if err != nil {
		return false, err
	}
	now := configurationOf(changes)
	drift, err := r.command.Drift(ctx, p)
	if err != nil {
		return false, err
	}
	now.drifted(drift)
	now.hide(mapOf(m.SecretVariables))
	m.ID, m.Project, m.Revision = types.StringValue(idOf(m.called())), types.StringValue(s.Project), types.Int64Value(*s.Revision)
	m.Healthy, m.Configuration = types.BoolValue(s.Outcome == "healthy"), valueOf(now)
	if m.Effects.IsNull() || m.Effects.IsUnknown() {
		m.Effects = valueOf(nil)
	}
	return true, nil
}

// Create implements resource.Resource.
func (r *project) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var m projectModel
	if resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...); resp.Diagnostics.HasError() {
		return
	}
	timeout, diags := m.Timeouts.Create(ctx, defaultTimeout)
	resp.Diagnostics.Append(diags...)
	before, _, err := status(ctx, r.command, m.called(), "")
	if ran := err != nil || before.Revision != nil; !r.apply(ctx, &m, timeout, &resp.Diagnostics) {
		// What is left of a project that did not come up has to be Terraform's, so that it can be destroyed. One that ran
		// before, or may have, is not: Terraform would begin the next apply by removing it.
		if there, err := r.observe(context.WithoutCancel(ctx), &m); ran || !there || err != nil {
			return
		}
		m.Healthy = types.BoolValue(false)
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

// Update implements resource.Resource.
func (r *project) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var m projectModel
	if resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...); resp.Diagnostics.HasError() {
		return
	}
	timeout, diags := m.Timeouts.Update(ctx, defaultTimeout)
	resp.Diagnostics.Append(diags...)
	if r.apply(ctx, &m, timeout, &resp.Diagnostics) {
		resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
	}
}

// apply makes the world what m plans, and m what came of it.
func (r *project) apply(ctx context.Context, m *projectModel, timeout time.Duration, diags *diag.Diagnostics) bool {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout+building, fmt.Errorf("not done after %s", timeout+building))
	defer cancel()
	planned := *m
	p := m.called()
	err := r.command.Up(ctx, p, timeout)
	if err == nil {
		err = r.revert(ctx, p, timeout)
	}
	if err != nil {
		r.failed(ctx, p, "Cannot bring "+m.File.ValueString()+" up", err, diags)
		return false
	}
	if there, err := r.observe(ctx, m); err != nil || !there {
		diags.AddError("Cannot find out how "+m.File.ValueString()+" runs", fmt.Sprintf("It was brought up, and then: %v", err))
		return false
	}
	if planned.Configuration.IsUnknown() {
		return true
	}
	// Terraform wants what was planned. What somebody has done since is what the next refresh finds.
	if others := configuration(mapOf(m.Configuration)).differing(mapOf(planned.Configuration)); len(others) > 0 {
		diags.AddWarning("Already not as planned", m.Project.ValueString()+" became healthy and is another now than was planned, at:\n"+
			"  "+strings.Join(others, "\n  "))
	}
	m.Configuration, m.Effects, m.Healthy = planned.Configuration, planned.Effects, types.BoolValue(true)
	return true
}

// revert brings back what is not as the revision in force says.
func (r *project) revert(ctx context.Context, p cli.Project, timeout time.Duration) error {
	drift, err := r.command.Drift(ctx, p)
	if err != nil {
		return err
	}
	for _, d := range drift {
		if !d.Heals {
			return r.command.Revert(ctx, p, timeout)
		}
	}
	return nil
}

// failed says why a command failed: where the files are wrong, one error for each place. A check is of an engine: where it is the
// environment that says which, what the command said itself is what is known.
func (r *project) failed(ctx context.Context, p cli.Project, what string, err error, diags *diag.Diagnostics) {
	if failed := asFailed(err); failed != nil && failed.Invalid() && (p.Engine != "" || p.Environment == "") {
		if wrong, err := r.command.Check(ctx, p); err == nil && len(wrong) > 0 {
			for _, d := range wrong {
				summary, detail := strings.TrimSpace(d.Place()+" "+d.Path), d.Message
				diags.AddAttributeError(path.Root("file"), summary, detail)
			}
			return
		}
	}
	diags.AddError(what, err.Error())
}

// Delete implements resource.Resource.
func (r *project) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	var m projectModel
	if resp.Diagnostics.Append(req.State.Get(ctx, &m)...); resp.Diagnostics.HasError() {
		return
	}
	timeout, diags := m.Timeouts.Delete(ctx, defaultTimeout)
	resp.Diagnostics.Append(diags...)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not down after %s", timeout))
	defer cancel()
	_, p, err := status(ctx, r.command, m.called(), m.Project.ValueString())
	if err == nil {
		err = r.command.Down(ctx, p, m.DeleteVolumes.ValueBool())
	}
	if err != nil {
		resp.Diagnostics.AddError("Cannot take "+m.File.ValueString()+" down", err.Error())
	}
}

// ImportState implements resource.ResourceWithImportState.
func (r *project) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	p, err := projectOf(req.ID)
	if err != nil {
		resp.Diagnostics.AddError("Cannot import", err.Error())
		return
	}
	set := func(name string, value any) {
		resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root(name), value)...)
	}
	set("id", req.ID)
	set("file", p.Files[0])
	set("overrides", listOf(p.Files[1:]))
	set("profiles", listOf(p.Profiles))
	set("env_files", listOf(p.EnvFiles))
	for name, value := range map[string]string{
		"project_directory": p.Directory, "name": p.Name, "environment": p.Environment, "engine": p.Engine, "context": p.Context, "namespace": p.Namespace, "state_dir": p.StateDir,
	} {
		set(name, orNull(value))
	}
}
