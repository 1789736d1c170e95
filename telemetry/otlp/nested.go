package otlp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxNested is how many messages of a request may lie within one another, the bound of protobuf's own readers in C++ and
// Java. It leaves a value about 45 levels of lists or 30 of maps. The library reads values as deep as a request nests them,
// and what overflows a goroutine's stack ends the process.
const maxNested = 100

var errNested = fmt.Errorf("more than %d messages within one another: flatten the values", maxNested)

// maxMessages is how many messages a request may have that are or may hold values: spans, records, points, attributes. Two bytes are an
// empty one, and most of a kilobyte as the library and the stores have it. What programs send at a time has a tenth of these at most.
const maxMessages = 1_000_000

var errMany = &refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d spans, records, points, attributes and values: send smaller batches", maxMessages)}

// shape holds the fields of a message that are messages themselves and may hold a value at some depth.
type shape map[protowire.Number]shape

// shapes are those of the requests (opentelemetry-proto). What a client of long ago sends as field 1000 is read as well.
type shapes struct{ traces, logs, metrics shape }

func newShapes() shapes {
	value := shape{}
	pair := shape{2: value}
	value[5], value[6] = shape{1: value}, shape{1: pair}
	request := func(item shape) shape {
		resource, scoped := shape{1: pair}, shape{1: shape{3: pair}, 2: item}
		return shape{1: shape{1: resource, 2: scoped, 1000: scoped}}
	}
	exemplar := shape{7: pair}
	number := shape{1: shape{5: exemplar, 7: pair}}
	return shapes{
		traces: request(shape{9: pair, 11: shape{3: pair}, 13: shape{4: pair}}),
		logs:   request(shape{5: value, 6: pair}),
		metrics: request(shape{
			5: number, 7: number, 12: pair,
			9:  shape{1: shape{8: exemplar, 9: pair}},
			10: shape{1: shape{1: pair, 11: exemplar}},
			11: shape{1: shape{7: pair}},
		}),
	}
}

// protoNested refuses a message in which more than left others lie within one another, or more than maxMessages at all.
func protoNested(body []byte, s shape, left int) error {
	more := maxMessages
	return walk(body, s, left, &more)
}

func walk(body []byte, s shape, left int, more *int) error {
	if left < 0 {
		return errNested
	}
	if *more--; *more < 0 {
		return errMany
	}
	for len(body) > 0 {
		field, kind, n := protowire.ConsumeTag(body)
		switch {
		case n < 0:
			return protowire.ParseError(n)
		case kind == protowire.StartGroupType, kind == protowire.EndGroupType:
			return errors.New("proto: OTLP has no groups") // and the library does not skip them as a whole
		}
		body = body[n:]
		if n = protowire.ConsumeFieldValue(field, kind, body); n < 0 {
			return protowire.ParseError(n)
		}
		if inner := s[field]; inner != nil && kind == protowire.BytesType {
			text, _ := protowire.ConsumeBytes(body[:n])
			if err := walk(text, inner, left-1, more); err != nil {
				return err
			}
		}
		body = body[n:]
	}
	return nil
}

// jsonNested is protoNested for JSON, where every message is an object. The library reads on after what is no JSON, and
// takes it for more of the same, so that is refused too.
func jsonNested(body []byte) error {
	if !json.Valid(body) {
		return errors.New("no valid JSON")
	}
	depth, quoted, more := 0, false, maxMessages
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{':
			if depth++; depth > maxNested+1 { // the request is an object itself
				return errNested
			}
			if more--; more < 0 {
				return errMany
			}
		case c == '}':
			depth--
		}
	}
	return nil
}
