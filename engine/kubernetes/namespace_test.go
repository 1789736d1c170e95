package kubernetes

import (
	"errors"
	"strings"
	"testing"

	"trellis/errdefs"
	"trellis/state"
)

func TestNamespaceOnItsWayOut(t *testing.T) {
	s, c := cluster(t)
	s.objects["/api/v1/namespaces/shop"] = map[string]any{
		"kind": "Namespace", "apiVersion": "v1", "metadata": map[string]any{"name": "shop", "deletionTimestamp": "2026-01-02T03:04:05Z"},
	}
	if err := c.ensureNamespace(t.Context(), "shop"); !errors.Is(err, errdefs.ErrConflict) || !strings.Contains(err.Error(), "namespace shop is being deleted") {
		t.Error(err)
	}
}

// TestPlanOfANamespaceThatEnds: it is not up to date, whatever runs there yet.
func TestPlanOfANamespaceThatEnds(t *testing.T) {
	s, client := cluster(t)
	e := quiet(client)
	if _, err := e.Keep(t.Context(), version("1"), nil, true); err != nil || len(s.names()) > 0 {
		t.Errorf("%v, and a look has made %v", err, s.names())
	}
	if _, err := e.Apply(t.Context(), state.Revision{Project: version("1")}, ""); err != nil {
		t.Fatal(err)
	}
	for _, look := range []bool{true, false} {
		if _, err := e.Keep(t.Context(), version("1"), nil, look); err != nil {
			t.Errorf("look %v: %v", look, err)
		}
	}
	s.objects["/api/v1/namespaces/shop"]["metadata"].(map[string]any)["deletionTimestamp"] = "2026-01-02T03:04:05Z"
	for _, look := range []bool{true, false} {
		if _, err := e.Keep(t.Context(), version("1"), nil, look); !errors.Is(err, errdefs.ErrConflict) || !strings.Contains(err.Error(), "namespace shop is being deleted") {
			t.Errorf("look %v: %v", look, err)
		}
	}
}
