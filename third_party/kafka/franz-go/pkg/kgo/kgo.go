// Package kgo has as much of its namesake as Alertmanager's recorder of events refers to. Nothing is ever written to Kafka:
// Trellis has no events of Alertmanager's recorded.
package kgo

import (
	"context"
	"crypto/tls"
	"errors"
	"time"
)

var errNone = errors.New("nothing is written to Kafka here")

// ErrMaxBuffered would say that too much waits.
var ErrMaxBuffered = errors.New("too much waits")

// Opt, Acks, CompressionCodec and Logger would say how Kafka is reached.
type (
	Opt              any
	Acks             struct{}
	CompressionCodec struct{}
	Logger           any
)

// SeedBrokers and what follows is ignored.
func SeedBrokers(...string) Opt                        { return nil }
func ClientID(string) Opt                              { return nil }
func ProducerLinger(time.Duration) Opt                 { return nil }
func WithLogger(Logger) Opt                            { return nil }
func DefaultProduceTopic(string) Opt                   { return nil }
func DisableIdempotentWrite() Opt                      { return nil }
func ProducerBatchCompression(...CompressionCodec) Opt { return nil }
func DialTLSConfig(*tls.Config) Opt                    { return nil }
func RequiredAcks(Acks) Opt                            { return nil }

// LeaderAck, NoAck and AllISRAcks are all one.
func LeaderAck() Acks  { return Acks{} }
func NoAck() Acks      { return Acks{} }
func AllISRAcks() Acks { return Acks{} }

// NoCompression and what follows is all one.
func NoCompression() CompressionCodec     { return CompressionCodec{} }
func GzipCompression() CompressionCodec   { return CompressionCodec{} }
func SnappyCompression() CompressionCodec { return CompressionCodec{} }
func Lz4Compression() CompressionCodec    { return CompressionCodec{} }
func ZstdCompression() CompressionCodec   { return CompressionCodec{} }

// Record would be written.
type Record struct {
	Key, Value []byte
	Topic      string
}

// Client writes nothing.
type Client struct{}

// NewClient refuses.
func NewClient(...Opt) (*Client, error) { return nil, errNone }

// Ping refuses.
func (*Client) Ping(context.Context) error { return errNone }

// TryProduce refuses.
func (*Client) TryProduce(_ context.Context, r *Record, done func(*Record, error)) { done(r, errNone) }

// Flush has nothing to do.
func (*Client) Flush(context.Context) error { return nil }

// Close has nothing to do.
func (*Client) Close() {}
