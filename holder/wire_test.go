package holder

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestMessageRoundTrip(t *testing.T) {
	var b bytes.Buffer
	want := request{Protocol: Protocol, Op: opPublish, Epoch: 1 << 63, Version: 3}
	for _, payload := range [][]byte{nil, []byte("snapshot"), bytes.Repeat([]byte{0xff}, 1<<20)} {
		if err := writeMessage(&b, want, payload); err != nil {
			t.Fatal(err)
		}
		got, p, err := readRequest(&b)
		if err != nil || !bytes.Equal(p, payload) {
			t.Errorf("payload of %d bytes: %d, %v", len(payload), len(p), err)
		}
		same(t, "request", got, want)
	}
	if _, _, err := readRequest(&b); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	if err := writeMessage(io.Discard, want, make([]byte, maxPayload+1)); !errors.Is(err, ErrProtocol) {
		t.Errorf("a payload that is too large: %v", err)
	}
}

func TestOtherProtocolIsRefused(t *testing.T) {
	for _, version := range []int{-1, 0, Protocol + 1} {
		var b bytes.Buffer
		if err := writeMessage(&b, request{Protocol: version, Op: opInfo}, nil); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readRequest(&b); !errors.Is(err, ErrProtocol) {
			t.Errorf("protocol %d: %v", version, err)
		}
	}
}

func FuzzReadRequest(f *testing.F) {
	for _, r := range []request{{Protocol: 1, Op: opInfo}, {Protocol: 1, Op: opOpen, Sockets: []Socket{{Name: "a"}}}} {
		var b bytes.Buffer
		if err := writeMessage(&b, r, nil); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		req, payload, err := readRequest(bytes.NewReader(data))
		if err != nil {
			return
		}
		if len(payload) > len(data) || req.Protocol != Protocol {
			t.Errorf("read %+v and %d bytes of %d", req, len(payload), len(data))
		}
		family(Socket{Network: "tcp", Address: req.Op})
		for _, s := range req.Sockets {
			family(s)
		}
	})
}

// FuzzReadEvent is the other direction: what a follower makes of what it reads.
func FuzzReadEvent(f *testing.F) {
	for _, u := range []update{{Closed: []string{"a"}, Away: true}, {More: true}, {Names: []string{"x"}}} {
		var b bytes.Buffer
		if err := writeMessage(&b, u, []byte("snapshot")); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var u update
		payload, err := readMessage(bytes.NewReader(data), &u)
		if err == nil && len(payload) > len(data) {
			t.Errorf("%d bytes out of %d", len(payload), len(data))
		}
		r := &fileReader{}
		if err := r.take(u.Names, nil); len(u.Names) > 0 && !errors.Is(err, ErrProtocol) {
			t.Errorf("files out of nothing: %v", err)
		}
	})
}
