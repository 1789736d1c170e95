// Package option has as much of its namesake as Prometheus' configuration of remote write refers to. Trellis writes no
// configuration that signs in to Google; one would be refused.
package option

import "golang.org/x/oauth2/google"

// ClientOption and CredentialsType would say how to sign in.
type (
	ClientOption    any
	CredentialsType string
)

// ServiceAccount would be a file of such a one.
const ServiceAccount CredentialsType = "service_account"

// WithScopes and what follows is ignored.
func WithScopes(...string) ClientOption                            { return nil }
func WithCredentials(*google.Credentials) ClientOption             { return nil }
func WithAuthCredentialsFile(CredentialsType, string) ClientOption { return nil }
