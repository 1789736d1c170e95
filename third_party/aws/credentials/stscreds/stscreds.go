// Package stscreds has as much of its namesake as Alertmanager's receiver for SNS refers to.
package stscreds

import "github.com/aws/aws-sdk-go-v2/aws"

// AssumeRoleOptions would say which role is assumed.
type AssumeRoleOptions struct{ ExternalID *string }

// NewAssumeRoleProvider provides none.
func NewAssumeRoleProvider(any, string, ...func(*AssumeRoleOptions)) aws.CredentialsProvider {
	return nil
}
