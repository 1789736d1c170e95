package main

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"trellis/compose"
	"trellis/terraform"
)

// TestTerraformSeesNoSecretOfAStep: what looks like a secret is given by Terraform also where a step before the start sets it, as the
// file and as objects.
func TestTerraformSeesNoSecretOfAStep(t *testing.T) {
	project := compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {
		Name: "web", Image: "web:1", Environment: map[string]string{"DB_PASSWORD": "of-the-service"},
		PreStart: []compose.PreStart{{Hook: compose.Hook{Command: []string{"migrate"}, Environment: map[string]string{"DB_PASSWORD": "of-the-owner", "LEVEL": "debug"}}}},
	}}}
	want := []string{"web.DB_PASSWORD", "web.pre-start-1.DB_PASSWORD"}

	native := terraform.Root{Hidden: map[string]string{}}
	step := withoutValues(&native, project).Services["web"].PreStart[0]
	if got := slices.Sorted(maps.Keys(native.Hidden)); !slices.Equal(got, want) || step.Environment["DB_PASSWORD"] != givenByTerraform || step.Environment["LEVEL"] != "debug" {
		t.Errorf("objects: %v, and the step has %v", got, step.Environment)
	}
	if project.Services["web"].PreStart[0].Environment["DB_PASSWORD"] != "of-the-owner" {
		t.Error("the project itself has changed")
	}

	root := terraform.Root{Hidden: map[string]string{}, Images: map[string]terraform.Variable{}, Replicas: map[string]terraform.Variable{}}
	file, err := composeFile(project)
	if err != nil {
		t.Fatal(err)
	}
	at(file, []string{"services", "web"}, func(m map[string]any) { parametrise(&root, variableNames{}, "web", m) })
	text, err := yamlOf(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(root.Hidden)); !slices.Equal(got, want) || strings.Contains(string(text), "of-the") || !strings.Contains(string(text), "debug") {
		t.Errorf("file: %v\n%s", got, text)
	}
}
