// Package identity says who somebody is: it verifies tokens and API keys, and issues the certificates by which workloads
// and data planes know each other. It decides nothing about what they may do.
//
// Everything here fails closed: what cannot be read, fetched or understood proves nothing.
package identity

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrRefused says that a credential proves nothing. What is wrapped beside it says why, for the log: callers are told no
// more than that they were refused.
var ErrRefused = errors.New("credential refused")

// Caller is somebody who has proven who they are.
type Caller struct {
	Subject string
	Expires time.Time // the proof's end; zero: none
	claims  map[string]any
}

// NewCaller returns a caller with the given claims, each a string or a list of strings.
func NewCaller(subject string, expires time.Time, claims map[string]any) *Caller {
	return &Caller{Subject: subject, Expires: expires, claims: claims}
}

// Claim returns a claim as text: a string as it is, a list joined with commas, a number or boolean as JSON writes it; ""
// where there is none or it is an object.
func (c *Caller) Claim(name string) string {
	if name == "sub" {
		return c.Subject
	}
	return text(c.claims[name])
}

func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case json.Number:
		return v.String()
	case []any:
		parts := make([]string, 0, len(v))
		for _, one := range v {
			if s := text(one); s != "" {
				parts = append(parts, s)
			}
		}
		return strings.Join(parts, ",")
	}
	return ""
}

// Has says whether a claim has one of the values: is it, lists it, or holds it as a word where the claim is scope or scp
// (RFC 8693, section 4.2).
func (c *Caller) Has(name string, values []string) bool {
	if name == "sub" {
		return slices.Contains(values, c.Subject)
	}
	switch v := c.claims[name].(type) {
	case nil:
		return false
	case []any:
		for _, one := range v {
			if slices.Contains(values, text(one)) && text(one) != "" {
				return true
			}
		}
		return false
	case string:
		if name == "scope" || name == "scp" {
			for word := range strings.FieldsSeq(v) {
				if slices.Contains(values, word) {
					return true
				}
			}
			return false
		}
		return slices.Contains(values, v)
	default:
		s := text(v)
		return s != "" && slices.Contains(values, s)
	}
}
