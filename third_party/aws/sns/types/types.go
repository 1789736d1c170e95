// Package types has as much of its namesake as Alertmanager's receiver for SNS refers to.
package types

// MessageAttributeValue would be sent along.
type MessageAttributeValue struct{ DataType, StringValue *string }
