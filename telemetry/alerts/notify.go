package alerts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"trellis/compose"
	"trellis/telemetry"
)

// The rhythm of notifications; the defaults of Alertmanager's documentation, but for a shorter wait for others of a group.
const (
	groupWait   = 5 * time.Second // for others of the same service
	repeatAfter = 4 * time.Hour   // while an alert goes on firing
	// forgetAfter is when an alert that its rule is no longer heard of counts as over: the rule is gone, or its evaluation.
	forgetAfter  = 5 * time.Minute
	retryFirst   = time.Second
	retryMax     = time.Minute
	giveUp       = 24 * time.Hour // then a notification is of the past
	maxWaiting   = 1000
	sendTime     = 10 * time.Second
	slackAddress = "hooks.slack.com"
)

// Config says where notifications go.
type Config struct {
	Project string
	File    string // keeps what was not delivered yet, what was, and the silences
	Log     *slog.Logger
	Client  *http.Client // nil: one that follows no redirect
}

// Notifier turns alerts into notifications and delivers them. It is safe for concurrent use.
type Notifier struct {
	cfg  Config
	wake chan struct{} // capacity 1

	mu      sync.Mutex
	url     string
	format  string
	active  map[string]*firing // by fingerprint
	kept    kept
	failing string
	since   time.Time // of failing
}

// firing is an alert that fires.
type firing struct {
	telemetry.Alert
	heard time.Time
}

// kept is what outlives a restart.
type kept struct {
	// Sent are the alerts that a receiver was told fire, by fingerprint.
	Sent     map[string]sent `json:"sent"`
	Waiting  []notification  `json:"waiting"`
	Silences []Silence       `json:"silences"`
}

type sent struct {
	At    time.Time       `json:"at"`
	Alert telemetry.Alert `json:"alert"`
}

// notification is one message to the receiver.
type notification struct {
	ID    string          `json:"id"`
	Made  time.Time       `json:"made"`
	Body  json.RawMessage `json:"body"`
	Text  string          `json:"text"` // for receivers that take text only
	tries int
	next  time.Time
}

// Silence keeps alerts with these labels from being sent.
type Silence struct {
	ID      string            `json:"id"`
	Labels  map[string]string `json:"labels"`
	Starts  time.Time         `json:"starts"`
	Ends    time.Time         `json:"ends"`
	Comment string            `json:"comment"`
	Actor   string            `json:"actor"`
}

// Matches says whether the silence is in force for an alert.
func (s Silence) Matches(labels map[string]string, now time.Time) bool {
	if now.Before(s.Starts) || !now.Before(s.Ends) {
		return false
	}
	for k, v := range s.Labels {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// New returns a notifier with what File has kept. A file that cannot be read is said, and begun anew.
func New(cfg Config) *Notifier {
	n := &Notifier{cfg: cfg, wake: make(chan struct{}, 1), active: map[string]*firing{}, kept: kept{Sent: map[string]sent{}}}
	if cfg.Client == nil {
		n.cfg.Client = plainClient()
	}
	b, err := os.ReadFile(cfg.File)
	if err == nil {
		err = json.Unmarshal(b, &n.kept)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		cfg.Log.Error("undelivered alerts cannot be read", "err", err)
	}
	if n.kept.Sent == nil {
		n.kept.Sent = map[string]sent{}
	}
	for print, s := range n.kept.Sent { // they fire until they are heard to do so no more
		n.active[print] = &firing{s.Alert, time.Now()}
	}
	return n
}

// plainClient follows no redirect.
func plainClient() *http.Client {
	return &http.Client{Timeout: sendTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// SetReceiver makes url the receiver; "" is none. format is compose.FormatSlack, or compose.FormatAlertmanager, or "": the one
// that is taken there.
func (n *Notifier) SetReceiver(url, format string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.format = format
	if n.url != url {
		n.url, n.failing = url, ""
	}
	n.poke()
}

// Take hears of alerts that fire, or do so no more. It does not block.
func (n *Notifier) Take(alerts []telemetry.Alert) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for _, a := range alerts {
		if print := fingerprint(a.Labels); a.ResolvedAt.IsZero() {
			n.active[print] = &firing{a, now}
		} else if f := n.active[print]; f != nil {
			f.ResolvedAt = a.ResolvedAt
		}
	}
	n.poke()
}

func (n *Notifier) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Run delivers until ctx is done.
func (n *Notifier) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		n.compose(time.Now())
		n.deliver(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-n.wake:
		}
	}
}

// compose makes notifications of what has changed since the last ones, one for each service.
func (n *Notifier) compose(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	groups, changed := map[string][]string{}, false
	for print, f := range n.active {
		if f.ResolvedAt.IsZero() && now.Sub(f.heard) > forgetAfter {
			f.ResolvedAt = now
		}
		told, was := n.kept.Sent[print]
		switch {
		case !f.ResolvedAt.IsZero() && !was:
			delete(n.active, print) // it was over before anybody was told
		case !f.ResolvedAt.IsZero(),
			f.ResolvedAt.IsZero() && !was && now.Sub(f.FiredAt) >= groupWait && !n.quieted(f, now),
			was && now.Sub(told.At) >= repeatAfter && !n.quieted(f, now):
			groups[f.Labels["service"]] = append(groups[f.Labels["service"]], print)
		}
	}
	if n.url == "" {
		return
	}
	for _, service := range slices.Sorted(maps.Keys(groups)) {
		n.enqueue(service, groups[service], now)
		changed = true
	}
	ended := func(s Silence) bool { return now.After(s.Ends.Add(time.Hour)) }
	if slices.ContainsFunc(n.kept.Silences, ended) {
		n.kept.Silences, changed = slices.DeleteFunc(n.kept.Silences, ended), true
	}
	if changed {
		n.save()
	}
}

// quieted says whether an alert is silenced, or one of the same service that pages says more than this ticket.
func (n *Notifier) quieted(f *firing, now time.Time) bool {
	for _, s := range n.kept.Silences {
		if s.Matches(f.Labels, now) {
			return true
		}
	}
	if f.Labels["severity"] != Ticket || f.Labels["service"] == "" {
		return false
	}
	for _, other := range n.active {
		if other.Labels["severity"] == Page && other.Labels["service"] == f.Labels["service"] && other.ResolvedAt.IsZero() {
			return true
		}
	}
	return false
}

// payload is Alertmanager's webhook payload, version 4:
// https://prometheus.io/docs/alerting/latest/configuration/#webhook_config.
type payload struct {
	Version           string            `json:"version"`
	GroupKey          string            `json:"groupKey"`
	Truncated         int               `json:"truncatedAlerts"`
	Status            string            `json:"status"`
	Receiver          string            `json:"receiver"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	ExternalURL       string            `json:"externalURL"`
	Alerts            []payloadAlert    `json:"alerts"`
}

type payloadAlert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

// enqueue adds one notification about alerts of one service, and notes that they were told.
func (n *Notifier) enqueue(service string, prints []string, now time.Time) {
	slices.Sort(prints)
	var all []telemetry.Alert
	for _, print := range prints {
		f := n.active[print]
		all = append(all, f.Alert)
		if f.ResolvedAt.IsZero() {
			n.kept.Sent[print] = sent{now, f.Alert}
		} else {
			delete(n.kept.Sent, print)
			delete(n.active, print)
		}
	}
	one, err := notificationOf(n.cfg.Project, service, all, now)
	if err != nil {
		n.cfg.Log.Error("alert cannot be written", "err", err)
		return
	}
	n.kept.Waiting = append(n.kept.Waiting, one)
	if more := len(n.kept.Waiting) - maxWaiting; more > 0 {
		n.cfg.Log.Error("undelivered alerts were dropped", "alerts", more)
		n.kept.Waiting = n.kept.Waiting[more:]
	}
}

// notificationOf makes one notification about alerts of one service.
func notificationOf(project, service string, all []telemetry.Alert, now time.Time) (notification, error) {
	p := payload{
		Version: "4", GroupKey: fmt.Sprintf("{}:{project=%q, service=%q}", project, service), Status: "resolved", Receiver: "webhook",
		GroupLabels: map[string]string{"project": project}, CommonAnnotations: map[string]string{},
	}
	if service != "" {
		p.GroupLabels["service"] = service
	}
	var lines []string
	for _, alert := range all {
		sum := sha256.Sum256([]byte(fingerprint(alert.Labels)))
		a := payloadAlert{
			Status: "firing", Labels: maps.Clone(alert.Labels), Annotations: alert.Annotations, StartsAt: alert.FiredAt, EndsAt: alert.ResolvedAt,
			Fingerprint: hex.EncodeToString(sum[:8]),
		}
		a.Labels["project"] = project
		if alert.ResolvedAt.IsZero() {
			p.Status = "firing"
		} else {
			a.Status = "resolved"
		}
		p.Alerts = append(p.Alerts, a)
		p.CommonLabels = common(p.CommonLabels, a.Labels)
		lines = append(lines, fmt.Sprintf("[%s] %s: %s", strings.ToUpper(a.Status), alert.Labels["alertname"], alert.Annotations["summary"]))
	}
	body, err := json.Marshal(p)
	id := sha256.Sum256(append(body, now.String()...))
	return notification{ID: hex.EncodeToString(id[:8]), Made: now, Body: body, Text: project + "\n" + strings.Join(lines, "\n")}, err
}

func common(have, more map[string]string) map[string]string {
	if have == nil {
		return maps.Clone(more)
	}
	maps.DeleteFunc(have, func(k, v string) bool { return more[k] != v })
	return have
}

// deliver sends what is due, in order.
func (n *Notifier) deliver(ctx context.Context) {
	for ctx.Err() == nil {
		n.mu.Lock()
		if len(n.kept.Waiting) == 0 || n.url == "" || time.Now().Before(n.kept.Waiting[0].next) {
			n.mu.Unlock()
			return
		}
		one, url, format := n.kept.Waiting[0], n.url, n.format
		n.mu.Unlock()
		again, err := send(ctx, n.cfg.Client, url, format, one)
		if ctx.Err() != nil {
			return
		}
		n.delivered(one, again, err)
	}
}

// delivered notes what became of a notification.
func (n *Notifier) delivered(one notification, again bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.kept.Waiting) == 0 || n.kept.Waiting[0].ID != one.ID {
		return
	}
	if err == nil || !again || time.Since(one.Made) > giveUp {
		n.kept.Waiting = n.kept.Waiting[1:]
		n.save()
	} else {
		w := &n.kept.Waiting[0]
		w.tries++
		w.next = time.Now().Add(min(retryFirst<<min(w.tries-1, 10), retryMax))
	}
	switch {
	case err == nil:
		n.failing = ""
	default:
		if n.failing == "" {
			n.since = time.Now()
			n.cfg.Log.Error("alert was not delivered", "err", err)
		}
		n.failing = err.Error()
	}
}

// send posts one notification; again says that an error may pass.
func send(ctx context.Context, client *http.Client, to, format string, one notification) (again bool, err error) {
	u, err := url.Parse(to)
	if err != nil {
		return false, errors.New("the receiver's address is none")
	}
	body := []byte(one.Body)
	if format == compose.FormatSlack || format == "" && u.Host == slackAddress {
		if body, err = json.Marshal(map[string]string{"text": one.Text}); err != nil {
			return false, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return false, errors.New("the receiver's address is none")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", one.ID)
	resp, err := client.Do(req)
	if err != nil {
		var cause *url.Error
		if errors.As(err, &cause) {
			err = cause.Err // the address may hold a secret
		}
		return true, fmt.Errorf("send to %s: %w", u.Host, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode/100 == 2 {
		return false, nil
	}
	// What the receiver does not understand it will not understand later either.
	again = resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout || resp.StatusCode/100 == 3
	return again, fmt.Errorf("send to %s: it answered %s", u.Host, resp.Status)
}

// save writes down what outlives a restart. It is called with mu held.
func (n *Notifier) save() {
	b, err := json.Marshal(n.kept)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(n.cfg.File), 0o700)
	}
	if err == nil {
		temp := n.cfg.File + ".new"
		if err = os.WriteFile(temp, b, 0o600); err == nil {
			err = os.Rename(temp, n.cfg.File)
		}
	}
	if err != nil {
		n.cfg.Log.Error("undelivered alerts are not kept beyond a restart", "err", err)
	}
}

// Status says how delivery goes: since when and why it fails, "" it does not, and how much waits.
func (n *Notifier) Status() (receiver, failing string, waiting int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if u, err := url.Parse(n.url); err == nil && n.url != "" {
		receiver = u.Scheme + "://" + u.Host
	}
	if n.failing != "" {
		failing = fmt.Sprintf("since %s: %s", n.since.UTC().Format(time.RFC3339), n.failing)
	}
	return receiver, failing, len(n.kept.Waiting)
}

// Silences returns the silences that are in force or to come.
func (n *Notifier) Silences() []Silence {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.kept.Silences)
}

// SetSilence keeps a silence, in place of one with its ID.
func (n *Notifier) SetSilence(s Silence) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.kept.Silences = append(slices.DeleteFunc(n.kept.Silences, func(have Silence) bool { return have.ID == s.ID }), s)
	n.save()
}

// RemoveSilence ends a silence; it says whether there was one.
func (n *Notifier) RemoveSilence(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := len(n.kept.Silences)
	n.kept.Silences = slices.DeleteFunc(n.kept.Silences, func(have Silence) bool { return have.ID == id })
	if len(n.kept.Silences) == before {
		return false
	}
	n.save()
	n.poke()
	return true
}
