package kubernetes

import (
	"fmt"
	"log/slog"
	"net/http"
	"testing"
)

// TestNear: what an older cluster would refuse is not asked of it, and of one that says nothing of itself neither.
func TestNear(t *testing.T) {
	for _, test := range []struct {
		answer string
		code   int
		want   bool
		failed bool
	}{
		{`{"major": "1", "minor": "36", "gitVersion": "v1.36.3"}`, 200, true, false},
		{`{"major": "1", "minor": "35+", "gitVersion": "v1.35.0-eks-1a2b3c4"}`, 200, true, false},
		{`{"major": "2", "minor": "0", "gitVersion": "v2.0.0"}`, 200, true, false},
		{`{"major": "1", "minor": "34", "gitVersion": "v1.34.9"}`, 200, false, false},
		{`{"gitVersion": "what"}`, 200, false, false},
		{"", http.StatusForbidden, false, false},
		{"", http.StatusInternalServerError, false, true},
	} {
		s, c := cluster(t)
		s.before = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/version" {
				return false
			}
			if test.code != http.StatusOK {
				answer(w, test.code, http.StatusText(test.code), "no")
				return true
			}
			fmt.Fprint(w, test.answer)
			return true
		}
		e := New("shop", c, slog.New(slog.DiscardHandler))
		if got, err := e.near(""); got || err != nil || len(s.asked) > 0 {
			t.Errorf("without a data plane: %v, %v, asked %v", got, err, s.asked)
		}
		for range 2 {
			if got, err := e.near(planeImage); got != test.want || (err != nil) != test.failed {
				t.Errorf("%s (%d): %v, %v", test.answer, test.code, got, err)
			}
		}
		if n := len(s.asked); n != 1 && !test.failed {
			t.Errorf("%s (%d): asked %d times", test.answer, test.code, n)
		}
	}
}
