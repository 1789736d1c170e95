// Package config has as much of its namesake as Alertmanager's receiver for SNS refers to.
package config

import (
	"context"
	"errors"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
)

var errNone = errors.New("nothing is asked of AWS here")

// LoadOptions would say where a configuration is read from.
type LoadOptions struct{}

// LoadDefaultConfig refuses.
func LoadDefaultConfig(context.Context, ...func(*LoadOptions) error) (aws.Config, error) {
	return aws.Config{}, errNone
}

func ignored(*LoadOptions) error { return nil }

// HTTPClient would send requests.
type HTTPClient interface {
	Do(*http.Request) (*http.Response, error)
}

// WithHTTPClient is ignored.
func WithHTTPClient(HTTPClient) func(*LoadOptions) error { return ignored }

// WithRegion is ignored.
func WithRegion(string) func(*LoadOptions) error { return ignored }

// WithSharedConfigProfile is ignored.
func WithSharedConfigProfile(string) func(*LoadOptions) error { return ignored }

// WithCredentialsProvider is ignored.
func WithCredentialsProvider(aws.CredentialsProvider) func(*LoadOptions) error { return ignored }

// WithBaseEndpoint is ignored.
func WithBaseEndpoint(string) func(*LoadOptions) error { return ignored }
