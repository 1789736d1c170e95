package metrics

import (
	"fmt"
	"maps"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"trellis/errdefs"
)

// Within returns an expression that looks at no other series than those with labels of these values: what is asked of a store that has
// one project alone, for one that has many. One that cannot be read: ErrInvalid.
func Within(expr string, values map[string]string) (string, error) {
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errdefs.ErrInvalid, err)
	}
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok {
			for _, name := range slices.Sorted(maps.Keys(values)) {
				selector.LabelMatchers = append(selector.LabelMatchers, labels.MustNewMatcher(labels.MatchEqual, name, values[name]))
			}
		}
		return nil
	})
	return parsed.String(), nil
}
