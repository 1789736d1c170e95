package kubernetes

import (
	"encoding/json"
	"fmt"

	"sigs.k8s.io/yaml"
)

// Plain returns an object as it is applied or written down: without its status, which is the cluster's, and without what
// is empty.
func Plain(o Object) (map[string]any, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", o.GetName(), err)
	}
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("encode %s: %w", o.GetName(), err)
	}
	delete(m, "status")
	return tidied(m).(map[string]any), nil
}

// tidied leaves out null, and structures that hold nothing where Kubernetes takes that for the same.
func tidied(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, e := range v {
			e = tidied(e)
			v[key] = e
			if m, ok := e.(map[string]any); e == nil || ok && len(m) == 0 && key == "status" || ok && len(m) == 0 && (key == "resources" || key == "metadata" || key == "strategy" || key == "updateStrategy") {
				delete(v, key)
			}
		}
	case []any:
		for i, e := range v {
			v[i] = tidied(e)
		}
	}
	return v
}

// YAML returns an object as YAML, its keys in order.
func YAML(o Object) ([]byte, error) {
	m, err := Plain(o)
	if err != nil {
		return nil, err
	}
	text, err := yaml.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", o.GetName(), err)
	}
	return text, nil
}
