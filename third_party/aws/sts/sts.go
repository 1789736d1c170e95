// Package sts has as much of its namesake as Alertmanager's receiver for SNS refers to.
package sts

import "github.com/aws/aws-sdk-go-v2/aws"

// NewFromConfig returns no client.
func NewFromConfig(aws.Config) any { return nil }
