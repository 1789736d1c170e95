package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/errdefs"
	"trellis/telemetry"
	"trellis/telemetry/alerts"
	"trellis/telemetry/metrics"
)

// The sources of rules.
const (
	rulesDefault   = "defaults"
	rulesObjective = "objectives"
	rulesFiles     = "rule files"
)

// followRules keeps rules, and the receivers of alerts and of what is forwarded, at what the newest revision says.
func (s *sight) followRules(ctx context.Context) error {
	if err := s.metrics.SetRules(rulesDefault, alerts.Defaults()); err != nil {
		return err
	}
	seen := int64(0)
	for {
		next := s.changed.next()
		rev, err := s.of.latest(ctx)
		if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return err
		}
		if err == nil && rev.Number != seen {
			if err := s.metrics.SetRules(rulesObjective, alerts.OfObjectives(alerts.Objectives(rev.Project))); err != nil {
				return err
			}
			if err := s.setRuleFiles(rev.Project); err != nil {
				return err
			}
			if err := s.setForward(rev.Project); err != nil {
				return err
			}
			if err := s.setReceiver(rev.Project); err != nil {
				return err
			}
			seen = rev.Number
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil
		}
	}
}

// setReceiver has alerts sent where the project says.
func (s *sight) setReceiver(p compose.Project) error {
	url, format, err := receiver(p, func(secret string) ([]byte, error) { return s.of.content(p.Secrets[secret].Ref) })
	if err == nil {
		s.notifier.SetReceiver(url, format)
	}
	return err
}

// receiver returns where a project has alerts sent, "" for nowhere. content reads a secret of the project.
func receiver(p compose.Project, content func(secret string) ([]byte, error)) (url, format string, err error) {
	a := p.Trellis.Alerts
	if a == nil {
		return "", "", nil
	}
	if a.WebhookSecret == "" {
		return a.Webhook, a.Format, nil
	}
	text, err := content(a.WebhookSecret)
	if err != nil {
		return "", "", fmt.Errorf("address of the receiver of alerts: %w", err)
	}
	return strings.TrimSpace(string(text)), a.Format, nil
}

// setForward has telemetry sent where the project says.
func (s *sight) setForward(p compose.Project) error {
	f := p.Trellis.Forward
	if f == nil {
		f = &compose.TelemetryForward{}
	}
	header, err := s.headers(p, f.Headers)
	if err != nil {
		return err
	}
	s.forward.SetTarget(f.OTLP, header)
	if f.RemoteWrite == nil {
		return s.metrics.SetRemoteWrite("", nil)
	}
	if header, err = s.headers(p, f.RemoteWrite.Headers); err != nil {
		return err
	}
	return s.metrics.SetRemoteWrite(f.RemoteWrite.URL, header)
}

// headers returns headers whose values are in the secrets that are named.
func (s *sight) headers(p compose.Project, secrets map[string]string) (http.Header, error) {
	header := http.Header{}
	for name, secret := range secrets {
		content, err := s.of.content(p.Secrets[secret].Ref)
		if err != nil {
			return nil, fmt.Errorf("header %s of what is forwarded: %w", name, err)
		}
		header.Set(name, strings.TrimSpace(string(content)))
	}
	return header, nil
}

// setRuleFiles takes the rules in the configs that the project names.
func (s *sight) setRuleFiles(p compose.Project) error {
	var all []telemetry.RuleGroup
	if a := p.Trellis.Alerts; a != nil {
		for _, name := range a.Rules {
			content, err := s.of.content(p.Configs[name].Ref)
			if err != nil {
				return fmt.Errorf("alert rules of config %s: %w", name, err)
			}
			groups, err := metrics.ParseRules(content)
			if err != nil {
				return fmt.Errorf("alert rules of config %s: %w", name, err)
			}
			for _, g := range groups {
				g.Name = name + "/" + g.Name // names of groups are one file's own
				all = append(all, g)
			}
		}
	}
	return s.metrics.SetRules(rulesFiles, all)
}

// Alerts implements api.Seer.
func (s *sight) Alerts(ctx context.Context) (api.Alerts, error) {
	out := api.Alerts{Alerts: []api.Alert{}, Silences: []api.Silence{}, Budgets: []api.Budget{}}
	found, err := s.metrics.Alerts()
	if err != nil {
		return out, err
	}
	now := time.Now()
	for _, a := range onePerObjective(found) {
		one := api.Alert{
			Name: a.Labels["alertname"], State: api.AlertPending, Service: a.Labels["service"], Severity: a.Labels["severity"],
			Summary: a.Annotations["summary"], Since: a.ActiveAt, Value: a.Value, Labels: a.Labels, Annotations: a.Annotations,
			Query: a.Expr, Source: cmp.Or(a.Labels[alerts.LabelSource], "rule file"),
		}
		if math.IsNaN(one.Value) || math.IsInf(one.Value, 0) {
			one.Value = 0 // JSON has neither
		}
		if !a.FiredAt.IsZero() {
			one.State, one.Since = api.AlertFiring, a.FiredAt
		}
		one.Silenced = s.notifier.Silenced(a.Labels)
		out.Alerts = append(out.Alerts, one)
	}
	slices.SortStableFunc(out.Alerts, func(a, b api.Alert) int {
		return cmp.Or(cmp.Compare(a.State, b.State), b.Since.Compare(a.Since), cmp.Compare(a.Name+a.Service, b.Name+b.Service))
	})
	for _, one := range s.notifier.Silences() {
		out.Silences = append(out.Silences, api.Silence(one))
	}
	receiver, failing, waiting := s.notifier.Status()
	if receiver != "" {
		out.Receiver = &receiver
	}
	out.Failing, out.Waiting = failing, waiting
	out.Budgets, err = s.budgets(ctx, now)
	return out, err
}

// onePerObjective leaves out the ticket of an objective whose page is there too: both say the same, and the page says more.
func onePerObjective(all []telemetry.Alert) []telemetry.Alert {
	of := func(a telemetry.Alert) string { return a.Labels["service"] + "\xff" + a.Labels[alerts.LabelObjective] }
	paged := map[string]bool{}
	for _, a := range all {
		if a.Labels["alertname"] == alerts.Burning && a.Labels["severity"] == alerts.Page {
			paged[of(a)] = true
		}
	}
	return slices.DeleteFunc(all, func(a telemetry.Alert) bool {
		return a.Labels["alertname"] == alerts.Burning && a.Labels["severity"] == alerts.Ticket && paged[of(a)]
	})
}

// Silence implements api.Seer.
func (s *sight) Silence(ctx context.Context, one api.Silence) (string, error) {
	switch {
	case len(one.Labels) == 0:
		return "", fmt.Errorf("silence alerts: %w: say which, by at least one label", errdefs.ErrInvalid)
	case !one.Ends.After(one.Starts) || !one.Ends.After(time.Now()):
		return "", fmt.Errorf("silence alerts: %w: it ends before it begins", errdefs.ErrInvalid)
	}
	return s.notifier.SetSilence(ctx, alerts.Silence(one))
}

// Unsilence implements api.Seer.
func (s *sight) Unsilence(ctx context.Context, id string) error {
	found, err := s.notifier.RemoveSilence(ctx, id)
	if err == nil && !found {
		err = fmt.Errorf("end silence %s: %w", id, errdefs.ErrNotFound)
	}
	return err
}

// budgets returns how much is left of each objective's error budget.
func (s *sight) budgets(ctx context.Context, now time.Time) ([]api.Budget, error) {
	all := []api.Budget{}
	p, err := s.desired(ctx)
	if errors.Is(err, errdefs.ErrNotFound) {
		return all, nil
	}
	if err != nil {
		return all, err
	}
	window := measuredWindow(s.metrics.Health(), now)
	for _, o := range alerts.Objectives(p) {
		b := api.Budget{Service: o.Service, Objective: o.Name, Target: o.Target, Window: spanText(window)}
		bad, err := s.spent.share(ctx, o, window, now, s.number)
		if err != nil {
			return all, err
		}
		if bad != nil {
			good, left := 1-*bad, 1-*bad/(1-o.Target)
			b.Good, b.Left = &good, &left
		}
		if bad, err = s.number(ctx, o.Bad("1h"), now); err != nil {
			return all, err
		}
		if bad != nil {
			burn := *bad / (1 - o.Target)
			b.Burn = &burn
		}
		all = append(all, b)
	}
	return all, nil
}

// measuredWindow is the budget's window, or what has been measured so far.
func measuredWindow(h telemetry.Health, now time.Time) time.Duration {
	if h.Oldest.IsZero() {
		return time.Minute
	}
	return max(time.Minute, min(now.Sub(h.Oldest), alerts.BudgetWindow))
}

func spanText(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return strconv.Itoa(int(d.Hours()/24)) + "d"
	case d >= 2*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(max(1, int(d.Minutes()))) + "m"
}

// number evaluates an expression that has one value; nil where there is none.
func (s *sight) number(ctx context.Context, expr string, at time.Time) (*float64, error) {
	found, err := s.metrics.Query(ctx, expr, at)
	if err != nil || len(found) != 1 || math.IsNaN(found[0].Value) || math.IsInf(found[0].Value, 0) {
		return nil, err
	}
	return &found[0].Value, nil
}
