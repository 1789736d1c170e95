package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"trellis/errdefs"
)

// The phases of a Rollout. Those after Paused are final.
const (
	Rolling    = "rolling"    // instances are being replaced, or the new ones are watched
	Paused     = "paused"     // it failed, and waits for somebody to promote or abort it
	Promoted   = "promoted"   // every instance is replaced
	TakenBack  = "taken-back" // it failed or was aborted: the revision before comes back
	Overtaken  = "overtaken"  // another revision came in between
	Incomplete = "incomplete" // it failed, and nothing was there to go back to
)

// Rollout is the passage of one service from one revision to the next: what the loop decided about it, and what was
// measured meanwhile. It is written before what it says is carried out, so that whoever continues finds it.
type Rollout struct {
	Revision int64  `json:"revision"` // that its new instances are of
	Service  string `json:"service"`
	From     int64  `json:"from"` // of the instances that it replaces
	// Version counts the writes; SetRollout compares it.
	Version int64      `json:"version"`
	Phase   string     `json:"phase"`
	Reason  string     `json:"reason,omitempty"` // why it has this phase
	Actor   string     `json:"actor,omitempty"`  // who promoted or aborted it
	Began   time.Time  `json:"began"`
	Ended   *time.Time `json:"ended,omitempty"`
	// Share is what the new instances get of the traffic while the steps of a canary last, from 0 to 1; nil: as many
	// requests as there are of them.
	Share *float64 `json:"share,omitempty"`
	// Step is the canary step under way, from 0, Steps their number, and StepBegan when the step began.
	Step      int       `json:"step,omitempty"`
	Steps     int       `json:"steps,omitempty"`
	StepBegan time.Time `json:"step_began,omitzero"`
	// Forced says that somebody promoted it: nothing is watched or judged any more.
	Forced  bool     `json:"forced,omitempty"`
	Ledger  Ledger   `json:"ledger"`
	Failure *Failure `json:"failure,omitempty"`
}

// Over says whether the rollout has ended.
func (r Rollout) Over() bool { return r.Phase != Rolling && r.Phase != Paused }

// Ledger is what the data plane measured of a service from the beginning of its rollout to its end.
type Ledger struct {
	Requests uint64 `json:"requests"` // sent to any of its instances
	Failed   uint64 `json:"failed"`   // of these: answered with 5xx, cut off or not answered in time
	Old      Cohort `json:"old"`      // the instances that were replaced
	New      Cohort `json:"new"`
}

// Cohort is what was measured of all instances of one revision. What was not measured is null.
type Cohort struct {
	Requests uint64   `json:"requests"`
	Failed   uint64   `json:"failed"`
	P50      *float64 `json:"p50_ms"` // until the head of the answer
	P99      *float64 `json:"p99_ms"`
}

// Carry adds what was counted before; latencies stay as they were measured last.
func (c *Cohort) Carry(before Cohort) {
	c.Requests, c.Failed = c.Requests+before.Requests, c.Failed+before.Failed
	if c.P99 == nil {
		c.P50, c.P99 = before.P50, before.P99
	}
}

// Failure is what is kept of the instance that made a rollout fail.
type Failure struct {
	Instance string   `json:"instance,omitempty"`
	Probe    string   `json:"probe,omitempty"` // its last answer
	Log      []string `json:"log,omitempty"`   // its last lines
}

// SetRollout implements Store.
func (s *store) SetRollout(ctx context.Context, r Rollout) (Rollout, error) {
	op := fmt.Sprintf("write the rollout of %s in revision %d", r.Service, r.Revision)
	expected := r.Version
	r.Version++
	body, err := json.Marshal(r)
	if err != nil {
		return Rollout{}, fmt.Errorf("%s: %w: %w", op, errdefs.ErrInvalid, err)
	}
	err = s.update(ctx, op, func(tx *sql.Tx) error {
		var version int64
		err := tx.QueryRowContext(ctx, "SELECT version FROM rollouts WHERE revision = ? AND service = ?", r.Revision, r.Service).Scan(&version)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if version != expected {
			return fmt.Errorf("%w: it is at version %d, not %d", errdefs.ErrConflict, version, expected)
		}
		_, err = tx.ExecContext(ctx, "REPLACE INTO rollouts (revision, service, version, body) VALUES (?, ?, ?, ?)",
			r.Revision, r.Service, r.Version, string(body))
		return err
	})
	if err != nil {
		return Rollout{}, err
	}
	return r, nil
}

// Rollouts implements Store.
func (s *store) Rollouts(ctx context.Context, revision int64) ([]Rollout, error) {
	op := fmt.Sprintf("read the rollouts of revision %d", revision)
	rows, err := s.read.QueryContext(ctx, "SELECT service, body FROM rollouts WHERE revision = ? ORDER BY service", revision)
	if err != nil {
		return nil, s.explain(op, err)
	}
	defer rows.Close()
	var all []Rollout
	for rows.Next() {
		var service, body string
		if err := rows.Scan(&service, &body); err != nil {
			return nil, s.explain(op, err)
		}
		var r Rollout
		if err := json.Unmarshal([]byte(body), &r); err != nil {
			return nil, fmt.Errorf("%s: %w", op, damaged(s.path, fmt.Errorf("rollout of %s: %w", service, err)))
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return nil, s.explain(op, err)
	}
	return all, nil
}

// LastHealthy implements Store.
func (s *store) LastHealthy(ctx context.Context, before int64) (Revision, error) {
	return s.revision(ctx, fmt.Sprintf("read the last healthy revision before %d", before),
		selectRevisions+"WHERE number < ? AND outcome = 'healthy' ORDER BY number DESC LIMIT 1", before)
}
