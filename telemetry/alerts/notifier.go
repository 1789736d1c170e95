package alerts

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/nflog"
	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/common/model"

	"trellis/telemetry"
)

// Config says where notifications go.
type Config struct {
	Project string
	File    string // keeps what was not delivered yet, what was told, and the silences
	Log     *slog.Logger
	Client  *http.Client // nil: one that follows no redirect
}

// Notifier turns alerts into notifications and delivers them. Alertmanager's own packages group what it hears of, leave out what
// is silenced or inhibited, and find when somebody has to be told; what is to be told goes into an outbox on disk, and from there
// to the receiver. It is safe for concurrent use.
type Notifier struct {
	cfg      Config
	told     *nflog.Log // what was last told of each group
	silences *silence.Silences

	hearing sync.Mutex
	heard   map[model.Fingerprint]*alert.Alert // and not put before the pipeline yet
	wake    chan struct{}                      // capacity 1: heard is not empty

	mu     sync.Mutex
	url    string
	format string
	kept   kept
	outbox outbox
}

// kept is what outlives a restart. It is one file, so that a notification is never in the outbox without being noted as told, nor
// noted as told without being in the outbox.
type kept struct {
	Waiting []notification `json:"waiting"` // the outbox, oldest first
	// Told are the alerts that a receiver was told fire, by the key of their group.
	Told     map[string]map[model.Fingerprint]toldAlert `json:"told"`
	Log      []byte                                     `json:"log"`      // snapshot of the notification log
	Silences []byte                                     `json:"silenced"` // snapshot of the silences
}

// toldAlert is an alert that a receiver was told fires.
type toldAlert struct {
	model.Alert
	// Lasts is how long it counts as firing each time it is heard of, as its rule is evaluated more or less often.
	Lasts time.Duration `json:"lasts,omitempty"`
}

// New returns a notifier with what File has kept. A file that cannot be read is said, and begun anew. It starts nothing.
func New(cfg Config) *Notifier {
	n := &Notifier{cfg: cfg, heard: map[model.Fingerprint]*alert.Alert{}, wake: make(chan struct{}, 1), outbox: outbox{wake: make(chan struct{}, 1)}}
	if cfg.Client == nil {
		n.cfg.Client = plainClient()
	}
	b, err := os.ReadFile(cfg.File)
	if err == nil {
		err = json.Unmarshal(b, &n.kept)
	}
	if err == nil {
		n.told, n.silences, err = restored(n.kept)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			cfg.Log.Error("undelivered alerts cannot be read", "err", err)
		}
		n.kept = kept{}
		n.told, n.silences, _ = restored(n.kept) // there is nothing in it that could be wrong
	}
	if n.kept.Told == nil {
		n.kept.Told = map[string]map[model.Fingerprint]toldAlert{}
	}
	return n
}

// SetReceiver makes url the receiver; "" is none. format is compose.FormatSlack, or compose.FormatAlertmanager, or "": the one
// that is taken there.
func (n *Notifier) SetReceiver(url, format string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.format = format
	if n.url != url {
		n.url = url
		n.outbox.again(n.kept.Waiting)
	}
}

// receives says whether there is a receiver.
func (n *Notifier) receives() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.url != ""
}

// Take hears of alerts that fire, or do so no more. It does not block.
func (n *Notifier) Take(alerts []telemetry.Alert) {
	n.hearing.Lock()
	defer n.hearing.Unlock()
	now := time.Now()
	for _, a := range alerts {
		one := alertOf(n.cfg.Project, a, now)
		n.heard[one.Fingerprint()] = one
	}
	poke(n.wake)
}

func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// Run groups, tells and delivers until ctx is done.
func (n *Notifier) Run(ctx context.Context) error {
	p, err := n.start(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { n.deliverAll(ctx) })
	for ctx.Err() == nil {
		n.hearing.Lock()
		heard := slices.Collect(maps.Values(n.heard))
		clear(n.heard)
		n.hearing.Unlock()
		if err = p.alerts.Put(ctx, heard...); err != nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-n.wake:
		}
	}
	cancel()
	p.stop()
	all.Wait()
	return err
}
