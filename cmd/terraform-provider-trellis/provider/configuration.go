package provider

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"terraform-provider-trellis/cli"
)

// configuration is all that a project says, by Compose path: what Terraform shows the difference of.
type configuration map[string]string

// configurationOf returns what changes of an empty project come to.
func configurationOf(changes []cli.Change) configuration {
	c := configuration{}
	for _, change := range changes {
		c.put(change.Path, change.To)
	}
	return c
}

// plainKey is a key that stands in a path as it is; Trellis quotes the others.
var plainKey = regexp.MustCompile(`^[A-Za-z0-9_/@$*+:,=~-]+$`)

// put writes the values of a structure at and below a path, which is written as Trellis writes it.
func (c configuration) put(path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if !plainKey.MatchString(key) {
				key = strconv.Quote(key)
			}
			c.put(path+"."+key, value)
		}
		if len(v) > 0 {
			return
		}
	case []any:
		if len(v) > 0 && !slices.ContainsFunc(v, func(e any) bool { _, object := e.(map[string]any); return !object }) {
			for i, value := range v {
				c.put(path+"["+strconv.Itoa(i)+"]", value)
			}
			return
		}
	}
	c[path] = textOf(v)
}

// textOf writes a value as the file would: text as it is, all else as JSON.
func textOf(v any) string {
	if text, ok := v.(string); ok {
		return text
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err.Error() // of decoded JSON there is none
	}
	return strings.TrimSpace(b.String())
}

// drifted writes over c what is there instead of what the revision says. What is being brought back already is left out:
// it is over before anybody can decide about it.
func (c configuration) drifted(all []cli.Drift) {
	for _, d := range all {
		switch {
		case d.Heals:
		case d.From == nil && d.To == nil || strings.Count(d.Path, ".") < 2: // nothing that a file can say
			c[d.Path] = d.Reason
		default:
			maps.DeleteFunc(c, func(path, _ string) bool {
				rest, below := strings.CutPrefix(path, d.Path)
				return below && (rest == "" || rest[0] == '.' || rest[0] == '[')
			})
			if d.To != nil {
				c.put(d.Path, d.To)
			}
		}
	}
}

// hide takes the values of secrets out, wherever they have got to, also as they stand in JSON. One that another one is part of goes as a
// whole.
func (c configuration) hide(secrets map[string]string) {
	var texts []string
	for _, secret := range secrets {
		quoted := textOf([]string{secret}) // as an element of a list
		texts = append(texts, secret, quoted[len(`["`):len(quoted)-len(`"]`)])
	}
	longest := slices.SortedFunc(slices.Values(texts), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b))
	})
	var masks []string
	for _, secret := range longest {
		if secret != "" {
			masks = append(masks, secret, "***")
		}
	}
	mask := strings.NewReplacer(masks...) // of several at one place it takes the first, and never looks at what it wrote
	for path, value := range c {
		c[path] = mask.Replace(value)
	}
}

// differing returns the paths at which two configurations are not the same, in order.
func (c configuration) differing(other configuration) []string {
	paths := map[string]bool{}
	for path, value := range c {
		if o, there := other[path]; !there || o != value {
			paths[path] = true
		}
	}
	for path := range other {
		if _, there := c[path]; !there {
			paths[path] = true
		}
	}
	return slices.Sorted(maps.Keys(paths))
}

// effectsOf returns what changes do to what runs, by path; what does nothing is left out.
func effectsOf(changes []cli.Change) map[string]string {
	effects := map[string]string{}
	for _, c := range changes {
		if c.Effect != "" && c.Effect != "none" {
			effects[c.Path] = c.Effect
		}
	}
	return effects
}
