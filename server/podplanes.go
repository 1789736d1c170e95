package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"trellis/driver"
	"trellis/engine"
	"trellis/engine/kubernetes"
	"trellis/errdefs"
)

// recent keeps what was asked of the cluster for as long as several parts ask for the same. It is safe for concurrent use.
type recent[T any] struct {
	mu    sync.Mutex
	at    time.Time // zero: nothing is kept
	value T
}

// keptRecent is how long that is.
const keptRecent = 2 * time.Second

// get returns what is kept, or what ask says. Of several that ask at a time, one does.
func (r *recent[T]) get(ask func() (T, error)) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) < keptRecent {
		return r.value, nil
	}
	v, err := ask()
	if err == nil {
		r.value, r.at = v, time.Now()
	}
	return v, err
}

// forget has the next get ask.
func (r *recent[T]) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = time.Time{}
}

// stateNow is a project as it is.
type stateNow = engine.State

// observe implements subject.
func (c *inCluster) observe(ctx context.Context) (engine.State, error) {
	return c.states.get(func() (engine.State, error) { return c.cluster.observe(ctx) })
}

// usage implements subject. Processor time is added up from rates: the cluster tells no sums.
func (c *inCluster) usage(ctx context.Context) ([]engine.Usage, error) {
	all, err := c.cluster.engine.Stats(ctx, c.location.Project)
	if err == nil {
		c.cpu.add(all, time.Now())
	}
	return all, err
}

// cpuTimes adds up the processor time of instances. One goroutine uses it.
type cpuTimes struct {
	at   time.Time
	sums map[engine.InstanceID]time.Duration
}

// add sets the processor time of each usage.
func (t *cpuTimes) add(all []engine.Usage, now time.Time) {
	sums := make(map[engine.InstanceID]time.Duration, len(all))
	for i := range all {
		u := &all[i]
		sums[u.Instance] = t.sums[u.Instance]
		if u.Usage.Rate != nil && !t.at.IsZero() {
			sums[u.Instance] += time.Duration(*u.Usage.Rate * float64(now.Sub(t.at)))
		}
		u.Usage.CPU = sums[u.Instance]
	}
	t.at, t.sums = now, sums
}

// measuredWhole says whether all that there is to know of a usage was measured, and not processor and memory alone.
func measuredWhole(u driver.Usage) bool { return u.Rate == nil }

// podPlanes are the data planes of a project in a cluster, by the addresses of their pods.
type podPlanes struct {
	engine *kubernetes.Engine
	found  recent[podAddresses]
}

// podAddresses are where the data planes are, and what they are asked with.
type podAddresses struct {
	hosts []string
	key   string
}

func (p *podPlanes) addresses() (podAddresses, error) {
	return p.found.get(func() (podAddresses, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		hosts, key, err := p.engine.DataPlanes(ctx)
		return podAddresses{hosts, key}, err
	})
}

// list implements planes. While the API server does not say where they are, there are none to be asked anew.
func (p *podPlanes) list() ([]string, error) {
	a, err := p.addresses()
	if err != nil {
		return nil, nil
	}
	return a.hosts, nil
}

// ask implements planes.
func (p *podPlanes) ask(ctx context.Context, host, path string) (*http.Response, error) {
	a, err := p.addresses()
	if err != nil {
		return nil, err
	}
	resp, err := askPod(ctx, host, kubernetes.HealthPort, path, a.key)
	if err != nil {
		return nil, fmt.Errorf("ask the data plane: %w", err)
	}
	return resp, nil
}

// askPod sends one GET request to a pod, with a key where there is one; the caller closes the answer's body. Another answer than 200, or
// none: ErrUnavailable. A pod's address says nothing of whose it is in a minute: no connection is kept, and no redirection followed.
func askPod(ctx context.Context, host string, port int, path, key string) (*http.Response, error) {
	url := "http://" + net.JoinHostPort(host, strconv.Itoa(port)) + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	dialer := net.Dialer{Timeout: 2 * time.Second}
	resp, err := (&http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext}).RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%w: %s answers %s", errdefs.ErrUnavailable, host, resp.Status)
	}
	return resp, nil
}
