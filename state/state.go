// Package state holds what Trellis remembers of a project: its revisions, rollouts, overrides, events and small values
// by name; the nouns, the contract of a store and the SQLite store. A store that has returned nil has the thing on
// disk, whatever happens to the machine.
package state

import (
	"context"
	"iter"
	"time"

	"trellis/compose"
)

// The outcomes of a Revision.
const (
	Pending    = "pending"     // applied, not yet healthy
	Healthy    = "healthy"     // every service reached its wanted state
	Failed     = "failed"      // given up
	RolledBack = "rolled-back" // taken back after it failed
	Superseded = "superseded"  // replaced by a later revision before it became healthy
)

// Revision is one immutable applied version of a project; only Outcome and HealthyAt are written later, once each.
type Revision struct {
	Number    int64           `json:"revision"` // from 1, without gaps
	Project   compose.Project `json:"project"`
	Commit    *Commit         `json:"commit,omitempty"`
	AppliedAt time.Time       `json:"applied_at"`
	HealthyAt *time.Time      `json:"healthy_at,omitempty"`
	Outcome   string          `json:"outcome"`
	Cause     string          `json:"cause"` // "up", "apply", "rollback to 3", ...
	Actor     string          `json:"actor"` // who asked: user@host
	// Undoes is the revision whose rollout failed, for one that the engine went back with; 0: none.
	Undoes int64 `json:"undoes,omitempty"`
}

// CauseWatch is the Cause of a revision that follows an edit under `up --watch`: its rollouts are watched for a moment
// only, so that what was edited is seen soon.
const CauseWatch = "watch"

// Commit is the version control's revision of the project directory.
type Commit struct {
	SHA         string    `json:"sha"`
	Author      string    `json:"author"`
	CommittedAt time.Time `json:"committed_at"`
	Dirty       bool      `json:"dirty,omitempty"`
}

// Override is a durable wish beside the file, for one service: scale, restart, stop and start. It outlives an apply
// only as its fields say.
type Override struct {
	Service  string `json:"service"`
	Replicas *int   `json:"replicas,omitempty"` // scale; an apply that changes deploy.replicas clears it
	Restart  int64  `json:"restart,omitempty"`  // generation; higher: every instance is replaced
	Stopped  bool   `json:"stopped,omitempty"`  // stop; up and start clear it
	// Actor asks for it, for the event that tells of it. It is not kept.
	Actor string `json:"-"`
}

// Event is one thing that happened. Events are never changed.
type Event struct {
	Seq      int64     `json:"-"` // in order of arrival, from 1
	Time     time.Time `json:"time"`
	Actor    string    `json:"actor"`
	Project  string    `json:"project"`
	Service  string    `json:"service"`
	Instance string    `json:"instance"`
	Kind     string    `json:"kind"` // "instance.started", "instance.exited", "revision.applied", ...
	Reason   string    `json:"reason"`
	Message  string    `json:"message"`
	Revision int64     `json:"revision"`
}

// EventFilter selects events; zero fields select all.
type EventFilter struct {
	After   int64 // Seq
	Since   time.Time
	Service string
	Limit   int // the newest so many; 0 all
}

// Store keeps one project. It is safe for concurrent use.
type Store interface {
	// Put appends rev as number after+1 and returns it with its number; Pending revisions before it become Superseded. What
	// it leaves of overrides is written with it, as by SetOverride: both or nothing. The newest number is not after:
	// ErrConflict.
	Put(ctx context.Context, rev Revision, after int64, overrides ...Override) (Revision, error)
	// Latest returns the newest revision. None: ErrNotFound.
	Latest(ctx context.Context) (Revision, error)
	// Get returns a revision. None of that number: ErrNotFound.
	Get(ctx context.Context, number int64) (Revision, error)
	// History returns the revisions, newest first; limit 0 is all.
	History(ctx context.Context, limit int) ([]Revision, error)
	// Settle writes the outcome of a Pending revision (and HealthyAt for Healthy). Not pending: ErrConflict.
	Settle(ctx context.Context, number int64, outcome string, at time.Time) error
	// LastHealthy returns the newest revision before that number whose outcome is Healthy. None: ErrNotFound.
	LastHealthy(ctx context.Context, before int64) (Revision, error)

	// Rollouts returns the rollouts of a revision in order of service.
	Rollouts(ctx context.Context, revision int64) ([]Rollout, error)
	// SetRollout writes r and returns it with its next Version. The stored one does not have r's Version (0: none is
	// stored): ErrConflict.
	SetRollout(ctx context.Context, r Rollout) (Rollout, error)

	// Overrides returns all overrides in order of service.
	Overrides(ctx context.Context) ([]Override, error)
	// SetOverride writes o in place of the service's override; the zero Override but for Service removes it.
	SetOverride(ctx context.Context, o Override) error

	// Append writes events in order, with Seq set by the store.
	Append(ctx context.Context, events ...Event) error
	// Events returns events, oldest first.
	Events(ctx context.Context, f EventFilter) iter.Seq2[Event, error]

	// Value reads the value of that name into v. None: ErrNotFound.
	Value(ctx context.Context, name string, v any) error
	// SetValue writes a small value as JSON; nil removes it.
	SetValue(ctx context.Context, name string, v any) error

	Close() error
}
