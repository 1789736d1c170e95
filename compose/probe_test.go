package compose

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestProbesWithVariables: a short form of a probe may be a variable, as every other number and switch may.
func TestProbesWithVariables(t *testing.T) {
	for text, want := range map[string]Probe{
		"tcp: 5432":                    {TCP: true, Port: 5432},
		"tcp: \"${PORT:-5432}\"":       {TCP: true, Port: 5432},
		"tcp: \"${ON:-true}\"":         {TCP: true},
		"grpc: \"${ON:-true}\"":        {GRPC: "-"},
		"grpc: \"${NAME:-shop.Cart}\"": {GRPC: "shop.Cart"},
		"grpc: \"true\"":               {GRPC: "true"},
	} {
		dir := write(t, map[string]string{"compose.yaml": "services: {web: {image: x, expose: [\"80\"], x-trellis: {probe: {" + text + "}}}}\n"})
		p, _, err := Load(context.Background(), Options{WorkingDir: dir, Environ: []string{}})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(&want, p.Services["web"].Trellis.Probe); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}
