package compose

import (
	"slices"
	"strings"
	"testing"
)

// TestMatrixIsComplete fails when compose-go or x-trellis learns an attribute that the matrix has no word for, and when
// the matrix speaks of one that is gone.
func TestMatrixIsComplete(t *testing.T) {
	known := map[string]bool{}
	for _, target := range Targets() {
		v := newVerdicts(target)
		for _, a := range append(specAttributes(), trellisAttributes()...) {
			known[a.path] = true
			c, ok := v.of(a.path)
			switch {
			case !ok:
				t.Errorf("%s: the matrix lacks it: say in matrix.go what becomes of it", a.path)
			case c.how != CarriedOut && c.text == "":
				t.Errorf("%s: %s: %s, and nothing says how or why", target, a.path, c.how)
			}
		}
	}
	if len(known) < 500 {
		t.Fatalf("only %d attributes were found: compose-go's types were not understood", len(known))
	}
	for _, all := range [][]row{matrix(), dockerRows(), kubernetesRows()} {
		seen := map[string]bool{}
		for _, r := range all {
			path := strings.TrimSuffix(strings.TrimSuffix(r.path, ".**"), "[]")
			if !known[path] && !slices.Contains([]string{"include"}, path) {
				t.Errorf("%s: the matrix speaks of an attribute that nothing knows", r.path)
			}
			if seen[r.path] {
				t.Errorf("%s: twice in the matrix", r.path)
			}
			seen[r.path] = true
		}
	}
}

// TestMatrixNoticesNewAttributes proves that the test above can fail.
func TestMatrixNoticesNewAttributes(t *testing.T) {
	for _, target := range Targets() {
		v := newVerdicts(target)
		for _, path := range []string{"services.*.brand_new", "brand_new", "services.*.deploy.brand_new", "services.*.ports[].brand_new", "networks.*.brand_new"} {
			if _, ok := v.of(path); ok {
				t.Errorf("%s: %s has a verdict, though nobody wrote one", target, path)
			}
		}
	}
}

func TestEveryTargetIsSpokenOf(t *testing.T) {
	p, _, err := load(t, "full.good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range Targets() {
		if d := Check(p, target); len(d) < 10 {
			t.Errorf("%s: only %d warnings for a file that uses everything", target, len(d))
		}
	}
	if d := Check(p, "proces"); len(d) != 1 || !strings.Contains(d[0].Message, "did you mean process") {
		t.Errorf("an unknown target gives %v", d)
	}
}

// TestCheckNeedsNoPositions is for revisions, which are read from JSON: what is left is still said.
func TestCheckNeedsNoPositions(t *testing.T) {
	p, _, err := load(t, "full.good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	with := Check(p, TargetProcess)
	p.Positions = Positions{}
	without := Check(p, TargetProcess)
	if len(with) != len(without) {
		t.Errorf("%d warnings with positions, %d without", len(with), len(without))
	}
	for _, d := range with {
		if d.Line == 0 || d.Column == 0 || d.File == "" {
			t.Errorf("no place: %v", d)
		}
	}
}

func TestSupportPageIsCurrent(t *testing.T) {
	golden(t, "../docs/compose-support.md", SupportMarkdown())
}

func TestSchemaFileIsCurrent(t *testing.T) {
	golden(t, "../docs/x-trellis.schema.json", string(Schema()))
}
