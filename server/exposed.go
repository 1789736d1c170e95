package server

import (
	"crypto/subtle"
	"net/http"
	"strings"
	"time"

	"trellis/engine/kubernetes"
	"trellis/proxy"
	"trellis/telemetry"
	"trellis/telemetry/metrics"
)

// instanceLabel is the one label of Trellis' metrics that a Prometheus has a value of its own for.
const instanceLabel = "instance"

// exposeCalls answers a scrape with what a data plane has counted, by the names and with the labels that the control plane writes it down.
func exposeCalls(calls func() proxy.Calls) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g := &gathering{}
		g.plane(calls(), func(proxy.Call) *telemetry.Exemplar { return nil })
		metrics.Expose(w, r, g.samples, instanceLabel)
	})
}

// exposeTold answers a scrape with what was written down in the newest round, but for what the data planes tell themselves. One that is too
// old is not answered: nobody knows any more.
func (s *sight) exposeTold(w http.ResponseWriter, r *http.Request) {
	g := s.told.Load()
	if g == nil || time.Since(g.at) > 3*collectPause {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	metrics.Expose(w, r, g.samples, instanceLabel)
}

// keyed answers only those who have the key that a project's Prometheus has; "": nobody.
func keyed(key func() string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		want := key()
		if want == "" || !ok || subtle.ConstantTimeCompare([]byte(given), []byte(want)) != 1 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// scrapeKey is what data planes and the control plane of a project in a cluster are asked for metrics with.
func (c *inCluster) scrapeKey() string {
	a, err := c.pods.addresses()
	if err != nil {
		return "" // the API server does not answer: it is asked again with the next scrape
	}
	return kubernetes.ScrapeKey(a.key)
}
