// Package azidentity has as much of its namesake as Prometheus' configuration of remote write refers to. Trellis writes no
// configuration that signs in to Azure; one would be refused.
package azidentity

import (
	"crypto"
	"crypto/x509"
	"errors"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

var errNone = errors.New("nobody signs in to Azure here")

// ClientID would name a managed identity.
type ClientID string

// ManagedIdentityCredentialOptions and what follows would say how to sign in.
type (
	ManagedIdentityCredentialOptions struct {
		policy.ClientOptions
		ID any
	}
	WorkloadIdentityCredentialOptions struct {
		policy.ClientOptions
		ClientID, TenantID, TokenFilePath string
	}
	ClientSecretCredentialOptions struct{ policy.ClientOptions }
	DefaultAzureCredentialOptions struct {
		policy.ClientOptions
		TenantID string
	}
	ClientCertificateCredentialOptions struct {
		policy.ClientOptions
		SendCertificateChain bool
	}
)

// NewManagedIdentityCredential and what follows fails.
func NewManagedIdentityCredential(*ManagedIdentityCredentialOptions) (azcore.TokenCredential, error) {
	return nil, errNone
}

func NewWorkloadIdentityCredential(*WorkloadIdentityCredentialOptions) (azcore.TokenCredential, error) {
	return nil, errNone
}

func NewClientSecretCredential(_, _, _ string, _ *ClientSecretCredentialOptions) (azcore.TokenCredential, error) {
	return nil, errNone
}

func NewDefaultAzureCredential(*DefaultAzureCredentialOptions) (azcore.TokenCredential, error) {
	return nil, errNone
}

func ParseCertificates([]byte, []byte) ([]*x509.Certificate, crypto.PrivateKey, error) {
	return nil, nil, errNone
}

func NewClientCertificateCredential(_, _ string, _ []*x509.Certificate, _ crypto.PrivateKey, _ *ClientCertificateCredentialOptions) (azcore.TokenCredential, error) {
	return nil, errNone
}
