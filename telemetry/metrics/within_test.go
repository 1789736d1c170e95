package metrics

import (
	"errors"
	"testing"

	"trellis/errdefs"
)

// TestWithin narrows every selector of an expression, wherever it stands, and nothing else.
func TestWithin(t *testing.T) {
	for expr, want := range map[string]string{
		"1 + time()": "1 + time()",
		"up == 0":    `up{team="a"} == 0`,
		`sum by (x) (rate(a_total{x!=""}[5m] offset 1m)) / ignoring (y) b`: `sum by (x) (rate(a_total{team="a",x!=""}[5m] offset 1m)) / ignoring (y) b{team="a"}`,
		`max_over_time((a > 1)[1h:1m])`:                                    `max_over_time((a{team="a"} > 1)[1h:1m])`,
		`{__name__=~"a|b", team="b"}`:                                      `{__name__=~"a|b",team="a",team="b"}`,
		`label_replace(a, "q", "$1", "t", "(.+)") or vector(1)`:            `label_replace(a{team="a"}, "q", "$1", "t", "(.+)") or vector(1)`,
	} {
		if got, err := Within(expr, map[string]string{"team": "a"}); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", expr, got, err, want)
		}
	}
	if _, err := Within("sum(", nil); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("an expression that is cut short: %v", err)
	}
}
