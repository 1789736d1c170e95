package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

const maxToken = 8 << 10

// split takes the three parts of a compact JWS apart. Each has one spelling only: no padding, no line breaks, no bits
// that decode to nothing. Two programs that read a token can't read it differently then.
func split(token string) (head, payload []byte, err error) {
	if len(token) > maxToken {
		return nil, nil, errors.New("longer than 8 KiB")
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, nil, fmt.Errorf("%d parts, not 3", len(parts))
	}
	var decoded [3][]byte
	for i, p := range parts {
		if p == "" {
			return nil, nil, fmt.Errorf("part %d is empty", i+1)
		}
		if strings.ContainsAny(p, "\r\n") { // the decoder skips them
			return nil, nil, errors.New("line break in a part")
		}
		if decoded[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil {
			return nil, nil, fmt.Errorf("part %d: %w", i+1, err)
		}
	}
	return decoded[0], decoded[1], nil
}

const maxDepth = 8 // of objects and lists in a token

// object reads a JSON object in which no name stands twice, at any depth. Numbers stay as they are written.
func object(b []byte) (map[string]any, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := value(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the object")
	}
	o, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not an object")
	}
	return o, nil
}

func value(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth == maxDepth {
		return nil, errors.New("nested too deep")
	}
	if delim == '[' {
		list := []any{}
		for d.More() {
			v, err := value(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.Token()
		return list, err
	}
	o := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string) // the decoder takes nothing else for a name
		if _, twice := o[name]; twice {
			return nil, fmt.Errorf("%q stands twice", name)
		}
		if o[name], err = value(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err = d.Token()
	return o, err
}
