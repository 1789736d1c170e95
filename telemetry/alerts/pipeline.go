package alerts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/alertmanager/alert"
	amconfig "github.com/prometheus/alertmanager/config/common"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/eventrecorder"
	"github.com/prometheus/alertmanager/featurecontrol"
	"github.com/prometheus/alertmanager/inhibit"
	"github.com/prometheus/alertmanager/nflog"
	"github.com/prometheus/alertmanager/nflog/nflogpb"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/alertmanager/provider/mem"
	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/alertmanager/template"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The rhythm of notifications.
const (
	groupWait = 5 * time.Second // for others of the same service; a quarter of a minute is how often rules are evaluated
	// groupInterval is what lies between two notifications about a service at least. It bounds how late an end is told.
	groupInterval = 5 * time.Second
	repeatAfter   = 4 * time.Hour // while an alert goes on firing: the default of Alertmanager's documentation
	// forgetAfter is when an alert that its rule is no longer heard of counts as over: the rule is gone, or its evaluation. An alert
	// may say that it is heard of less often.
	forgetAfter = 5 * time.Minute
	// keepTold is how long it is known what was told of a group of which nothing was told since.
	keepTold     = 90 * 24 * time.Hour
	keepSilence  = time.Hour // after its end
	tidyInterval = 10 * time.Minute
	receiverName = "webhook"
)

// pipeline is what Alertmanager's packages are made into. Their constructors' arguments are no promise of theirs, so all of them
// are called here.
type pipeline struct {
	alerts     *mem.Alerts
	inhibitor  *inhibit.Inhibitor
	dispatcher *dispatch.Dispatcher
	notifier   *Notifier
	running    sync.WaitGroup
}

// restored returns the notification log and the silences that were kept. Without a registry of metrics each of these packages
// panics or refuses; nobody asks this one.
func restored(k kept) (*nflog.Log, *silence.Silences, error) {
	told, err := nflog.New(nflog.Options{SnapshotReader: bytes.NewReader(k.Log), Retention: keepTold, Metrics: prometheus.NewRegistry()})
	if err != nil {
		return nil, nil, fmt.Errorf("read what was told: %w", err)
	}
	silences, err := silence.New(silence.Options{SnapshotReader: bytes.NewReader(k.Silences), Retention: keepSilence, Metrics: prometheus.NewRegistry()})
	if err != nil {
		return nil, nil, fmt.Errorf("read silences: %w", err)
	}
	return told, silences, nil
}

// start begins to group and to tell. What was told to fire does so until it is heard to do so no more, or no more heard of.
func (n *Notifier) start(ctx context.Context) (*pipeline, error) {
	log, metrics, none := n.cfg.Log, prometheus.NewRegistry(), eventrecorder.NopRecorder()
	silencer := silence.NewSilencer(n.silences, log, none)
	alerts, err := mem.NewAlerts(ctx, tidyInterval, 0, silencer, log, none, metrics, nil)
	if err != nil {
		return nil, fmt.Errorf("keep alerts: %w", err)
	}
	if err := alerts.Put(ctx, n.remembered(time.Now())...); err != nil {
		alerts.Close()
		return nil, fmt.Errorf("keep alerts: %w", err)
	}
	p := &pipeline{alerts: alerts, notifier: n, inhibitor: inhibit.NewInhibitor(alerts, []amconfig.InhibitRule{pageOverTicket()}, log, none)}
	muted := notify.NewMetrics(metrics, featurecontrol.NoopFlags{})
	tell := &telling{
		Notifier: n,
		alerts:   alerts,
		muters:   notify.MultiStage{notify.NewMuteStage(p.inhibitor, muted), notify.NewMuteStage(silencer, muted)},
		dedup:    notify.NewDedupStage(sendsResolved{}, n.told, receiver()),
	}
	route := &dispatch.Route{RouteOpts: dispatch.RouteOpts{
		Receiver: receiverName, GroupBy: map[model.LabelName]struct{}{"project": {}, "service": {}},
		GroupWait: groupWait, GroupInterval: groupInterval, RepeatInterval: repeatAfter,
	}}
	patience := func(d time.Duration) time.Duration { return max(d, notify.MinTimeout) }
	p.dispatcher = dispatch.NewDispatcher(alerts, route, tell, nil, patience, tidyInterval, nil, log, none, nil, plainTemplate())
	p.running.Go(p.inhibitor.Run)
	p.inhibitor.WaitForLoading() // before it has begun to run it cannot be stopped
	p.running.Go(func() { p.dispatcher.Run(time.Now()) })
	p.dispatcher.WaitForLoading()
	return p, nil
}

// stop returns when nothing is told any more.
func (p *pipeline) stop() {
	p.dispatcher.Stop()
	p.inhibitor.Stop()
	p.alerts.Close()
	p.running.Wait()
	// The dispatcher does not wait for its groups. One that is telling holds mu, and one that comes later finds its context done.
	p.notifier.mu.Lock()
	defer p.notifier.mu.Unlock()
}

// plainTemplate is needed to write a payload. Without the address it panics.
func plainTemplate() *template.Template { return &template.Template{ExternalURL: &url.URL{}} }

func receiver() *nflogpb.Receiver {
	return &nflogpb.Receiver{GroupName: receiverName, Integration: receiverName}
}

// sendsResolved has ends told.
type sendsResolved struct{}

// SendResolved implements notify.ResolvedSender.
func (sendsResolved) SendResolved() bool { return true }

// pageOverTicket keeps back the tickets of a service that pages: the page says more.
func pageOverTicket() amconfig.InhibitRule {
	is := func(how labels.MatchType, name, value string) *labels.Matcher {
		return &labels.Matcher{Type: how, Name: name, Value: value} // which without a regular expression is all there is to it
	}
	return amconfig.InhibitRule{
		SourceMatchers: amconfig.Matchers{is(labels.MatchEqual, "severity", Page)},
		TargetMatchers: amconfig.Matchers{is(labels.MatchEqual, "severity", Ticket), is(labels.MatchNotEqual, "service", "")},
		Equal:          []string{"project", "service"},
	}
}

// telling is the last stage: it finds what has to be told of a group, and puts it into the outbox.
type telling struct {
	*Notifier
	alerts *mem.Alerts
	muters notify.Stage
	dedup  notify.Stage
}

// Exec implements notify.Stage.
//
// Alertmanager's own order of stages would not tell the end of an alert that was silenced meanwhile, and would tell the end of one
// of which nobody was told. Here, what was told to fire stays with the group until its end is told; muting only leaves it out of
// what is written.
func (t *telling) Exec(ctx context.Context, l *slog.Logger, all ...*alert.Alert) (context.Context, []*alert.Alert, error) {
	key, ok := notify.GroupKey(ctx)
	if !ok {
		return ctx, nil, errors.New("a group has no key")
	}
	var firing, loud []*alert.Alert
	for _, a := range all {
		if !a.Resolved() {
			firing = append(firing, a)
		}
	}
	if t.receives() {
		var err error
		if ctx, loud, err = t.muters.Exec(ctx, l, firing...); err != nil {
			return ctx, nil, err
		}
	}
	heard := map[model.Fingerprint]bool{}
	for _, a := range loud {
		heard[a.Fingerprint()] = true
	}
	var about []*alert.Alert
	quiet, told := map[model.Fingerprint]bool{}, t.toldOf(key)
	for _, a := range all {
		print := a.Fingerprint()
		if _, was := told[print]; was || heard[print] {
			about = append(about, a)
			quiet[print] = !heard[print] && !a.Resolved()
		}
	}
	ctx, due, err := t.dedup.Exec(ctx, l, about...)
	if err != nil || len(due) == 0 {
		return ctx, nil, err
	}
	return ctx, due, t.tell(ctx, key, due, quiet)
}

// toldOf returns the alerts of a group that a receiver was told fire.
func (n *Notifier) toldOf(key string) map[model.Fingerprint]toldAlert {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.kept.Told[key])
}

// remembered returns the alerts that a receiver was told fire, as if they were heard of now.
func (n *Notifier) remembered(now time.Time) []*alert.Alert {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []*alert.Alert
	for _, group := range n.kept.Told {
		for _, a := range group {
			a.EndsAt = now.Add(max(forgetAfter, a.Lasts))
			all = append(all, alert.New(a.Alert, now, true))
		}
	}
	return all
}

// tell puts a notification about a group into the outbox, and notes what is told by it.
func (t *telling) tell(ctx context.Context, key string, about []*alert.Alert, quiet map[model.Fingerprint]bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	var say []*alert.Alert
	for _, a := range about {
		if !quiet[a.Fingerprint()] {
			say = append(say, a)
		}
	}
	if len(say) == 0 {
		return nil
	}
	now := time.Now()
	groupLabels, _ := notify.GroupLabels(ctx)
	reason, _ := notify.NotificationReason(ctx)
	one, err := notificationOf(key, groupLabels, reason.String(), say, now)
	if err != nil {
		return err
	}
	if err := t.note(ctx, key, now); err != nil {
		return err
	}
	group := t.kept.Told[key]
	if group == nil {
		group = map[model.Fingerprint]toldAlert{}
		t.kept.Told[key] = group
	}
	for _, a := range say {
		if a.Resolved() {
			delete(group, a.Fingerprint())
		} else {
			one := toldAlert{Alert: a.Alert}
			if last, err := t.alerts.Get(a.Fingerprint()); err == nil { // a has no end: the dispatcher takes it away while it is to come
				one.Lasts = last.EndsAt.Sub(last.UpdatedAt)
			}
			group[a.Fingerprint()] = one
		}
	}
	if len(group) == 0 {
		delete(t.kept.Told, key)
	}
	t.enqueue(one, reason == notify.ReasonRepeatIntervalElapsed)
	return nil
}

// note writes into the notification log what is told of a group. It is called with mu held.
//
// The log's own way to do so does nothing while the last entry of the group is of a later time than now, which it is for hours
// after a clock was put right, and the group would be told of again and again.
func (n *Notifier) note(ctx context.Context, key string, now time.Time) error {
	firing, _ := notify.FiringAlerts(ctx)
	resolved, _ := notify.ResolvedAlerts(ctx)
	at, ends := now, now.Add(keepTold)
	before, err := n.told.Query(nflog.QGroupKey(key), nflog.QReceiver(receiver()))
	if err == nil && len(before) == 1 && !at.After(before[0].Timestamp.AsTime()) {
		at = before[0].Timestamp.AsTime().Add(1)
	}
	var entry bytes.Buffer
	_, err = protodelim.MarshalTo(&entry, &nflogpb.MeshEntry{
		Entry: &nflogpb.Entry{
			Receiver: receiver(), GroupKey: []byte(key), Timestamp: timestamppb.New(at), FiringAlerts: firing, ResolvedAlerts: resolved,
		},
		ExpiresAt: timestamppb.New(ends),
	})
	if err == nil {
		err = n.told.Merge(entry.Bytes())
	}
	if err != nil {
		return fmt.Errorf("note what is told of %s: %w", key, err)
	}
	return nil
}
