package server

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"time"

	"trellis/proxy"
)

// Measures implements local.Plane.
func (p *plane) Measures(ctx context.Context, fn func(proxy.Measures)) error {
	return followPlanes(ctx, localPlanes{p.location}, "/measures", func(m proxy.Measures) {
		p.traffic.take(m)
		fn(m)
	})
}

// planes are the data planes of a project: how they are found, and asked what they know.
type planes interface {
	// list returns the addresses of those that serve, and of some that have ended.
	list() ([]string, error)
	// ask sends one GET request to the one at address; the caller closes the answer's body.
	ask(ctx context.Context, address, path string) (*http.Response, error)
}

// localPlanes are those of a project on this machine, by the paths of their status sockets.
type localPlanes struct{ location Location }

func (p localPlanes) list() ([]string, error) { return p.location.dataPlanes() }

func (p localPlanes) ask(ctx context.Context, socket, path string) (*http.Response, error) {
	return askPlane(ctx, socket, path)
}

// followPlanes calls fn with each object that any data plane sends at path, one call at a time, until ctx is done. Each data
// plane is listened to until it ends.
func followPlanes[T any](ctx context.Context, of planes, path string, fn func(T)) error {
	var one sync.Mutex // fn is called by one at a time
	var all sync.WaitGroup
	defer all.Wait()
	ended := make(chan string)
	followed := map[string]bool{}
	tick := time.NewTicker(lookForPlanes)
	defer tick.Stop()
	for {
		addresses, err := of.list()
		if err != nil {
			return err
		}
		for _, address := range addresses {
			if followed[address] {
				continue
			}
			followed[address] = true
			all.Go(func() {
				followPlane(ctx, of, address, path, func(v T) {
					one.Lock()
					defer one.Unlock()
					fn(v)
				})
				select {
				case ended <- address:
				case <-ctx.Done():
				}
			})
		}
		select {
		case address := <-ended:
			select { // one that does not answer may be about to
			case <-tick.C:
			case <-ctx.Done():
			}
			delete(followed, address)
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// lookForPlanes is the pause between two looks for data planes that were started meanwhile.
const lookForPlanes = 500 * time.Millisecond

// followPlane calls fn with what one data plane sends until it ends, or ctx is done.
func followPlane[T any](ctx context.Context, of planes, address, path string, fn func(T)) {
	resp, err := of.ask(ctx, address, path)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var v T
		if dec.Decode(&v) != nil {
			return
		}
		fn(v)
	}
}

// planeAnswers is how long a data plane may take to say how it stands: one that is stopped, or hangs, takes connections and answers none.
const planeAnswers = 2 * time.Second

func statusOf(ctx context.Context, socket string) (proxy.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, planeAnswers)
	defer cancel()
	var s proxy.Status
	resp, err := askPlane(ctx, socket, "/status")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// askPlane sends one request to the status socket of a data plane; the caller closes the answer's body.
func askPlane(ctx context.Context, socket, path string) (*http.Response, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://proxy"+path, nil)
	if err != nil {
		return nil, err
	}
	return transport.RoundTrip(req)
}
