package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"trellis/api"
	"trellis/engine/kubernetes"
	"trellis/errdefs"
	"trellis/telemetry"
)

// lacking says that a cluster has not what a machine has.
func lacking(what string) error {
	return fmt.Errorf("%s: %w on kubernetes", what, errdefs.ErrUnsupported)
}

// afar are the parts of a control that the control plane in the cluster has alone. It is reached when one is asked for, through the API
// server, with the rights of whoever asks: to forward ports of pods in the project's namespace.
type afar struct {
	engine *kubernetes.Engine

	mu     sync.Mutex
	tunnel *kubernetes.Tunnel // nil: not opened yet
	client *api.Client
	doors  []net.Listener
}

// reach returns the control plane.
func (a *afar) reach(ctx context.Context) (*api.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client != nil {
		return a.client, nil
	}
	if err := a.open(ctx); err != nil {
		return nil, err
	}
	a.client = api.NewClientOver(func(ctx context.Context) (net.Conn, error) { return a.dial(ctx, kubernetes.APIPort) })
	return a.client, nil
}

// open sees to it that there is a tunnel. Another pod may have taken the place of the one that the last one led to. mu is held.
func (a *afar) open(ctx context.Context) error {
	if a.tunnel != nil {
		if !a.tunnel.Broken() {
			return nil
		}
		_ = a.tunnel.Close()
		a.tunnel = nil
	}
	tunnel, err := a.engine.ReachControl(ctx)
	if err != nil {
		return err
	}
	a.tunnel = tunnel
	return nil
}

// dial opens a connection to a port of the control plane's loopback.
func (a *afar) dial(ctx context.Context, port int) (net.Conn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.open(ctx); err != nil {
		return nil, err
	}
	return a.tunnel.Dial(port)
}

// Close implements io.Closer.
func (a *afar) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var err error
	for _, l := range a.doors {
		err = errors.Join(err, l.Close())
	}
	if a.client != nil {
		err = errors.Join(err, a.client.Close())
	}
	if a.tunnel != nil {
		err = errors.Join(err, a.tunnel.Close())
	}
	a.doors, a.tunnel, a.client = nil, nil, nil
	return err
}

// fromAfar calls fn with the control plane in the cluster.
func fromAfar[T any](ctx context.Context, a *afar, fn func(*api.Client) (T, error)) (T, error) {
	client, err := a.reach(ctx)
	if err != nil {
		var none T
		return none, err
	}
	return fn(client)
}

// Traffic implements api.Viewer.
func (a *afar) Traffic(ctx context.Context, fn func([]api.TrafficStep) error) error {
	client, err := a.reach(ctx)
	if err != nil {
		return err
	}
	return client.Traffic(ctx, fn)
}

// Door implements api.Viewer. It opens a port of this machine's loopback that leads to the console until the control is closed; the
// console asks who comes there as it does anywhere.
func (a *afar) Door(ctx context.Context) (api.Door, error) {
	door, err := fromAfar(ctx, a, func(c *api.Client) (api.Door, error) { return c.Door(ctx) })
	if err != nil {
		return door, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return door, fmt.Errorf("open a port for the console: %w: %w", errdefs.ErrUnavailable, err)
	}
	a.mu.Lock()
	a.doors = append(a.doors, l)
	a.mu.Unlock()
	forever := context.WithoutCancel(ctx)
	go pass(l, func() (net.Conn, error) { return a.dial(forever, kubernetes.ConsolePort) })
	door.URL, door.Lasts = "http://"+l.Addr().String(), true
	return door, nil
}

// pass leads each connection of l to one that dial opens, until l is closed.
func pass(l net.Listener, dial func() (net.Conn, error)) {
	for {
		here, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer here.Close()
			there, err := dial()
			if err != nil {
				return
			}
			defer there.Close()
			go func() {
				_, _ = io.Copy(there, here)
				_ = there.Close()
			}()
			_, _ = io.Copy(here, there)
		}()
	}
}

// Metrics implements api.Seer.
func (a *afar) Metrics(ctx context.Context, q api.MetricQuery) (api.MetricResult, error) {
	return fromAfar(ctx, a, func(c *api.Client) (api.MetricResult, error) { return c.Metrics(ctx, q) })
}

// Traces implements api.Seer.
func (a *afar) Traces(ctx context.Context, f telemetry.TraceFilter) ([]telemetry.TraceSummary, error) {
	return fromAfar(ctx, a, func(c *api.Client) ([]telemetry.TraceSummary, error) { return c.Traces(ctx, f) })
}

// Trace implements api.Seer.
func (a *afar) Trace(ctx context.Context, id telemetry.TraceID) (api.Trace, error) {
	return fromAfar(ctx, a, func(c *api.Client) (api.Trace, error) { return c.Trace(ctx, id) })
}

// Graph implements api.Seer.
func (a *afar) Graph(ctx context.Context, window time.Duration) (api.Graph, error) {
	return fromAfar(ctx, a, func(c *api.Client) (api.Graph, error) { return c.Graph(ctx, window) })
}

// Records implements api.Seer.
func (a *afar) Records(ctx context.Context, f telemetry.RecordFilter, follow bool, fn func(telemetry.Record) error) error {
	client, err := a.reach(ctx)
	if err != nil {
		return err
	}
	return client.Records(ctx, f, follow, fn)
}

// Alerts implements api.Seer.
func (a *afar) Alerts(ctx context.Context) (api.Alerts, error) {
	return fromAfar(ctx, a, func(c *api.Client) (api.Alerts, error) { return c.Alerts(ctx) })
}

// Silence implements api.Seer.
func (a *afar) Silence(ctx context.Context, s api.Silence) (string, error) {
	return fromAfar(ctx, a, func(c *api.Client) (string, error) { return c.Silence(ctx, s) })
}

// Unsilence implements api.Seer.
func (a *afar) Unsilence(ctx context.Context, id string) error {
	client, err := a.reach(ctx)
	if err != nil {
		return err
	}
	return client.Unsilence(ctx, id)
}

// Why implements api.Seer.
func (a *afar) Why(ctx context.Context, service string) (api.Why, error) {
	return fromAfar(ctx, a, func(c *api.Client) (api.Why, error) { return c.Why(ctx, service) })
}

// Telemetry implements api.Seer.
func (a *afar) Telemetry(ctx context.Context) (api.TelemetryHealth, error) {
	return fromAfar(ctx, a, func(c *api.Client) (api.TelemetryHealth, error) { return c.Telemetry(ctx) })
}
