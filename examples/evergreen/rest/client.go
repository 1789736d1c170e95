package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Client calls one service. It is safe for concurrent use.
type Client struct {
	Base string            // "http://catalog:8080"
	HTTP http.RoundTripper // nil: a pool of connections shared by all clients that leave it nil
	// Secret is what the services of one platform know each other by; "" none.
	Secret string
}

// Call is one request to a service. The deadline of its context is its budget: it is told to the callee, and no attempt
// is made after it.
type Call struct {
	Method string
	Path   string
	Query  url.Values
	Body   any    // sent as JSON; nil none
	Token  string // bearer token; "" none
	// Key names a write, so that the callee carries it out once however often it arrives.
	Key string
	// Repeatable says that a write without a Key may arrive twice. GET and writes with a Key always may.
	Repeatable bool
}

// attempts and pause bound how a safe call is tried again: three attempts, pauses of about 40 and 160 ms.
const (
	attempts = 3
	pause    = 40 * time.Millisecond
)

// Do sends call and decodes a 2xx answer into out, which may be nil, or a *[]byte for the answer as it is. Any other answer is returned as its *Problem; a
// service that could not be reached, or not in time, is ErrUnavailable with the cause joined to it.
func (c *Client) Do(ctx context.Context, call Call, out any) error {
	var body []byte
	if call.Body != nil {
		var err error
		if body, err = json.Marshal(call.Body); err != nil {
			return fmt.Errorf("encode %s %s: %w", call.Method, call.Path, err)
		}
	}
	for attempt := 1; ; attempt++ {
		err := c.once(ctx, call, body, out)
		if err == nil || attempt == attempts || !repeatable(call, err) || !sleep(ctx, attempt) {
			return err
		}
	}
}

func repeatable(call Call, err error) bool {
	return (call.Method == http.MethodGet || call.Key != "" || call.Repeatable) && errors.Is(err, ErrUnavailable)
}

// sleep waits before attempt+1 and reports whether there is time left for it.
func sleep(ctx context.Context, attempt int) bool {
	d := pause << (2 * (attempt - 1))
	d = d/2 + rand.N(d)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < 2*d {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (c *Client) once(ctx context.Context, call Call, body []byte, out any) error {
	req, err := c.request(ctx, call, body)
	if err != nil {
		return err
	}
	transport := c.HTTP
	if transport == nil {
		transport = pool
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", call.Method, req.URL.Redacted(), errors.Join(ErrUnavailable, err))
	}
	defer resp.Body.Close()
	data, err := read(resp)
	if err != nil {
		return fmt.Errorf("%s %s: %w", call.Method, req.URL.Redacted(), errors.Join(ErrUnavailable, err))
	}
	if resp.StatusCode >= 300 {
		return problem(resp, data)
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = data
		return nil
	}
	if out == nil || len(data) == 0 {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("decode %s %s: %w", call.Method, req.URL.Redacted(), err)
	}
	return nil
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 8 << 20

func read(resp *http.Response) ([]byte, error) {
	if n := resp.ContentLength; n >= 0 && n <= maxAnswer {
		data := make([]byte, n)
		_, err := io.ReadFull(resp.Body, data)
		return data, err
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
}

func (c *Client) request(ctx context.Context, call Call, body []byte) (*http.Request, error) {
	target := strings.TrimSuffix(c.Base, "/") + call.Path
	if len(call.Query) > 0 {
		target += "?" + call.Query.Encode()
	}
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, call.Method, target, r)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", call.Method, call.Path, err)
	}
	if h, ok := ctx.Value(forwardKey{}).(http.Header); ok {
		for name, v := range h {
			req.Header[name] = v
		}
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Secret != "" {
		req.Header.Set(SecretHeader, c.Secret)
	}
	if call.Token != "" {
		req.Header.Set("Authorization", "Bearer "+call.Token)
	}
	if call.Key != "" {
		req.Header.Set(KeyHeader, call.Key)
	}
	if deadline, ok := ctx.Deadline(); ok {
		req.Header.Set(BudgetHeader, strconv.FormatInt(max(1, time.Until(deadline).Milliseconds()), 10))
	}
	return req, nil
}

// problem reads the error that a service, or a proxy before it, answered with.
func problem(resp *http.Response, data []byte) error {
	p := &Problem{}
	if json.Unmarshal(data, p) != nil || p.Code == "" {
		p = &Problem{Code: "upstream", Title: http.StatusText(resp.StatusCode)}
	}
	p.Status = resp.StatusCode
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		p.RetryAfter = time.Duration(s) * time.Second
	}
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return errors.Join(ErrUnavailable, p)
	}
	return p
}

// pool keeps connections to the other services. Dialling is bounded, so that a host that does not answer costs one
// attempt and not the whole budget.
var pool = &http.Transport{
	DialContext:         (&net.Dialer{Timeout: time.Second, KeepAlive: 30 * time.Second}).DialContext,
	MaxIdleConnsPerHost: 64,
	IdleConnTimeout:     60 * time.Second,
	DisableCompression:  true, // no service compresses
}
