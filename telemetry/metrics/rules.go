package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"

	"trellis/compose"
	"trellis/errdefs"
	"trellis/lazyregexp"
	"trellis/telemetry"
)

// ruler is the rule manager and what it evaluates.
type ruler struct {
	manager *rules.Manager
	due     chan struct{} // capacity 1: groups have changed

	mu     sync.Mutex
	groups map[string][]telemetry.RuleGroup // by where they come from
}

// resend is how often Notify is told of an alert that goes on firing.
const resend = time.Minute

// SetRules makes groups those of a source, in place of what it had. One that cannot be read: ErrInvalid, and nothing
// is changed. It may be called before the store is open.
func (s *Store) SetRules(source string, groups []telemetry.RuleGroup) error {
	for _, g := range groups {
		for _, r := range g.Rules {
			if _, err := s.parser.ParseExpr(r.Expr); err != nil {
				return fmt.Errorf("rule %s%s of %s: %w: %w", r.Alert, r.Record, source, errdefs.ErrInvalid, err)
			}
		}
	}
	s.rules.mu.Lock()
	s.rules.groups[source] = groups
	if len(groups) == 0 {
		delete(s.rules.groups, source)
	}
	s.rules.mu.Unlock()
	select {
	case s.rules.due <- struct{}{}:
	default:
	}
	return nil
}

// ParseRules reads a Prometheus rule file. The error is of type compose.Diagnostics, with line and column where they are
// known; whoever has the file names it.
func ParseRules(content []byte) ([]telemetry.RuleGroup, error) {
	parsed, errs := rulefmt.Parse(content, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	var wrong compose.Diagnostics
	for _, err := range errs {
		wrong = append(wrong, placed(err))
	}
	if len(wrong) > 0 {
		return nil, slices.Compact(wrong) // rulefmt reads twice
	}
	var groups []telemetry.RuleGroup
	for _, g := range parsed.Groups {
		group := telemetry.RuleGroup{Name: g.Name, Interval: time.Duration(g.Interval), Limit: g.Limit}
		if g.QueryOffset != nil {
			group.Offset = time.Duration(*g.QueryOffset)
		}
		for _, r := range g.Rules {
			named := maps.Clone(g.Labels)
			if named == nil {
				named = map[string]string{}
			}
			maps.Copy(named, r.Labels)
			group.Rules = append(group.Rules, telemetry.Rule{
				Record: r.Record, Alert: r.Alert, Expr: r.Expr, For: time.Duration(r.For), KeepFor: time.Duration(r.KeepFiringFor),
				Labels: named, Annotations: r.Annotations,
			})
		}
		groups = append(groups, group)
	}
	return groups, nil
}

// How rulefmt and its YAML reader begin an error.
var (
	rulePlace = lazyregexp.New(`^(\d+):(\d+): `)
	yamlPlace = lazyregexp.New(`^(?s:yaml: (?:unmarshal errors:\s+)?)line (\d+): `)
)

func placed(err error) compose.Diagnostic {
	d := compose.Diagnostic{Message: err.Error()}
	if m := rulePlace.FindStringSubmatch(d.Message); m != nil {
		d.Line, _ = strconv.Atoi(m[1])
		d.Column, _ = strconv.Atoi(m[2])
		d.Message = d.Message[len(m[0]):]
	} else if m := yamlPlace.FindStringSubmatch(d.Message); m != nil {
		d.Line, _ = strconv.Atoi(m[1])
		d.Column, d.Message = 1, d.Message[len(m[0]):]
	}
	return d
}

// Load implements rules.GroupLoader: a source takes the place of a file.
func (r *ruler) Load(source string, _ bool, _ model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &rulefmt.RuleGroups{}
	for _, g := range r.groups[source] {
		offset := model.Duration(g.Offset)
		group := rulefmt.RuleGroup{Name: g.Name, Interval: model.Duration(g.Interval), QueryOffset: &offset, Limit: g.Limit}
		for _, one := range g.Rules {
			group.Rules = append(group.Rules, rulefmt.Rule{
				Record: one.Record, Alert: one.Alert, Expr: one.Expr, For: model.Duration(one.For), KeepFiringFor: model.Duration(one.KeepFor),
				Labels: one.Labels, Annotations: one.Annotations,
			})
		}
		out.Groups = append(out.Groups, group)
	}
	return out, nil
}

// Parse implements rules.GroupLoader.
func (r *ruler) Parse(query string) (parser.Expr, error) {
	return parser.NewParser(parser.Options{}).ParseExpr(query)
}

func (r *ruler) sources() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.groups))
}

// start makes the manager.
func (r *ruler) start(ctx context.Context, s *Store) {
	r.manager = rules.NewManager(&rules.ManagerOptions{
		ExternalURL: &url.URL{}, QueryFunc: rules.EngineQueryFunc(s.engine, s.db), Context: ctx, AppendableV2: s.own(), Queryable: s.db,
		Logger: s.cfg.Log, Registerer: prometheus.NewRegistry(), OutageTolerance: time.Hour, ForGracePeriod: time.Minute,
		ResendDelay: resend, GroupLoader: r, Parser: s.parser, RestoreNewRuleGroups: true,
		DefaultRuleQueryOffset: func() time.Duration { return 0 },
		NotifyFunc: func(_ context.Context, expr string, alerts ...*rules.Alert) {
			told := make([]telemetry.Alert, 0, len(alerts))
			for _, a := range alerts {
				told = append(told, alertOf(a, expr))
			}
			s.cfg.Notify(told)
		},
	})
}

func alertOf(a *rules.Alert, expr string) telemetry.Alert {
	return telemetry.Alert{
		Labels: a.Labels.Map(), Annotations: a.Annotations.Map(), Expr: expr, Value: a.Value,
		ActiveAt: a.ActiveAt, FiredAt: a.FiredAt, ResolvedAt: a.ResolvedAt, ValidUntil: a.ValidUntil,
	}
}

// run evaluates the rules until ctx is done.
func (r *ruler) run(ctx context.Context, s *Store) {
	var running sync.WaitGroup
	running.Go(r.manager.Run)
	defer running.Wait()
	defer r.manager.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.due:
		}
		if err := r.manager.Update(s.cfg.Evaluate, r.sources(), labels.EmptyLabels(), "", nil); err != nil {
			s.cfg.Log.Error("rules cannot be evaluated", "err", err) // SetRules has read them
		}
	}
}

// Alerts returns the alerts that are pending or firing.
func (s *Store) Alerts() ([]telemetry.Alert, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	all := []telemetry.Alert{}
	for _, rule := range s.rules.manager.AlertingRules() {
		for _, a := range rule.ActiveAlerts() {
			all = append(all, alertOf(a, rule.Query().String()))
		}
	}
	return all, nil
}
