package provider

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/tfsdk"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"terraform-provider-trellis/cli"
)

// answering returns a command that prints text, whatever it is asked.
func answering(t *testing.T, text string) *cli.Command {
	t.Helper()
	path := filepath.Join(t.TempDir(), "trellis")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ncat <<'END'\n"+text+"\nEND\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return &cli.Command{Path: path}
}

// ran is a project as Terraform's state has it.
func ran(healthy bool) projectModel {
	none := types.ListNull(types.StringType)
	return projectModel{
		ID: types.StringValue("compose.yaml"), File: types.StringValue("compose.yaml"), Overrides: none, Profiles: none, EnvFiles: none,
		Variables: types.MapNull(types.StringType), SecretVariables: types.MapNull(types.StringType),
		Project: types.StringValue("shop"), Revision: types.Int64Value(2), Healthy: types.BoolValue(healthy),
		Configuration: valueOf(map[string]string{"services.web.image": "web:1"}), Effects: valueOf(nil),
		Timeouts: timeouts.Value{Object: types.ObjectNull(map[string]attr.Type{"create": types.StringType, "update": types.StringType, "delete": types.StringType})},
	}
}

// TestPlanOfWhatIsCarriedOutAgain: what would be applied although the file changes nothing is something to do, and says why; once nothing
// would be, nothing is.
func TestPlanOfWhatIsCarriedOutAgain(t *testing.T) {
	const web = `{"project": "shop", "changes": [], "warnings": [], "wanted": [{"path": "services.web", "action": "add", "to": {"image": "web:1"}}]`
	const behind = "web runs as revision 1 has it, not as revision 2"
	for name, test := range map[string]struct {
		before projectModel
		answer string
		empty  bool
		warns  string
	}{
		"as it was applied": {ran(true), web + "}", true, ""},
		"carried out again": {ran(true), web + `, "again": "` + behind + `"}`, false, behind},
		"a volume leaves": {ran(true), strings.Replace(web, "[]", `[{"path": "volumes.data", "action": "remove", "effect": "data-loss"}]`, 1) + "}", false,
			"data-loss: no service has its data any more, which stays until somebody deletes it.\n\nremove volumes.data"},
		"has not become so":    {ran(false), web + "}", false, ""},
		"new, and there it is": {projectModel{}, web + `, "again": "` + behind + `"}`, false, behind},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			r := &project{command: answering(t, test.answer)}
			var s resource.SchemaResponse
			r.Schema(ctx, resource.SchemaRequest{}, &s)
			null := tftypes.NewValue(s.Schema.Type().TerraformType(ctx), nil)
			state, plan := tfsdk.State{Schema: s.Schema, Raw: null}, tfsdk.Plan{Schema: s.Schema, Raw: null}
			wanted := ran(true)
			if !test.before.File.IsNull() {
				if d := state.Set(ctx, &test.before); d.HasError() {
					t.Fatal(d)
				}
				wanted = test.before
			}
			wanted.ID, wanted.Project, wanted.Revision, wanted.Healthy = types.StringUnknown(), types.StringUnknown(), types.Int64Unknown(), types.BoolUnknown()
			wanted.Configuration, wanted.Effects = types.MapUnknown(types.StringType), types.MapUnknown(types.StringType)
			if d := plan.Set(ctx, &wanted); d.HasError() {
				t.Fatal(d)
			}
			resp := resource.ModifyPlanResponse{Plan: plan}
			r.ModifyPlan(ctx, resource.ModifyPlanRequest{State: state, Plan: plan}, &resp)
			if resp.Diagnostics.HasError() {
				t.Fatal(resp.Diagnostics)
			}
			if got := resp.Plan.Raw.Equal(state.Raw); got != test.empty {
				t.Errorf("the plan is empty: %v, want %v: %s", got, test.empty, resp.Plan.Raw)
			}
			said := ""
			for _, d := range resp.Diagnostics {
				said += d.Summary() + ": " + d.Detail() + "\n"
			}
			if !strings.Contains(said, test.warns) || test.warns == "" && said != "" {
				t.Errorf("it says %q, want %q", said, test.warns)
			}
		})
	}
}
