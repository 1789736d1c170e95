package terraform

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

var update = flag.Bool("update", false, "write testdata anew")

func roots() []Root {
	return []Root{
		{
			Name: "production", Project: "shop", Compose: []byte("name: shop\n"), Directory: "../../..", Cluster: &Cluster{Context: "prod", Namespace: "shop"},
			Images:   map[string]Variable{"web": {"TRELLIS_IMAGE_WEB", `we"b:${1}`}},
			Replicas: map[string]Variable{"web": {"TRELLIS_REPLICAS_WEB", "3"}, "db": {"TRELLIS_REPLICAS_DB", "1"}},
			Secrets:  map[string]Secret{"password": {"shop-password", "password"}},
			Hidden:   map[string]string{"web.API_TOKEN": "TRELLIS_SECRET_WEB_API_TOKEN"},
		},
		{Name: "staging", Project: "shop-staging", Compose: []byte("name: shop-staging\n"), Directory: "../../../${x}"},
	}
}

// nativeRoots is a project as the objects of a cluster.
func nativeRoots() []Root {
	return []Root{{
		Name: "production", Project: "shop", Cluster: &Cluster{Namespace: "shop"},
		Images: map[string]Variable{"web": {Default: "web:1"}}, Replicas: map[string]Variable{"web": {Default: "2"}},
		Secrets: map[string]Secret{"password": {"password", "password"}}, Hidden: map[string]string{"web.API_TOKEN": "API_TOKEN"},
		Objects: []Object{
			{Address: "config_map_motd", Manifest: map[string]any{"kind": "ConfigMap", "data": map[string]any{"motd": "a ${b}\n", "for": "1"}}},
			{Address: "deployment_web", Service: "web", Wait: WaitRollout, After: []string{"kubernetes_manifest.config_map_motd"}, Manifest: map[string]any{
				"kind": "Deployment", "metadata": map[string]any{"name": "web", "namespace": Namespace},
				"spec": map[string]any{"replicas": Lookup("replicas", "web", 2), "template": map[string]any{"spec": map[string]any{"hostNetwork": true}}, "list": []any{1.5, true, nil, map[string]any{}, "x"}},
			}},
			{Address: "job_migrate", Service: "migrate/x", Wait: WaitComplete, Manifest: map[string]any{"kind": "Job"}},
		},
		EnvSecrets: []EnvSecret{{Address: "secret_web_env", Object: "web-env-0123456789", Keys: map[string]string{"API_TOKEN": "web.API_TOKEN"}}},
	}}
}

// TestNativeFiles: the same for a project that is a cluster's own objects.
func TestNativeFiles(t *testing.T) { golden(t, nativeRoots, "native.txtar") }

// TestFiles: what is written is what lies in testdata, in the form that terraform fmt has, and the same every time.
func TestFiles(t *testing.T) { golden(t, roots, "shop.txtar") }

func golden(t *testing.T, roots func() []Root, name string) {
	t.Helper()
	files := Files("shop", roots())
	if diff := cmp.Diff(files, Files("shop", roots())); diff != "" {
		t.Error("twice is not the same:\n" + diff)
	}
	var all bytes.Buffer
	for _, f := range files {
		all.WriteString("-- " + f.Path + " --\n")
		all.Write(f.Text)
		if !strings.HasSuffix(f.Path, ".tf") && !strings.HasSuffix(f.Path, ".hcl") && !strings.HasSuffix(f.Path, ".tfvars") {
			continue
		}
		if _, diags := hclwrite.ParseConfig(f.Text, f.Path, hcl.InitialPos); diags.HasErrors() {
			t.Errorf("%v\n%s", diags, f.Text)
		}
		if formatted := hclwrite.Format(f.Text); !bytes.Equal(formatted, f.Text) {
			t.Errorf("%s is not formatted:\n%s", f.Path, cmp.Diff(string(f.Text), string(formatted)))
		}
	}
	golden := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(golden, all.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if diff := cmp.Diff(string(want), all.String()); err != nil || diff != "" {
		t.Errorf("%v; go test ./terraform -update writes it anew\n%s", err, diff)
	}
}

// FuzzText: whatever stands in a project becomes text, and never code.
func FuzzText(f *testing.F) {
	f.Add("web", `${file("/etc/passwd")} %{ if true } "\`)
	f.Fuzz(func(t *testing.T, service, text string) {
		if !utf8.ValidString(service + text) {
			t.Skip("no Compose file has it")
		}
		root := Root{
			Name: "production", Project: text, Cluster: &Cluster{text, text}, Images: map[string]Variable{service: {"V", text}},
			Replicas: map[string]Variable{text: {"R", "1"}}, Secrets: map[string]Secret{text: {text, text}}, Hidden: map[string]string{text: "H"},
		}
		native := root
		native.Objects = []Object{{Address: Address("Kind", text, map[string]bool{}), Service: text, Manifest: map[string]any{text: text, service: Lookup("images", text, text)}}}
		native.EnvSecrets = []EnvSecret{{Address: Address("Secret", text, map[string]bool{}), Object: text, Keys: map[string]string{text: text}}}
		for _, f := range append(Files(text, []Root{root}), Files(text, []Root{native})...) {
			if !strings.HasSuffix(f.Path, ".tf") && !strings.HasSuffix(f.Path, ".hcl") && !strings.HasSuffix(f.Path, ".tfvars") {
				continue
			}
			file, diags := hclsyntax.ParseConfig(f.Text, f.Path, hcl.InitialPos)
			if diags.HasErrors() {
				t.Fatalf("%v\n%s", diags, f.Text)
			}
			for _, b := range file.Body.(*hclsyntax.Body).Blocks {
				if b.Type != "module" || b.Labels[0] != "platform" {
					continue
				}
				got, diags := b.Body.Attributes["project"].Expr.Value(nil)
				if want := cty.StringVal(text); diags.HasErrors() || !got.RawEquals(want) {
					t.Fatalf("%v: it says %#v, want %#v", diags, got, want)
				}
			}
		}
	})
}
