package kubernetes

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"trellis/compose"
	"trellis/errdefs"
)

// TestContentThatIsTooLarge: what no Secret or ConfigMap can hold is refused before anything is applied, with where it stands.
func TestContentThatIsTooLarge(t *testing.T) {
	web := compose.Service{
		Name: "web", Image: "web:1", Configs: []compose.FileMount{{Source: "model"}}, Secrets: []compose.FileMount{{Source: "dump"}},
	}
	for name, test := range map[string]struct {
		secret, config, variable int
		want                     string
	}{
		"all fit":           {maxContent, maxContent, maxContent, ""},
		"a config does not": {1, maxContent + 1, 1, "configs.model"},
		"a secret does not": {maxContent + 1, 1, 1, "secrets.dump"},
		"variables do not":  {1, 1, maxContent + 1, "services.web.environment"},
	} {
		t.Run(name, func(t *testing.T) {
			web.Environment = map[string]string{"API_TOKEN": strings.Repeat("t", test.variable)}
			p := compose.Project{
				Name: "shop", Services: map[string]compose.Service{"web": web},
				Secrets: map[string]compose.FileValue{"dump": {}}, Configs: map[string]compose.FileValue{"model": {}},
			}
			_, err := Render(p, nil, Options{Namespace: "shop", Revision: 1, Contents: map[string][]byte{
				"secrets/dump": bytes.Repeat([]byte{0}, test.secret), "configs/model": bytes.Repeat([]byte("m"), test.config),
			}})
			if test.want == "" && err != nil || test.want != "" && (!errors.Is(err, errdefs.ErrUnsupported) || !strings.Contains(err.Error(), test.want+": ")) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
