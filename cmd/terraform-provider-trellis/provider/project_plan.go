package provider

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"terraform-provider-trellis/cli"
)

// ModifyPlan implements resource.ResourceWithModifyPlan: it asks Trellis what it would change, and writes that down as what
// will be.
func (r *project) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	if req.Plan.Raw.IsNull() {
		r.planDestroy(ctx, req, resp)
		return
	}
	var m projectModel
	if resp.Diagnostics.Append(req.Plan.Get(ctx, &m)...); resp.Diagnostics.HasError() {
		return
	}
	var before *projectModel
	if !req.State.Raw.IsNull() {
		before = &projectModel{}
		if resp.Diagnostics.Append(req.State.Get(ctx, before)...); resp.Diagnostics.HasError() {
			return
		}
	}
	if !m.known() || r.command == nil {
		m.ID, m.Project, m.Revision, m.Healthy = types.StringUnknown(), types.StringUnknown(), types.Int64Unknown(), types.BoolUnknown()
		m.Configuration, m.Effects = types.MapUnknown(types.StringType), types.MapUnknown(types.StringType)
		resp.Diagnostics.Append(resp.Plan.Set(ctx, &m)...)
		return
	}
	plan, err := r.command.Plan(ctx, m.called())
	if err != nil {
		r.failed(ctx, m.called(), "Cannot plan "+m.File.ValueString(), err, &resp.Diagnostics)
		return
	}
	wanted := configurationOf(plan.Wanted)
	wanted.hide(mapOf(m.SecretVariables))
	m.Project, m.Configuration = types.StringValue(plan.Project), valueOf(wanted)
	// Of a project that Terraform does not know yet, everything is new to it, whatever runs.
	m.ID, m.Revision, m.Healthy, m.Effects = types.StringUnknown(), types.Int64Unknown(), types.BoolValue(true), valueOf(effectsOf(plan.Changes))
	if before != nil {
		r.planUpdate(&m, *before, plan, resp)
	}
	if before == nil || len(plan.Changes) > 0 || plan.Again != "" {
		tellWarnings(m, plan, &resp.Diagnostics)
	}
	resp.Diagnostics.Append(resp.Plan.Set(ctx, &m)...)
}

// planUpdate plans m for a project that runs as before says.
func (r *project) planUpdate(m *projectModel, before projectModel, plan cli.Plan, resp *resource.ModifyPlanResponse) {
	if id := idOf(m.called()); id == before.ID.ValueString() {
		m.ID = before.ID
	}
	switch {
	case before.Project.ValueString() != plan.Project:
		resp.RequiresReplace = append(resp.RequiresReplace, path.Root("project"))
	case len(plan.Changes) == 0 && plan.Again == "" && before.Healthy.ValueBool() && len(configuration(mapOf(m.Configuration)).differing(mapOf(before.Configuration))) == 0:
		m.Revision, m.Effects = before.Revision, before.Effects
	}
}

// tellWarnings says what a reader of the plan has to know beyond it: why something is done though the files change nothing, what is
// stopped or let go, and what of the files is not carried out as written.
func tellWarnings(m projectModel, plan cli.Plan, diags *diag.Diagnostics) {
	if plan.Again != "" {
		diags.AddAttributeWarning(path.Root("file"), plan.Project+": carried out again", "The files change nothing, but "+plan.Again+".")
	}
	var hard []string
	for _, c := range plan.Changes {
		if c.Effect == "stop-first" || c.Effect == "data-loss" {
			hard = append(hard, fmt.Sprintf("%s %s (%s)", c.Action, c.Path, c.Effect))
		}
	}
	if len(hard) > 0 {
		diags.AddAttributeWarning(path.Root("file"), plan.Project+": something is stopped or let go",
			"stop-first: stopped before, or without, something that starts in its place. data-loss: no service has its data any more, which stays until somebody deletes it.\n\n"+strings.Join(hard, "\n"))
	}
	var notes []string
	for _, w := range plan.Warnings {
		notes = append(notes, strings.TrimSpace(w.Place()+" "+w.Path)+": "+w.Message)
	}
	if len(notes) > 0 {
		diags.AddAttributeWarning(path.Root("file"), m.File.ValueString()+": not carried out as written", strings.Join(notes, "\n"))
	}
}

// planDestroy says what a destroy takes along.
func (r *project) planDestroy(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	var m projectModel
	resp.Diagnostics.Append(req.State.Get(ctx, &m)...)
	if m.DeleteVolumes.ValueBool() {
		resp.Diagnostics.AddWarning(m.Project.ValueString()+": destroying it deletes its volumes", "delete_volumes is set: the data of its named volumes is gone with it.")
	}
}

// asFailed returns the command that failed, nil for another error.
func asFailed(err error) *cli.Failed {
	var failed *cli.Failed
	if errors.As(err, &failed) {
		return failed
	}
	return nil
}
