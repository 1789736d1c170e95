package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// Client is a Control that reaches a control plane over its unix socket, or over connections that somebody else opens. It is safe
// for concurrent use.
type Client struct {
	dial func(ctx context.Context) (net.Conn, error)
	http *http.Client
}

var _ Control = (*Client)(nil)

// NewClient returns a client of the control plane at socket. It connects with the first call; where nobody listens
// there, calls return ErrUnavailable.
func NewClient(socket string) *Client {
	return NewClientOver(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	})
}

// NewClientOver returns a client of the control plane that connections from dial lead to.
func NewClientOver(dial func(ctx context.Context) (net.Conn, error)) *Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	return &Client{dial: dial, http: &http.Client{Transport: transport}}
}

// Close drops the idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// Status implements Observer.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Watch implements Observer.
func (c *Client) Watch(ctx context.Context, fn func(Status) error) error {
	return follow(ctx, c, "/v1/watch", fn)
}

// Events implements Observer.
func (c *Client) Events(ctx context.Context, f state.EventFilter, forever bool, fn func(state.Event) error) error {
	q := url.Values{}
	if f.After > 0 {
		q.Set("after", strconv.FormatInt(f.After, 10))
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	if !f.Since.IsZero() {
		q.Set("since", f.Since.Format(time.RFC3339Nano))
	}
	if f.Service != "" {
		q.Set("service", f.Service)
	}
	q.Set("follow", strconv.FormatBool(forever))
	return follow(ctx, c, "/v1/events?"+q.Encode(), fn)
}

// History implements Observer.
func (c *Client) History(ctx context.Context, limit int) ([]state.Revision, error) {
	return call[[]state.Revision](ctx, c, http.MethodGet, "/v1/history?limit="+strconv.Itoa(limit), nil)
}

// Routes implements Observer.
func (c *Client) Routes(ctx context.Context) ([]Route, error) {
	return call[[]Route](ctx, c, http.MethodGet, "/v1/routes", nil)
}

// Top implements Observer.
func (c *Client) Top(ctx context.Context) ([]engine.Usage, error) {
	return call[[]engine.Usage](ctx, c, http.MethodGet, "/v1/top", nil)
}

// Volumes implements Observer.
func (c *Client) Volumes(ctx context.Context) ([]string, error) {
	return call[[]string](ctx, c, http.MethodGet, "/v1/volumes", nil)
}

// Drift implements Observer.
func (c *Client) Drift(ctx context.Context) (Drift, error) {
	return call[Drift](ctx, c, http.MethodGet, "/v1/drift", nil)
}

// Revert implements Deployer.
func (c *Client) Revert(ctx context.Context, req RevertRequest) (Drift, error) {
	return call[Drift](ctx, c, http.MethodPost, "/v1/revert", req)
}

// Plan implements Deployer.
func (c *Client) Plan(ctx context.Context, req ApplyRequest) (Plan, error) {
	return call[Plan](ctx, c, http.MethodPost, "/v1/plan", req)
}

// Apply implements Deployer.
func (c *Client) Apply(ctx context.Context, req ApplyRequest) (state.Revision, error) {
	return call[state.Revision](ctx, c, http.MethodPost, "/v1/apply", req)
}

// Rollback implements Deployer.
func (c *Client) Rollback(ctx context.Context, n int64, actor string) (state.Revision, error) {
	return call[state.Revision](ctx, c, http.MethodPost, "/v1/rollback", rollbackRequest{Number: n, Actor: actor})
}

// Rollout implements Deployer.
func (c *Client) Rollout(ctx context.Context, req RolloutRequest) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/v1/rollout", req)
	return err
}

// Override implements Deployer.
func (c *Client) Override(ctx context.Context, req OverrideRequest) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/v1/override", req)
	return err
}

// Down implements Deployer.
func (c *Client) Down(ctx context.Context, opt engine.DeleteOptions) error {
	a, err := call[downAnswer](ctx, c, http.MethodPost, "/v1/down", opt)
	if err == nil && opt.Left != nil {
		for _, what := range a.Left {
			opt.Left(what)
		}
	}
	return err
}

// Shutdown implements Operator.
func (c *Client) Shutdown(ctx context.Context, stop bool) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/v1/shutdown", shutdownRequest{Stop: stop})
	return err
}

// Logs implements Operator.
func (c *Client) Logs(ctx context.Context, req LogsRequest) (io.ReadCloser, error) {
	q, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("ask for logs: %w", err)
	}
	resp, err := c.do(ctx, http.MethodGet, "/v1/logs?q="+url.QueryEscape(string(q)), nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// do sends one request; the caller closes the answer's body. An answer that is not 2xx is an error.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://trellis"+path, r)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return resp, nil
}

// ErrUnreachable is the ErrUnavailable of calls that no control plane has answered: none was there, or it went away meanwhile, and
// may have done what it was asked.
var ErrUnreachable = fmt.Errorf("reach the control plane: %w", errdefs.ErrUnavailable)

func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var cause *url.Error
	if errors.As(err, &cause) {
		err = cause.Err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var v T
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		return v, c.unreachable(ctx, err)
	}
	return v, nil
}

func follow[T any](ctx context.Context, c *Client, path string, fn func(T) error) error {
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	err = receive(resp.Body, fn)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
