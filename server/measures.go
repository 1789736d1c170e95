package server

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"trellis/proxy"
)

// Measures implements local.Plane. Data planes are found by their sockets, and each is listened to until it ends.
func (p *plane) Measures(ctx context.Context, fn func(proxy.Measures)) error {
	var one sync.Mutex // fn is called by one at a time
	var all sync.WaitGroup
	defer all.Wait()
	ended := make(chan string)
	followed := map[string]bool{}
	tick := time.NewTicker(lookForPlanes)
	defer tick.Stop()
	for {
		sockets, err := filepath.Glob(filepath.Join(p.location.RuntimeDir, "proxy-*.sock"))
		if err != nil {
			return err
		}
		for _, socket := range sockets {
			if followed[socket] {
				continue
			}
			followed[socket] = true
			all.Go(func() {
				followPlane(ctx, socket, func(m proxy.Measures) {
					one.Lock()
					defer one.Unlock()
					fn(m)
				})
				select {
				case ended <- socket:
				case <-ctx.Done():
				}
			})
		}
		select {
		case socket := <-ended:
			delete(followed, socket)
			if _, err := os.Stat(socket); err == nil { // it may still come up
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// lookForPlanes is the pause between two looks for data planes that were started meanwhile.
const lookForPlanes = 500 * time.Millisecond

// followPlane calls fn with what one data plane pushes until it ends, or ctx is done.
func followPlane(ctx context.Context, socket string, fn func(proxy.Measures)) {
	resp, err := askPlane(ctx, socket, "/measures")
	if err != nil {
		return // it has ended, or is about to begin: it is looked for again
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var m proxy.Measures
		if dec.Decode(&m) != nil {
			return
		}
		fn(m)
	}
}

func statusOf(ctx context.Context, socket string) (proxy.Status, error) {
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
