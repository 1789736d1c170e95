package provider

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"terraform-provider-trellis/cli"
)

// called returns which project a resource means.
func (m projectModel) called() cli.Project {
	p := cli.Project{
		Files: append([]string{m.File.ValueString()}, textsOf(m.Overrides)...), Directory: m.Directory.ValueString(), Name: m.Name.ValueString(),
		Environment: m.Environment.ValueString(), Profiles: textsOf(m.Profiles), EnvFiles: textsOf(m.EnvFiles),
		StateDir: m.StateDir.ValueString(), Engine: m.Engine.ValueString(), Context: m.Context.ValueString(),
		Namespace: m.Namespace.ValueString(), Variables: mapOf(m.Variables),
	}
	for name, value := range mapOf(m.SecretVariables) {
		p.Variables[name] = value
	}
	return p
}

// known says whether everything is known that says what is to run.
func (m projectModel) known() bool {
	for _, v := range []attr.Value{
		m.File, m.Directory, m.Name, m.Environment, m.StateDir, m.Engine, m.Context, m.Namespace,
	} {
		if v.IsUnknown() {
			return false
		}
	}
	for _, list := range []types.List{m.Overrides, m.Profiles, m.EnvFiles} {
		if list.IsUnknown() || slices.ContainsFunc(list.Elements(), attr.Value.IsUnknown) {
			return false
		}
	}
	for _, variables := range []types.Map{m.Variables, m.SecretVariables} {
		if variables.IsUnknown() {
			return false
		}
		for _, v := range variables.Elements() {
			if v.IsUnknown() {
				return false
			}
		}
	}
	return true
}

// A file whose name has in it what parts an id is written as in a URL. Another percent sign may stand as it is.
var escapeFile, unescapeFile = strings.NewReplacer("%", "%25", ",", "%2C", "?", "%3F"), strings.NewReplacer("%25", "%", "%2C", ",", "%2c", ",", "%3F", "?", "%3f", "?")

// idOf writes down how a project is found: FILE[,OVERRIDE...][?KEY=VALUE&...], of which the values are escaped as in a
// URL, and a file's commas, question marks and percent signs.
func idOf(p cli.Project) string {
	q := url.Values{}
	add := func(key string, values ...string) {
		for _, v := range values {
			if v != "" {
				q.Add(key, v)
			}
		}
	}
	add("project_directory", p.Directory)
	add("name", p.Name)
	add("environment", p.Environment)
	add("profile", p.Profiles...)
	add("env_file", p.EnvFiles...)
	add("engine", p.Engine)
	add("context", p.Context)
	add("namespace", p.Namespace)
	add("state_dir", p.StateDir)
	var files []string
	for _, file := range p.Files {
		files = append(files, escapeFile.Replace(file))
	}
	id := strings.Join(files, ",")
	if len(q) > 0 {
		id += "?" + q.Encode()
	}
	return id
}

// projectOf is idOf's inverse.
func projectOf(id string) (cli.Project, error) {
	files, query, _ := strings.Cut(id, "?")
	q, err := url.ParseQuery(query)
	if err != nil {
		return cli.Project{}, fmt.Errorf("id %q: %w", id, err)
	}
	keys := []string{"context", "engine", "env_file", "environment", "name", "namespace", "profile", "project_directory", "state_dir"}
	for key := range q {
		if !slices.Contains(keys, key) {
			return cli.Project{}, fmt.Errorf("id %q: there is no %q: want FILE[,OVERRIDE...][?KEY=VALUE&...] with keys of %s", id, key, strings.Join(keys, ", "))
		}
	}
	p := cli.Project{
		Name: q.Get("name"), Environment: q.Get("environment"), Profiles: q["profile"], EnvFiles: q["env_file"],
		Directory: q.Get("project_directory"), Engine: q.Get("engine"), Context: q.Get("context"), Namespace: q.Get("namespace"), StateDir: q.Get("state_dir"),
	}
	for file := range strings.SplitSeq(files, ",") {
		p.Files = append(p.Files, unescapeFile.Replace(file))
	}
	if slices.Contains(p.Files, "") {
		return cli.Project{}, fmt.Errorf("id %q: it names no Compose file: want FILE[,OVERRIDE...][?KEY=VALUE&...]", id)
	}
	return p, nil
}

// status returns how a project stands and what it was found by: files that cannot be read any more are no reason not to
// find what runs. name is the project's name as it runs, "" where it is not known. That a project does not run is only said by who knows
// where it would: a cluster that does not answer is an error.
func status(ctx context.Context, c *cli.Command, p cli.Project, name string) (cli.Status, cli.Project, error) {
	s, err := c.Status(ctx, p)
	if failed := asFailed(err); failed == nil || !failed.Invalid() {
		return s, p, err
	}
	found := cli.Project{
		Directory: cmp.Or(p.Directory, filepath.Dir(p.Files[0])), Name: name, StateDir: p.StateDir, Engine: p.Engine, Context: p.Context, Namespace: p.Namespace,
	}
	there, second := c.Status(ctx, found)
	inFiles := p.Engine == "" && p.Environment != "" // what runs it: what is not on this machine may be in a cluster
	if second != nil || there.Revision == nil && inFiles {
		return s, p, err
	}
	return there, found, nil
}

func textsOf(list types.List) []string {
	var texts []string
	for _, v := range list.Elements() {
		if text, ok := v.(types.String); ok {
			texts = append(texts, text.ValueString())
		}
	}
	return texts
}

func mapOf(m types.Map) map[string]string {
	out := map[string]string{}
	for key, v := range m.Elements() {
		if text, ok := v.(types.String); ok {
			out[key] = text.ValueString()
		}
	}
	return out
}

// valueOf is mapOf's inverse.
func valueOf(m map[string]string) types.Map {
	values := map[string]attr.Value{}
	for key, v := range m {
		values[key] = types.StringValue(v)
	}
	return types.MapValueMust(types.StringType, values)
}

// listOf is textsOf's inverse; none is null.
func listOf(texts []string) types.List {
	if len(texts) == 0 {
		return types.ListNull(types.StringType)
	}
	var values []attr.Value
	for _, text := range texts {
		values = append(values, types.StringValue(text))
	}
	return types.ListValueMust(types.StringType, values)
}

// orNull is a text, null where it is empty.
func orNull(text string) types.String {
	if text == "" {
		return types.StringNull()
	}
	return types.StringValue(text)
}
