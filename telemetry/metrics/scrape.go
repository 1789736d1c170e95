package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"
)

// Target is an address whose metrics are scraped.
type Target struct {
	Service  string
	Instance string
	Revision int64
	Address  string // host:port
	Path     string
}

// Bounds of what one target may answer with.
const (
	scrapeBytes   = 16 << 20
	scrapeSamples = 20_000
	scrapeLabels  = 40
)

// scraper is the scrape manager and its targets.
type scraper struct {
	manager *scrape.Manager
	every   time.Duration
	read    *config.Config
	due     chan struct{} // capacity 1: targets have changed

	mu      sync.Mutex
	targets []Target
}

// SetTargets makes targets those that are scraped. It may be called before the store is open.
func (s *Store) SetTargets(targets []Target) {
	targets = slices.Clone(targets)
	slices.SortFunc(targets, func(a, b Target) int { return strings.Compare(a.Instance+a.Address, b.Instance+b.Address) })
	s.scraper.mu.Lock()
	same := reflect.DeepEqual(targets, s.scraper.targets)
	s.scraper.targets = targets
	s.scraper.mu.Unlock()
	if same {
		return
	}
	select {
	case s.scraper.due <- struct{}{}:
	default:
	}
}

func (c *scraper) start(s *Store, to storage.AppendableV2) error {
	var err error
	c.every = s.cfg.Scrape
	c.manager, err = scrape.NewManager(&scrape.Options{DiscoveryReloadInterval: model.Duration(time.Second), DiscoveryReloadOnStartup: true, AppendMetadata: true},
		s.cfg.Log, nil, nil, to, prometheus.NewRegistry())
	if err != nil {
		return fmt.Errorf("scrape: %w", err)
	}
	cfg, err := c.config()
	if err != nil {
		return fmt.Errorf("scrape: %w", err)
	}
	c.read = cfg
	if err := c.manager.ApplyConfig(cfg); err != nil {
		return fmt.Errorf("scrape: %w", err)
	}
	return nil
}

const scrapeJob = "services"

// config is what Prometheus would read from its file.
func (c *scraper) config() (*config.Config, error) {
	return config.Load(fmt.Sprintf(`
global: {scrape_interval: %[1]s, scrape_timeout: %[2]s}
scrape_configs:
- {job_name: %[3]s, body_size_limit: %[4]dB, sample_limit: %[5]d, label_limit: %[6]d, follow_redirects: false}
`, model.Duration(c.every), model.Duration(min(c.every, 10*time.Second)), scrapeJob, scrapeBytes, scrapeSamples, scrapeLabels),
		slog.New(slog.DiscardHandler))
}

func (c *scraper) groups() map[string][]*targetgroup.Group {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*targetgroup.Group
	for _, t := range c.targets {
		all = append(all, &targetgroup.Group{
			Source: t.Instance + "/" + t.Address,
			Targets: []model.LabelSet{{
				model.AddressLabel: model.LabelValue(t.Address), model.MetricsPathLabel: model.LabelValue(t.Path),
			}},
			Labels: model.LabelSet{
				model.JobLabel: model.LabelValue(t.Service), model.InstanceLabel: model.LabelValue(t.Instance),
				"service": model.LabelValue(t.Service), "revision": model.LabelValue(fmt.Sprint(t.Revision)),
			},
		})
	}
	return map[string][]*targetgroup.Group{scrapeJob: all}
}

// run scrapes until ctx is done.
func (c *scraper) run(ctx context.Context) {
	sets := make(chan map[string][]*targetgroup.Group)
	var running sync.WaitGroup
	running.Go(func() { _ = c.manager.Run(sets) }) // it ends with Stop, and has no other error
	defer running.Wait()
	defer c.manager.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.due:
		}
		select {
		case sets <- c.groups():
		case <-ctx.Done():
			return
		}
	}
}
