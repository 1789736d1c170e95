package provider

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terraform-provider-trellis/cli"
)

func changesOf(t *testing.T, text string) []cli.Change {
	t.Helper()
	var changes []cli.Change
	if err := json.Unmarshal([]byte(text), &changes); err != nil {
		t.Fatal(err)
	}
	return changes
}

const shop = `[
	{"path": "services.web", "action": "add", "to": {"image": "web:1", "command": ["a", "b"], "deploy": {"replicas": 2},
		"environment": {"A.B": "1", "KEY": "say hunter2 twice: hunter2"}, "networks": {"default": {}},
		"ports": [{"target": 80, "published": "8080"}, {"target": 81}]}},
	{"path": "volumes.data", "action": "add", "to": {"name": "data"}}
]`

func TestConfiguration(t *testing.T) {
	got := configurationOf(changesOf(t, shop))
	got.hide(map[string]string{"X": "hunter2", "EMPTY": ""})
	want := configuration{
		"services.web.image": "web:1", "services.web.command": `["a","b"]`, "services.web.deploy.replicas": "2",
		`services.web.environment."A.B"`: "1", "services.web.environment.KEY": "say *** twice: ***", "services.web.networks.default": "{}",
		"services.web.ports[0].target": "80", "services.web.ports[0].published": "8080", "services.web.ports[1].target": "81",
		"volumes.data.name": "data",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestSecretsWithinSecrets: of a secret that another one is part of nothing is shown, and what is shown is the same each time.
func TestSecretsWithinSecrets(t *testing.T) {
	secrets := map[string]string{"P": "admin", "Q": "admin123", "R": "postgres://admin123@db", "S": "*", "EMPTY": ""}
	want := configuration{"a": "***", "b": "--login=***", "c": "*** and ***", "d": "***"}
	for range 100 {
		got := configuration{"a": "admin", "b": "--login=admin123", "c": "admin and admin123", "d": "postgres://admin123@db"}
		got.hide(secrets)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
}

// TestSecretsInLists: what is no text stands as JSON, which writes some characters of a secret in another way.
func TestSecretsInLists(t *testing.T) {
	secret := "a\"b\\c\n<d>"
	got := configurationOf([]cli.Change{{Path: "services.web.command", To: []any{"web", "--password=" + secret}}, {Path: "services.web.environment.KEY", To: secret}})
	got.hide(map[string]string{"P": secret})
	want := configuration{"services.web.command": `["web","--password=***"]`, "services.web.environment.KEY": "***"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDriftIsWrittenOver(t *testing.T) {
	for name, test := range map[string]struct {
		drift cli.Drift
		want  map[string]string // path to value, "" for gone
	}{
		"another value": {cli.Drift{Change: cli.Change{Path: "services.web.deploy.replicas", From: 2., To: 3.}}, map[string]string{"services.web.deploy.replicas": "3"}},
		"taken out": {cli.Drift{Change: cli.Change{Path: "services.web.ports[0]", From: map[string]any{}}},
			map[string]string{"services.web.ports[0].target": "", "services.web.ports[0].published": ""}},
		"added":                {cli.Drift{Change: cli.Change{Path: "services.web.tmpfs", To: []any{"/tmp"}}}, map[string]string{"services.web.tmpfs": `["/tmp"]`}},
		"no word of a file":    {cli.Drift{Change: cli.Change{Path: "services.web.networks"}, Reason: "joined another"}, map[string]string{"services.web.networks": "joined another"}},
		"a service as a whole": {cli.Drift{Change: cli.Change{Path: "services.web", To: "stopped"}, Reason: "it stands still"}, map[string]string{"services.web": "it stands still"}},
		"heals":                {cli.Drift{Change: cli.Change{Path: "services.web.image", To: "x"}, Heals: true}, map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			got := configurationOf(changesOf(t, shop))
			got.drifted([]cli.Drift{test.drift})
			want := configurationOf(changesOf(t, shop))
			for path, value := range test.want {
				if want[path] = value; value == "" {
					delete(want, path)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if n := len(want.differing(configurationOf(changesOf(t, shop)))); n != len(test.want) {
				t.Errorf("%d paths differ, want %d", n, len(test.want))
			}
		})
	}
}

func TestEffects(t *testing.T) {
	got := effectsOf(changesOf(t, `[{"path": "a", "effect": "none"}, {"path": "b", "effect": "rollout"}, {"path": "c"}]`))
	if diff := cmp.Diff(map[string]string{"b": "rollout"}, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzID(f *testing.F) {
	f.Add("compose.yaml")
	f.Add("a.yaml,b.yaml?environment=staging&profile=x&profile=y&state_dir=%2Ftmp")
	f.Add("?")
	f.Fuzz(func(t *testing.T, id string) {
		p, err := projectOf(id)
		if err != nil {
			return
		}
		again, err := projectOf(idOf(p))
		if err != nil {
			t.Fatalf("%q became %q, which is no ID: %v", id, idOf(p), err)
		}
		if first, second := idOf(p), idOf(again); first != second {
			t.Errorf("%q became %q and then %q", id, first, second)
		}
	})
}

// TestDriftIsWhereItIsWanted: a key is written in one way, so that what is there stands in the place of what is wanted and not beside it.
func TestDriftIsWhereItIsWanted(t *testing.T) {
	for key, path := range map[string]string{
		"com.example/a": `services.web.labels."com.example/a"`, "a b": `services.web.labels."a b"`, "é": `services.web.labels."é"`, "a/b=c": "services.web.labels.a/b=c",
	} {
		got := configurationOf([]cli.Change{{Path: "services.web", Action: "add", To: map[string]any{"labels": map[string]any{key: "wanted"}}}})
		got.drifted([]cli.Drift{{Change: cli.Change{Path: path, From: "wanted", To: "there"}}})
		if diff := cmp.Diff(configuration{path: "there"}, got); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
	}
}
