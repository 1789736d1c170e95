package proxy

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// ErrorHeader is set on every answer that the data plane wrote itself; its value is the kind. A response without it is
// the program's own.
const ErrorHeader = "X-Trellis-Error"

// InstanceHeader names the instance that answered, when Config.ExposeInstance is set.
const InstanceHeader = "X-Trellis-Instance"

// The kinds of failure that ErrorHeader tells.
const (
	kindBadRequest = "bad-request" // 400, 414, 431
	kindNoRoute    = "no-route"    // 404
	kindMethod     = "method"      // 405
	kindNoInstance = "no-instance" // 503: none was ready within the hold
	kindOverload   = "overload"    // 503: too many requests are held, or waited too long for a place
	kindWaking     = "waking"      // 503: a page for a browser, that the service is being started
	kindAuth       = "auth"        // 503: the route is closed, because its policy can't be enforced
	kindDenied     = "denied"      // 401, 403: the caller has not proven who it is, or may not
	kindLimit      = "rate-limit"  // 429
	kindTooLarge   = "too-large"   // 413
	kindRedirect   = "redirect"    // 3xx: the route's own
	kindChallenge  = "challenge"   // 200: to a certificate authority that looks whether a name is this gateway's
	kindPreflight  = "preflight"   // 200: to a browser that asks whether a page may send a request
	kindFault      = "fault"       // 500: the data plane itself has a fault
	kindConnect    = "connect"     // 502: no instance accepted a connection
	kindReset      = "reset"       // 502: the instance broke off, the request may have been carried out
	kindProtocol   = "protocol"    // 502: the instance's answer is not HTTP
	kindTimeout    = "timeout"     // 504: no response headers in time
	kindIdentity   = "identity"    // 503: who is called, or who calls, is not proven
	kindClient     = "client"      // the client went away or broke its request off; nobody reads the answer
)

// failure is an answer of the data plane itself.
type failure struct {
	status     int
	kind       string
	detail     string
	retryAfter int // seconds; 0: the header is left out
	allow      []string
	header     header // more fields
	body       []byte // nil: a problem (RFC 9457)
	cause      error  // for the log alone
}

func (f *failure) Error() string { return fmt.Sprintf("%d %s: %s", f.status, f.kind, f.detail) }

func badRequest(detail string) *failure {
	return &failure{status: 400, kind: kindBadRequest, detail: detail}
}

// problem is RFC 9457's body.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"`
	RequestID string `json:"request_id"`
}

// waitingPage is what a browser shows while a service is being started. It asks again by itself.
const waitingPage = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="1">
<title>Starting</title>
<style>
:root { color-scheme: light dark }
body { font: 1.1rem/1.5 system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh; margin: 0 1rem; text-align: center }
</style>
<main>
<h1>Starting</h1>
<p>This page was asleep and is waking up. It will appear here by itself in a moment.</p>
</main>
</html>
`

// worded returns f in the words of the protocol that the request speaks above HTTP, where it is that time is over: of HTTP's
// 504 a client of gRPC or Connect would make that nobody is there, and try again.
func (q *request) worded(f *failure) *failure {
	if f.kind != kindTimeout {
		return f
	}
	was := q.header.Get("Content-Type")
	said := func(status int, contentType string, body []byte, pairs ...string) *failure {
		h := append(slices.Clip(f.header), fields(pairs...)...)
		h.Set("Content-Type", contentType)
		return &failure{status: status, kind: f.kind, header: h, body: body}
	}
	why, err := json.Marshal(map[string]string{"code": "deadline_exceeded", "message": f.detail})
	if err != nil {
		return f
	}
	switch {
	case strings.HasPrefix(was, "application/grpc"): // gRPC-Web's too: both take a status without a message in the head
		return said(http.StatusOK, was, []byte{}, "Grpc-Status", "4", "Grpc-Message", f.detail)
	case strings.HasPrefix(was, "application/connect+"): // the message that ends a stream
		end := append(append([]byte(`{"error":`), why...), '}')
		return said(http.StatusOK, was, append(binary.BigEndian.AppendUint32([]byte{2}, uint32(len(end))), end...))
	case q.timing == timedConnect || q.header.Has("Connect-Protocol-Version"):
		return said(f.status, "application/json", why)
	}
	return f
}

// content returns the answer's body and its type: problem+json, but for the page of a service that is being started.
func (f *failure) content(requestID string) (contentType string, body []byte) {
	if f.kind == kindWaking {
		return "text/html; charset=utf-8", []byte(waitingPage)
	}
	if f.body != nil {
		return cmp.Or(f.header.Get("Content-Type"), "text/plain; charset=utf-8"), f.body
	}
	b, err := json.Marshal(problem{"about:blank", http.StatusText(f.status), f.status, f.detail, requestID})
	if err != nil {
		b = []byte(`{"type":"about:blank"}`) // strings and an int always marshal
	}
	return "application/problem+json", append(b, '\n')
}

// fields returns the answer's header, without what belongs to its body.
func (f *failure) fields(requestID string) header {
	h := header{{Name: ErrorHeader, Value: f.kind}, {Name: "X-Request-Id", Value: requestID}}
	if f.retryAfter > 0 {
		h.Add("Retry-After", strconv.Itoa(f.retryAfter))
	}
	if len(f.allow) > 0 {
		h.Add("Allow", strings.Join(f.allow, ", "))
	}
	for _, one := range f.header {
		if !one.Is("Content-Type") {
			h = append(h, one)
		}
	}
	if !h.Has("Cache-Control") {
		h.Add("Cache-Control", "no-store")
	}
	return h
}
