package holder

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Protocol is the version of the protocol that this package speaks; it serves requests of the version before as well.
const Protocol = 1

// The roles of the two programs.
const (
	RoleControlPlane = "control-plane"
	RoleDataPlane    = "data-plane"
)

// Bounds of one message. A snapshot of 10 000 instances has 2 MB, a request for 10 000 sockets 1.5 MB.
const (
	maxHeader  = 4 << 20
	maxPayload = 64 << 20
	// maxFiles is how many descriptors one message may carry: the kernel's SCM_MAX_FD is 253.
	maxFiles = 250
)

// The operations of a request.
const (
	opInfo    = "info"
	opHello   = "hello"
	opReady   = "ready"
	opOpen    = "open"
	opClose   = "close"
	opPublish = "publish"
	opFollow  = "follow"
	opReplace = "replace"
	opLend    = "lend"
	opStop    = "stop"
)

// request is what a client says first on a connection. Every connection carries one request; hello and follow keep
// theirs open. The payload of a publish is the snapshot.
type request struct {
	Protocol int      `json:"protocol"`
	Op       string   `json:"op"`
	Role     string   `json:"role,omitempty"`
	Parent   int      `json:"parent,omitempty"` // of a hello: the process that started the caller, 0: not known
	Sockets  []Socket `json:"sockets,omitempty"`
	Names    []string `json:"names,omitempty"`
	Command  []string `json:"command,omitempty"`
	Epoch    uint64   `json:"epoch,omitempty"`
	Version  uint64   `json:"version,omitempty"`
}

// response is the answer to a request.
type response struct {
	Protocol int      `json:"protocol"`
	Error    string   `json:"error,omitempty"`
	Kind     string   `json:"kind,omitempty"`
	Info     *Info    `json:"info,omitempty"`
	Opened   []Opened `json:"opened,omitempty"`
}

// update is what a follower is told. Names are those of the files beside it, in order; the client answers each update
// that has Names with one byte, so that never more than maxFiles descriptors are under way to a follower. The
// payload of the last is the snapshot, where it changed.
type update struct {
	Names   []string `json:"names,omitempty"`
	Closed  []string `json:"closed,omitempty"`
	More    bool     `json:"more,omitempty"` // the event goes on in the next update
	Epoch   uint64   `json:"epoch,omitempty"`
	Version uint64   `json:"version,omitempty"`
	Away    bool     `json:"away,omitempty"`
}

// The errors that a holder answers with, beside others that have no kind. Test with errors.Is.
var (
	// ErrStale says that the snapshot is older than the one the holder has, or another one of the same version.
	ErrStale = errors.New("the holder has a newer snapshot")
	// ErrProtocol says that holder and client do not understand each other.
	ErrProtocol = errors.New("not understood")
	// ErrStopping says that the holder is about to end.
	ErrStopping = errors.New("the holder is stopping")
	// ErrGone says that the holder has ended.
	ErrGone = errors.New("the holder is gone")
	// ErrStranger says that another holder, gone by now, started the program that says hello.
	ErrStranger = errors.New("not a program of this holder")
)

func kinds() map[string]error {
	return map[string]error{"stale": ErrStale, "protocol": ErrProtocol, "stopping": ErrStopping, "stranger": ErrStranger}
}

func errorResponse(err error) response {
	r := response{Protocol: Protocol, Error: err.Error()}
	for kind, sentinel := range kinds() {
		if errors.Is(err, sentinel) {
			r.Kind = kind
		}
	}
	return r
}

// remoteError is an error that was answered: its text is the holder's, its kind is tested with errors.Is.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

func (r response) err() error {
	if r.Error == "" {
		return nil
	}
	return &remoteError{text: r.Error, kind: kinds()[r.Kind]}
}

// writeMessage writes one message: length of the header, length of the payload, header as JSON, payload.
func writeMessage(w io.Writer, header any, payload []byte) error {
	b, err := encode(header, payload)
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	_, err = w.Write(payload)
	return err
}

// encode returns everything of a message but its payload.
func encode(header any, payload []byte) ([]byte, error) {
	body, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	if len(body) > maxHeader || len(payload) > maxPayload {
		return nil, fmt.Errorf("%w: a message of %d and %d bytes is too large", ErrProtocol, len(body), len(payload))
	}
	b := make([]byte, 8, 8+len(body))
	binary.BigEndian.PutUint32(b, uint32(len(body)))
	binary.BigEndian.PutUint32(b[4:], uint32(len(payload)))
	return append(b, body...), nil
}

// readMessage reads one message. It takes memory as data arrives, not as the lengths announce it. io.EOF: there is
// none.
func readMessage(r io.Reader, header any) (payload []byte, err error) {
	var lengths [8]byte
	if _, err := io.ReadFull(r, lengths[:]); err != nil {
		return nil, err
	}
	headerLen, payloadLen := binary.BigEndian.Uint32(lengths[:4]), binary.BigEndian.Uint32(lengths[4:])
	if headerLen > maxHeader || payloadLen > maxPayload {
		return nil, fmt.Errorf("%w: a message of %d and %d bytes is too large", ErrProtocol, headerLen, payloadLen)
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(headerLen)); err != nil {
		return nil, noEOF(err)
	}
	if err := json.Unmarshal(body.Bytes(), header); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if payloadLen == 0 {
		return nil, nil
	}
	var content bytes.Buffer
	if _, err := io.CopyN(&content, r, int64(payloadLen)); err != nil {
		return nil, noEOF(err)
	}
	return content.Bytes(), nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readRequest reads and checks a request.
func readRequest(r io.Reader) (request, []byte, error) {
	var req request
	payload, err := readMessage(r, &req)
	if err != nil {
		return req, nil, err
	}
	if req.Protocol > Protocol || req.Protocol < max(1, Protocol-1) {
		return req, nil, fmt.Errorf("%w: the request has protocol %d, this holder speaks %d", ErrProtocol, req.Protocol, Protocol)
	}
	if len(payload) > 0 && req.Op != opPublish {
		return req, nil, fmt.Errorf("%w: %q takes no payload", ErrProtocol, req.Op)
	}
	return req, payload, nil
}

// requestTimeout bounds how long a client may take for saying what it wants.
const requestTimeout = 10 * time.Second
