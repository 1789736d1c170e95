// Package enrollment is the domain of seats: who learns what, and never more learners than a course has seats.
package enrollment

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"evergreen/catalog"
	"evergreen/database"
	"evergreen/rest"
)

// An offering's row is the one place where seats are counted: a seat is taken by the update that raises taken, which
// the database refuses once there are none left. seats may fall below taken when a course is made smaller; nobody loses
// a seat then, and nobody gets one.
var schema = []string{
	`CREATE TABLE offerings (
		course TEXT PRIMARY KEY, seats INTEGER NOT NULL, taken INTEGER NOT NULL DEFAULT 0 CHECK (taken >= 0),
		checked INTEGER NOT NULL);
	CREATE TABLE enrollments (
		id TEXT PRIMARY KEY, account TEXT NOT NULL, course TEXT NOT NULL REFERENCES offerings (course),
		created INTEGER NOT NULL, UNIQUE (account, course));
	CREATE TABLE enrollment_keys (
		account TEXT NOT NULL, key TEXT NOT NULL, request BLOB NOT NULL, enrollment TEXT NOT NULL, course TEXT NOT NULL,
		created INTEGER NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (account, key));
	CREATE INDEX enrollment_keys_by_use ON enrollment_keys (used);`,
}

// keyLife is how long a write is remembered by its idempotency key.
const keyLife = 24 * time.Hour

// Enrollment is one learner's seat in one course.
type Enrollment struct {
	ID      string    `json:"id"`
	Course  string    `json:"course"` // slug
	Created time.Time `json:"created"`
}

// Seats says how many seats a course has and how many of them are taken.
type Seats struct {
	Course string `json:"course"`
	Seats  int    `json:"seats"`
	Taken  int    `json:"taken"`
}

// Free returns how many seats are left.
func (s Seats) Free() int { return max(0, s.Seats-s.Taken) }

// The answers a learner may get.
var (
	ErrFull = &rest.Problem{Status: http.StatusConflict, Code: "full", Title: "Every seat of this course is taken."}
	ErrKey  = &rest.Problem{Status: http.StatusUnprocessableEntity, Code: "key_reused",
		Title: "This idempotency key has been used for another request."}
	errNoKey = &rest.Problem{Status: http.StatusBadRequest, Code: "key_missing",
		Title: "An Idempotency-Key header of 8 to 128 characters is needed."}
)

// Store keeps enrollments.
type Store struct {
	db     *database.DB
	course func(ctx context.Context, slug string) (catalog.Course, error)
	now    func() time.Time
}

// seatsFresh is how long the number of seats is believed without asking the catalogue.
const seatsFresh = time.Minute

// NewStore makes the tables. How many seats a course has is asked of course, which is catalog.Client.Course or as good.
func NewStore(ctx context.Context, db *database.DB, course func(context.Context, string) (catalog.Course, error)) (*Store, error) {
	return &Store{db: db, course: course, now: time.Now}, db.Migrate(ctx, "enrollment", schema)
}

// Enroll takes a seat for account, exactly once for each key: the same key again gets the same answer. An account that
// has a seat keeps it. ErrFull if there is none, catalog.ErrNoCourse, ErrKey if key was used with another course.
func (s *Store) Enroll(ctx context.Context, account, course, key string) (Enrollment, error) {
	e, done, err := s.earlier(ctx, account, course, key)
	if err != nil || done {
		return e, err
	}
	if err := s.offer(ctx, course); err != nil {
		return Enrollment{}, err
	}
	err = s.db.Write(ctx, func(tx *sql.Tx) error {
		e, err = s.enroll(ctx, tx, account, course, key)
		return err
	})
	if err != nil {
		return Enrollment{}, fmt.Errorf("enroll in %s: %w", course, err)
	}
	return e, nil
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func (s *Store) earlier(ctx context.Context, account, course, key string) (Enrollment, bool, error) {
	return recall(ctx, s.db.Read(), account, course, key)
}

// recall returns the answer that a request with key got before.
func recall(ctx context.Context, q querier, account, course, key string) (Enrollment, bool, error) {
	var e Enrollment
	var request []byte
	var created int64
	err := q.QueryRowContext(ctx, `SELECT request, enrollment, course, created FROM enrollment_keys
		WHERE account = $1 AND key = $2`, account, key).Scan(&request, &e.ID, &e.Course, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return e, false, nil
	}
	if err != nil {
		return e, false, fmt.Errorf("recall key: %w", err)
	}
	if string(request) != string(fingerprint(course)) {
		return Enrollment{}, false, ErrKey
	}
	e.Created = time.UnixMilli(created).UTC()
	return e, true, nil
}

func fingerprint(course string) []byte {
	sum := sha256.Sum256([]byte("enroll\n" + course))
	return sum[:]
}

func (s *Store) enroll(ctx context.Context, tx *sql.Tx, account, course, key string) (Enrollment, error) {
	if e, done, err := recall(ctx, tx, account, course, key); err != nil || done {
		return e, err
	}
	now := s.now()
	e, err := seat(ctx, tx, account, course, now)
	if err != nil {
		return e, err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO enrollment_keys (account, key, request, enrollment, course, created, used)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, account, key, fingerprint(course), e.ID, course, e.Created.UnixMilli(),
		now.Unix())
	return e, err
}

// seat returns the account's seat, or takes one.
func seat(ctx context.Context, tx *sql.Tx, account, course string, now time.Time) (Enrollment, error) {
	e := Enrollment{Course: course}
	var created int64
	err := tx.QueryRowContext(ctx, `SELECT id, created FROM enrollments WHERE account = $1 AND course = $2`, account,
		course).Scan(&e.ID, &created)
	if err == nil {
		e.Created = time.UnixMilli(created).UTC()
		return e, nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return e, err
	}
	r, err := tx.ExecContext(ctx, `UPDATE offerings SET taken = taken + 1 WHERE course = $1 AND taken < seats`, course)
	if err != nil {
		return e, err
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		return e, errors.Join(err, ErrFull)
	}
	e.ID, e.Created = "enr_"+rand.Text(), now.UTC().Truncate(time.Millisecond)
	_, err = tx.ExecContext(ctx, `INSERT INTO enrollments (id, account, course, created) VALUES ($1, $2, $3, $4)`,
		e.ID, account, course, e.Created.UnixMilli())
	return e, err
}

// offer makes sure that the number of a course's seats is known. While the catalogue is away the number it said last
// goes on to hold.
func (s *Store) offer(ctx context.Context, course string) error {
	var checked int64
	err := s.db.Read().QueryRowContext(ctx, `SELECT checked FROM offerings WHERE course = $1`, course).Scan(&checked)
	known := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("offering %s: %w", course, err)
	}
	now := s.now()
	if known && now.Sub(time.Unix(checked, 0)) < seatsFresh {
		return nil
	}
	c, err := s.ask(ctx, course)
	if err != nil {
		if known && errors.Is(err, rest.ErrUnavailable) {
			return nil
		}
		return err
	}
	return s.db.Write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO offerings (course, seats, checked) VALUES ($1, $2, $3)
			ON CONFLICT (course) DO UPDATE SET seats = excluded.seats, checked = excluded.checked`,
			course, c.Seats, now.Unix())
		return err
	})
}

// ask spends at most half of what is left of the request's time on the catalogue.
func (s *Store) ask(ctx context.Context, course string) (catalog.Course, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return s.course(ctx, course)
}

// Leave gives a seat back. An account without one has left already.
func (s *Store) Leave(ctx context.Context, account, course string) error {
	return s.db.Write(ctx, func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `DELETE FROM enrollments WHERE account = $1 AND course = $2`, account, course)
		if err != nil {
			return fmt.Errorf("leave %s: %w", course, err)
		}
		if n, err := r.RowsAffected(); err != nil || n == 0 {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE offerings SET taken = taken - 1 WHERE course = $1`, course)
		return err
	})
}

// Of returns the enrollments of account, newest first.
func (s *Store) Of(ctx context.Context, account string) ([]Enrollment, error) {
	rows, err := s.db.Read().QueryContext(ctx, `SELECT id, course, created FROM enrollments WHERE account = $1
		ORDER BY created DESC, id`, account)
	if err != nil {
		return nil, fmt.Errorf("enrollments: %w", err)
	}
	defer rows.Close()
	all := []Enrollment{}
	for rows.Next() {
		var e Enrollment
		var created int64
		if err := rows.Scan(&e.ID, &e.Course, &created); err != nil {
			return nil, fmt.Errorf("enrollments: %w", err)
		}
		e.Created = time.UnixMilli(created).UTC()
		all = append(all, e)
	}
	return all, rows.Err()
}

// Taken returns how many seats of each course are taken. Courses that nobody has asked for yet are left out.
func (s *Store) Taken(ctx context.Context, courses []string) ([]Seats, error) {
	all := []Seats{}
	if len(courses) == 0 {
		return all, nil
	}
	args := make([]any, len(courses))
	marks := make([]string, len(courses))
	for i, c := range courses {
		args[i], marks[i] = c, fmt.Sprintf("$%d", i+1)
	}
	rows, err := s.db.Read().QueryContext(ctx, `SELECT course, seats, taken FROM offerings WHERE course IN (`+
		strings.Join(marks, ", ")+`) ORDER BY course`, args...)
	if err != nil {
		return nil, fmt.Errorf("seats: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var n Seats
		if err := rows.Scan(&n.Course, &n.Seats, &n.Taken); err != nil {
			return nil, fmt.Errorf("seats: %w", err)
		}
		all = append(all, n)
	}
	return all, rows.Err()
}

// ForgetKeys removes keys that are older than 24 hours, once an hour, until ctx ends.
func (s *Store) ForgetKeys(ctx context.Context, log *slog.Logger) error {
	t := time.NewTicker(time.Hour)
	defer t.Stop()
	for {
		if err := s.forget(ctx); err != nil && ctx.Err() == nil {
			log.Error("forget old keys", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (s *Store) forget(ctx context.Context) error {
	return s.db.Write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM enrollment_keys WHERE used < $1`, s.now().Add(-keyLife).Unix())
		return err
	})
}
