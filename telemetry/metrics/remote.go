package metrics

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage/remote"

	"trellis/errdefs"
	"trellis/telemetry"
)

// remoteFlush is how long what waits is sent on for when the store is closed.
const remoteFlush = 5 * time.Second

// remoteWriter sends everything that the store takes on to a receiver of Prometheus' remote write, with Prometheus' own
// queue: what could not be sent is read from the store's log again.
type remoteWriter struct {
	storage  *remote.Storage
	registry *prometheus.Registry
	to       *config.Config // what storage is to do
	due      chan struct{}  // capacity 1: to has changed
}

// Get implements remote.ReadyScrapeManager; metadata is told from it.
func (c *scraper) Get() (*scrape.Manager, error) {
	if c.manager == nil {
		return nil, errors.New("nothing is scraped yet")
	}
	return c.manager, nil
}

// SetRemoteWrite makes endpoint the receiver of what the store takes from now on; header goes with every request. "":
// nothing is sent any more. It may be called before the store is open.
func (s *Store) SetRemoteWrite(endpoint string, header http.Header) error {
	to := &config.Config{GlobalConfig: config.DefaultGlobalConfig}
	if endpoint != "" {
		u, err := url.Parse(endpoint)
		if err != nil {
			return fmt.Errorf("write metrics to %s: %w: %w", endpoint, errdefs.ErrInvalid, err)
		}
		one := config.DefaultRemoteWriteConfig
		one.Name, one.URL, one.SendExemplars, one.SendNativeHistograms = "forward", &promconfig.URL{URL: u}, true, true
		one.HTTPClientConfig.FollowRedirects = false // a header is not for somebody else
		one.Headers = map[string]string{}
		for name, values := range header {
			one.Headers[name] = strings.Join(values, ", ")
		}
		to.RemoteWriteConfigs = []*config.RemoteWriteConfig{&one}
	}
	s.mu.Lock()
	s.remote.to = to
	s.mu.Unlock()
	select {
	case s.remote.due <- struct{}{}:
	default:
	}
	return nil
}

// start makes the storage, which sends nothing yet.
func (r *remoteWriter) start(s *Store) {
	r.registry = prometheus.NewRegistry()
	r.storage = remote.NewStorage(s.cfg.Log, r.registry, func() (int64, error) { return s.db.StartTime() }, s.cfg.Dir, remoteFlush, &s.scraper, false)
	s.db.SetWriteNotified(r.storage)
}

// run keeps the storage at what it is to do, until ctx is done.
func (r *remoteWriter) run(ctx context.Context, s *Store) {
	defer func() {
		if err := r.storage.Close(); err != nil {
			s.cfg.Log.Warn("writing metrics to a receiver did not end in order", "err", err)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.due:
		}
		s.mu.Lock()
		to := r.to
		s.mu.Unlock()
		if err := r.storage.ApplyConfig(to); err != nil {
			s.cfg.Log.Error("metrics cannot be written to their receiver", "err", err)
		}
	}
}

// RemoteHealth says how the sending on does: Accepted are the samples that were sent.
func (s *Store) RemoteHealth() telemetry.Health {
	h := telemetry.Health{Lost: map[string]uint64{}}
	if s.ready() != nil {
		return h
	}
	families, err := s.remote.registry.Gather()
	if err != nil {
		return h
	}
	for _, f := range families {
		var n float64
		for _, m := range f.GetMetric() {
			n += m.GetCounter().GetValue()
		}
		switch name := strings.TrimPrefix(f.GetName(), "prometheus_remote_storage_"); name {
		case "samples_total", "histograms_total":
			h.Accepted += uint64(n)
		case "samples_failed_total", "histograms_failed_total":
			h.Lost[telemetry.LossInvalid] += uint64(n) // what the receiver refuses for good
		}
	}
	return h
}
