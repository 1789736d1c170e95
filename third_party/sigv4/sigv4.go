// Package sigv4 has as much of its namesake as Prometheus' and Alertmanager's configuration refer to. It signs nothing: Trellis
// writes no configuration that asks for it.
package sigv4

import (
	"errors"
	"net/http"
)

// SigV4Config would say how requests to AWS are signed.
type SigV4Config struct{ Region, Profile, AccessKey, SecretKey, RoleARN, ExternalID string }

var errNone = errors.New("requests are not signed for AWS here")

// UnmarshalYAML refuses.
func (*SigV4Config) UnmarshalYAML(func(any) error) error { return errNone }

// NewSigV4RoundTripper refuses.
func NewSigV4RoundTripper(*SigV4Config, http.RoundTripper) (http.RoundTripper, error) {
	return nil, errNone
}
