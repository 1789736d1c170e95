package alerts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/common/model"

	"trellis/compose"
	"trellis/identity"
)

// How delivery is tried.
const (
	retryFirst   = time.Second
	retryMax     = time.Minute
	giveUp       = 24 * time.Hour // then a notification is of the past
	maxWaiting   = 1000
	sendTime     = 10 * time.Second
	slackAddress = "hooks.slack.com"
)

// notification is one message to the receiver.
type notification struct {
	ID    string          `json:"id"`
	Group string          `json:"group"` // its key; what is told of a group is delivered in order
	Made  time.Time       `json:"made"`
	Body  json.RawMessage `json:"body"`
	Text  string          `json:"text"` // for receivers that take text only
	// About are the alerts that it tells of.
	About []model.Fingerprint `json:"about"`
	tries int
	next  time.Time
}

// outbox is what is known of delivery beside what waits.
type outbox struct {
	wake    chan struct{} // capacity 1: there may be something to deliver
	unsaved bool
	// away is how often the receiver was not reached since it last was, and next when it is tried again.
	away    int
	next    time.Time
	failing string
	since   time.Time // of failing
}

// again has everything that waits be tried at once.
func (o *outbox) again(waiting []notification) {
	o.away, o.next, o.failing = 0, time.Time{}, ""
	for i := range waiting {
		waiting[i].tries, waiting[i].next = 0, time.Time{}
	}
	poke(o.wake)
}

// plainClient follows no redirect.
func plainClient() *http.Client {
	return &http.Client{Timeout: sendTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// enqueue adds a notification, unless it repeats what the receiver is yet to hear of. It is called with mu held.
func (n *Notifier) enqueue(one notification, repeats bool) {
	if !repeats || !slices.ContainsFunc(n.kept.Waiting, func(w notification) bool { return w.Group == one.Group }) {
		n.kept.Waiting = append(n.kept.Waiting, one)
	}
	for len(n.kept.Waiting) > maxWaiting {
		i, lost := leastNeeded(n.kept.Waiting)
		if lost {
			n.cfg.Log.Error("an undelivered alert was dropped, because too many wait", "group", n.kept.Waiting[i].Group)
		}
		n.kept.Waiting = slices.Delete(n.kept.Waiting, i, i+1)
	}
	n.save()
	poke(n.outbox.wake)
}

// leastNeeded returns which of too many notifications goes: of the group that most are about, the oldest whose alerts are all told
// of again by a later one, as those of an alert that comes and goes are. lost: there is none, and it is the group's oldest.
func leastNeeded(waiting []notification) (at int, lost bool) {
	count, most := map[string]int{}, ""
	for _, w := range waiting {
		if count[w.Group]++; count[w.Group] > count[most] {
			most = w.Group
		}
	}
	at, lost = -1, true
	later := map[model.Fingerprint]bool{}
	for i := len(waiting) - 1; i >= 0; i-- {
		w := waiting[i]
		if w.Group != most {
			continue
		}
		again := len(w.About) > 0
		for _, print := range w.About {
			again = again && later[print]
			later[print] = true
		}
		if again || lost {
			at, lost = i, lost && !again
		}
	}
	return at, lost
}

// deliverAll delivers what waits until ctx is done.
func (n *Notifier) deliverAll(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		n.deliver(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-n.outbox.wake:
		}
	}
}

// deliver sends what is due.
func (n *Notifier) deliver(ctx context.Context) {
	for ctx.Err() == nil {
		one, to, format, ok := n.due(time.Now())
		if !ok {
			return
		}
		again, err := send(ctx, n.cfg.Client, to, format, one)
		if ctx.Err() != nil {
			return
		}
		n.delivered(one, again, err, time.Now())
	}
}

// due returns the notification that may be sent now and was tried least, the oldest of several. One that the receiver has refused
// holds back those of its group only, and so does one that it fails at: whether it is away for the others too is seen by them.
func (n *Notifier) due(now time.Time) (one notification, to, format string, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.outbox.unsaved {
		n.save()
	}
	if n.url == "" || now.Before(n.outbox.next) {
		return one, "", "", false
	}
	held := map[string]bool{}
	for _, w := range n.kept.Waiting {
		if !held[w.Group] && !now.Before(w.next) && (!ok || w.tries < one.tries) {
			one, ok = w, true
		}
		held[w.Group] = true
	}
	return one, n.url, n.format, ok
}

// delivered notes what became of a notification; again says that the receiver was away, else an error is its refusal.
func (n *Notifier) delivered(one notification, again bool, err error, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.kept.Waiting, func(w notification) bool { return w.ID == one.ID })
	if i < 0 {
		return
	}
	o := &n.outbox
	if err == nil && o.away > 0 { // it is back
		for i := range n.kept.Waiting {
			n.kept.Waiting[i].next = time.Time{}
		}
	}
	if again {
		o.away++
		o.next = now.Add(pause(o.away))
	} else {
		o.away, o.next = 0, time.Time{}
	}
	late := now.Sub(one.Made) > giveUp
	if err == nil || late {
		n.kept.Waiting = slices.Delete(n.kept.Waiting, i, i+1)
		n.save()
	} else {
		w := &n.kept.Waiting[i]
		w.tries++
		w.next = now.Add(pause(w.tries))
	}
	switch {
	case err == nil:
		if !slices.ContainsFunc(n.kept.Waiting, func(w notification) bool { return w.tries > 0 }) {
			o.failing = ""
		}
		return
	case late:
		n.cfg.Log.Error("alert was not delivered within a day, and no more will be tried", "group", one.Group, "err", err)
	case o.failing == "":
		o.since = now
		n.cfg.Log.Error("alert was not delivered", "err", err)
	}
	o.failing = err.Error()
}

// pause is how long to wait after so many failures.
func pause(tries int) time.Duration { return min(retryFirst<<min(tries-1, 10), retryMax) }

// send posts one notification; again says that an error may pass by itself.
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
	again = resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout || resp.StatusCode/100 == 3
	return again, fmt.Errorf("send to %s: it answered %s", u.Host, resp.Status)
}

// save writes down what outlives a restart. Where that fails, which a full disk has it do, alerts are delivered all the same, and
// it is tried again. It is called with mu held.
func (n *Notifier) save() {
	err := n.write()
	if err != nil && !n.outbox.unsaved {
		n.cfg.Log.Error("undelivered alerts are not kept beyond a restart", "err", err)
	}
	n.outbox.unsaved = err != nil
}

func (n *Notifier) write() error {
	var told, silences bytes.Buffer
	_, err := n.told.GC()
	if err == nil {
		_, err = n.told.Snapshot(&told)
	}
	if err == nil {
		_, err = n.silences.GC()
	}
	if err == nil {
		_, err = n.silences.Snapshot(&silences)
	}
	if err != nil {
		return err
	}
	n.kept.Log, n.kept.Silences = told.Bytes(), silences.Bytes()
	b, err := json.Marshal(n.kept)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(n.cfg.File), 0o700); err != nil {
		return err
	}
	return identity.WriteFile(n.cfg.File, b)
}

// Status says how delivery goes: since when and why it fails, "" it does not, and how much waits.
func (n *Notifier) Status() (receiver, failing string, waiting int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if u, err := url.Parse(n.url); err == nil && n.url != "" {
		receiver = u.Scheme + "://" + u.Host
	}
	if n.outbox.failing != "" {
		failing = fmt.Sprintf("since %s: %s", n.outbox.since.UTC().Format(time.RFC3339), n.outbox.failing)
	}
	return receiver, failing, len(n.kept.Waiting)
}
