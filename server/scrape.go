package server

import (
	"cmp"
	"context"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"trellis/compose"
	"trellis/engine"
	"trellis/telemetry/metrics"
)

// metricsPath is where services expose their metrics unless the file says otherwise, by Prometheus' convention.
const metricsPath = "/metrics"

// targets finds out what of a project exposes metrics: what the file names, and of the rest the instances that have
// answered HTTP requests before and answer at metricsPath in a format of Prometheus'. Each of those is asked once.
// The zero value is ready to use; one goroutine uses it.
type targets struct {
	asked    map[engine.InstanceID]bool // and whether it exposes metrics
	patience time.Duration              // how long one may take to say so (0: askTimeout)
}

// find returns the targets among the ready instances. spoken are the services that are known to speak HTTP.
func (t *targets) find(ctx context.Context, st engine.State, spoken map[string]bool) []metrics.Target {
	if st.Desired == nil {
		return nil
	}
	var all []metrics.Target
	asked := map[engine.InstanceID]bool{}
	for _, svc := range st.Services {
		wanted := st.Desired.Services[svc.Name].Trellis.Metrics
		for _, in := range svc.Instances {
			address, path := exposedAt(in, wanted)
			if address == "" || !in.Ready {
				continue
			}
			if wanted == nil {
				exposes, known := t.asked[in.ID]
				if !known && !spoken[svc.Name] {
					continue
				}
				if !known {
					exposes = exposesMetrics(ctx, "http://"+address+path, cmp.Or(t.patience, askTimeout))
				}
				asked[in.ID] = exposes
				if !exposes {
					continue
				}
			}
			all = append(all, metrics.Target{Service: svc.Name, Instance: string(in.ID), Revision: in.Revision, Address: address, Path: path})
		}
	}
	t.asked = asked
	return all
}

// exposedAt returns where an instance exposes its metrics, "" where that cannot be told.
func exposedAt(in engine.Instance, wanted *compose.Metrics) (address, path string) {
	host, port, err := net.SplitHostPort(in.Address)
	if err != nil {
		host, port = in.Address, ""
	}
	path = metricsPath
	if wanted != nil {
		if wanted.Port > 0 {
			port = strconv.Itoa(wanted.Port)
		}
		if wanted.Path != "" {
			path = wanted.Path
		}
	}
	if host == "" || port == "" {
		return "", ""
	}
	return net.JoinHostPort(host, port), path
}

// askTimeout is how long an instance may take to say whether it exposes metrics.
const askTimeout = time.Second

// exposesMetrics says whether a GET of url is answered with metrics within patience. It follows no redirect.
func exposesMetrics(ctx context.Context, url string, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	req.Header.Set("Accept", "application/openmetrics-text, text/plain; version=0.0.4")
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || resp.StatusCode != http.StatusOK {
		return false
	}
	switch {
	case kind == "application/openmetrics-text":
		return true
	case kind == "text/plain" && strings.HasPrefix(params["version"], "0.0."):
		return true
	case kind != "text/plain":
		return false
	}
	return hasComments(resp.Body)
}

// hasComments says whether a plain text begins as metrics do that are written without a client library.
func hasComments(r io.Reader) bool {
	b := make([]byte, len("# HELP "))
	if _, err := io.ReadFull(r, b); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false
	}
	return string(b) == "# HELP " || string(b) == "# TYPE "
}
