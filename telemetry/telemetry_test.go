package telemetry

import (
	"encoding/json"
	"testing"
)

func TestIDsAreHexInJSON(t *testing.T) {
	in := Span{Trace: TraceID{1, 2}, ID: SpanID{3}}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out Span
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	if out.Trace != in.Trace || out.ID != in.ID || !out.Parent.IsZero() {
		t.Errorf("%s became %+v", b, out)
	}
	for _, bad := range []string{"", "00", "00000000000000000000000000000000", "0102030405060708090a0b0c0d0e0f1", "g102030405060708090a0b0c0d0e0f10"} {
		if id, err := ParseTraceID(bad); err == nil {
			t.Errorf("ParseTraceID(%q) = %v", bad, id)
		}
	}
}

func FuzzTraceID(f *testing.F) {
	f.Add("0102030405060708090a0b0c0d0e0f10")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseTraceID(s)
		if err != nil {
			return
		}
		if again, err := ParseTraceID(id.String()); err != nil || again != id {
			t.Errorf("%q: %v, %v", s, again, err)
		}
	})
}

func TestARequestIsSaidInDetail(t *testing.T) {
	for _, c := range []struct{ root, path, want string }{
		{"GET /*", "/courses/go", "GET /courses/go"}, {"GET /courses", "", "GET /courses"}, {"SELECT courses", "", "SELECT courses"},
		{"work", "/courses", "work"}, {"Handle orders", "/courses", "Handle orders"},
	} {
		if got := (TraceSummary{Root: c.root, Path: c.path}).Request(); got != c.want {
			t.Errorf("%q of %q: %q, not %q", c.root, c.path, got, c.want)
		}
	}
}
