package alerts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/alertmanager/silence/silencepb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"trellis/errdefs"
)

// Silence keeps alerts with these labels from being sent.
type Silence struct {
	ID      string            `json:"id"`
	Labels  map[string]string `json:"labels"`
	Starts  time.Time         `json:"starts"`
	Ends    time.Time         `json:"ends"`
	Comment string            `json:"comment"`
	Actor   string            `json:"actor"`
}

// Silences returns the silences that are in force or to come, those that end first before others.
func (n *Notifier) Silences() []Silence {
	found, _, err := n.silences.Query(context.Background(), current())
	if err != nil {
		n.cfg.Log.Error("silences cannot be listed", "err", err)
	}
	all := make([]Silence, 0, len(found))
	for _, s := range found {
		one := Silence{
			ID: s.Id, Labels: map[string]string{}, Starts: s.StartsAt.AsTime(), Ends: s.EndsAt.AsTime(), Comment: s.Comment, Actor: s.CreatedBy,
		}
		for _, set := range s.MatcherSets {
			for _, m := range set.Matchers {
				one.Labels[m.Name] = m.Pattern
			}
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Silence) int { return cmp.Or(a.Ends.Compare(b.Ends), cmp.Compare(a.ID, b.ID)) })
	return all
}

// current finds silences that are not over.
func current() silence.QueryParam {
	return silence.QState(silence.SilenceStateActive, silence.SilenceStatePending)
}

// Silenced says whether a silence is in force for an alert with these labels.
func (n *Notifier) Silenced(labels map[string]string) bool {
	found, _, err := n.silences.Query(context.Background(), silence.QState(silence.SilenceStateActive), silence.QMatches(labelsOf(n.cfg.Project, labels)))
	if err != nil {
		n.cfg.Log.Error("silences cannot be listed", "err", err)
	}
	return len(found) > 0
}

// SetSilence keeps a silence, in place of the one with its ID if it has any, and returns its ID: a new one where it is new, or
// where it silences other alerts than it did. A zero Starts is now. One that nothing could match is ErrInvalid, an unknown ID
// ErrNotFound.
func (n *Notifier) SetSilence(ctx context.Context, s Silence) (string, error) {
	set := &silencepb.MatcherSet{}
	for _, name := range slices.Sorted(maps.Keys(s.Labels)) {
		set.Matchers = append(set.Matchers, &silencepb.Matcher{Type: silencepb.Matcher_EQUAL, Name: name, Pattern: s.Labels[name]})
	}
	one := &silencepb.Silence{
		Id: s.ID, MatcherSets: []*silencepb.MatcherSet{set}, EndsAt: timestamppb.New(s.Ends), Comment: s.Comment, CreatedBy: s.Actor,
	}
	if !s.Starts.IsZero() {
		one.StartsAt = timestamppb.New(s.Starts)
	}
	err := n.silences.Set(ctx, one)
	switch {
	case errors.Is(err, silence.ErrNotFound):
		return "", fmt.Errorf("silence %s: %w", s.ID, errdefs.ErrNotFound)
	case err != nil:
		return "", fmt.Errorf("silence alerts: %w: %w", errdefs.ErrInvalid, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.save()
	return one.Id, nil
}

// RemoveSilence ends a silence; it says whether there was one.
func (n *Notifier) RemoveSilence(ctx context.Context, id string) (bool, error) {
	found, _, err := n.silences.Query(ctx, silence.QIDs(id), current())
	if err == nil && len(found) > 0 {
		err = n.silences.Expire(ctx, id)
	}
	if err != nil {
		return false, fmt.Errorf("end silence %s: %w", id, err)
	}
	if len(found) == 0 {
		return false, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.save()
	return true, nil
}
