package proxy

import (
	"bytes"

	"trellis/proxy/http2"
)

// kind is what a connection's first bytes are.
type kind int32

const (
	undecided kind = iota
	plainHTTP
	http2Preface
	opaque      // anything else
	serverFirst // opaque, and the server spoke first
)

const (
	preface   = http2.Preface
	maxMethod = 20
)

// sniff tells what b, the first bytes of a client, begins. It answers undecided only while b is the beginning of both.
//
// An HTTP/1 request line is a method in capitals, a space, a target that begins with "/", "*" or "http", and at its end
// " HTTP/1.x". The end is looked at when it is there: "GET /key" is also a command of Redis.
func sniff(b []byte) kind {
	if len(b) <= len(preface) && string(b) == preface[:len(b)] {
		if len(b) == len(preface) {
			return http2Preface
		}
		return undecided
	}
	if len(b) > len(preface) && string(b[:len(preface)]) == preface {
		return http2Preface
	}
	i := 0
	for i < len(b) && ('A' <= b[i] && b[i] <= 'Z' || b[i] == '-') {
		i++
	}
	switch {
	case i > maxMethod:
		return opaque
	case i == len(b):
		return undecided
	case i == 0 || b[i] != ' ':
		return opaque
	}
	target := b[i+1:]
	if !begins(target, "/") && !begins(target, "*") && !begins(target, "http") {
		return opaque
	}
	line := bytes.IndexByte(target, '\n')
	if line < 0 {
		if len(target) > maxURI {
			return plainHTTP // HTTP's own bound answers it
		}
		return undecided
	}
	target = bytes.TrimSuffix(target[:line], []byte{'\r'})
	version := bytes.LastIndexByte(target, ' ')
	if version > 0 && bytes.HasPrefix(target[version+1:], []byte("HTTP/1.")) {
		return plainHTTP
	}
	return opaque
}

// begins says whether b starts with prefix, or is too short to say no.
func begins(b []byte, prefix string) bool {
	n := min(len(b), len(prefix))
	return string(b[:n]) == prefix[:n]
}
