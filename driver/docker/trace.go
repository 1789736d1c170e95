package docker

import (
	"encoding/json"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// traceID marks the messages in which BuildKit says what it does: a StatusResponse of its control API, as base64.
const traceID = "moby.buildkit.trace"

// Of moby/buildkit/api/services/control/control.proto.
const (
	statusVertexes = 1
	statusLogs     = 3
	vertexName     = 3
	vertexStarted  = 5
	vertexDone     = 6
	vertexError    = 7
	logMessage     = 4
)

// trace writes what a trace says to the output: the steps as they begin, and what they print.
func (t *tail) trace(aux json.RawMessage) {
	var b []byte
	if json.Unmarshal(aux, &b) != nil {
		return
	}
	_ = fields(b, func(number protowire.Number, value []byte) error {
		switch number {
		case statusVertexes:
			t.vertex(value)
		case statusLogs:
			return fields(value, func(n protowire.Number, v []byte) error {
				if n == logMessage {
					_, _ = t.Write(v)
				}
				return nil
			})
		}
		return nil
	})
}

// vertex says that a step has begun, or what was wrong with it.
func (t *tail) vertex(b []byte) {
	var name, trouble string
	var began, done bool
	err := fields(b, func(n protowire.Number, v []byte) error {
		switch n {
		case vertexName:
			name = string(v)
		case vertexStarted:
			began = true
		case vertexDone:
			done = true
		case vertexError:
			trouble = string(v)
		}
		return nil
	})
	switch {
	case err != nil:
	case trouble != "":
		_, _ = fmt.Fprintf(t, "%s: %s\n", name, trouble)
	case began && !done:
		_, _ = io.WriteString(t, name+"\n")
	}
}

// fields calls f for each field of a message that has a length: strings and messages.
func fields(b []byte, f func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errTrace
		}
		b = b[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return errTrace
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return errTrace
		}
		b = b[n:]
		if err := f(number, value); err != nil {
			return err
		}
	}
	return nil
}
