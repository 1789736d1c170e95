// Package sns has as much of its namesake as Alertmanager's receiver for SNS refers to.
package sns

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"
)

var errNone = errors.New("nothing is asked of AWS here")

// Client publishes nothing.
type Client struct{}

// PublishInput would be published.
type PublishInput struct {
	Message, MessageDeduplicationId, MessageGroupId, PhoneNumber, Subject, TargetArn, TopicArn *string
	MessageAttributes                                                                          map[string]types.MessageAttributeValue
}

// PublishOutput would say what was.
type PublishOutput struct{ MessageId, SequenceNumber *string }

// NewFromConfig returns a client that publishes nothing.
func NewFromConfig(aws.Config) *Client { return &Client{} }

// Publish refuses.
func (*Client) Publish(context.Context, *PublishInput) (*PublishOutput, error) { return nil, errNone }
