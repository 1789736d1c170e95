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
	"sync"
	"time"

	"evergreen/catalog"
	"evergreen/database"
	"evergreen/notifications"
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
	`ALTER TABLE offerings ADD COLUMN price INTEGER NOT NULL DEFAULT 0;
	ALTER TABLE offerings ADD COLUMN title TEXT NOT NULL DEFAULT '';
	UPDATE offerings SET checked = 0;
	ALTER TABLE enrollments ADD COLUMN price INTEGER NOT NULL DEFAULT 0;
	ALTER TABLE enrollments ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;
	CREATE INDEX enrollments_by_expiry ON enrollments (course, expires) WHERE expires > 0;`,
}

// keyLife is how long a write is remembered by its idempotency key.
const keyLife = 24 * time.Hour

// Enrollment is one learner's seat in one course.
type Enrollment struct {
	ID      string    `json:"id"`
	Course  string    `json:"course"` // slug
	Title   string    `json:"title"`
	Created time.Time `json:"created"`
	Price   int       `json:"price"` // cents of a euro; 0 free of charge
	// Expires is when a seat that has to be paid and is not goes back; nil: it is the learner's.
	Expires *time.Time `json:"expires,omitempty"`
}

// Held reports whether the seat is kept for a payment that has not been made.
func (e Enrollment) Held() bool { return e.Expires != nil }

// lapsed reports whether the time for the seat's payment is over.
func (e Enrollment) lapsed(now time.Time) bool { return e.Held() && !e.Expires.After(now) }

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
	// ErrNoSeat says that the learner has no seat in the course, or that a held one has gone back.
	ErrNoSeat = &rest.Problem{Status: http.StatusNotFound, Code: "no_seat", Title: "You have no seat in this course."}
	// ErrPaid says that a seat was paid for, so that it cannot simply be given back.
	ErrPaid = &rest.Problem{Status: http.StatusConflict, Code: "seat_paid", Title: "This seat has been paid for."}
)

// Config says how a Store works. Its zero value is right for production but for Course.
type Config struct {
	// Course tells how many seats a course has: catalog.Client.Course or as good.
	Course func(ctx context.Context, slug string) (catalog.Course, error)
	Hold   time.Duration // how long a seat is kept for its payment; 0 is 15 min
	Outbox *notifications.Outbox
}

// Store keeps enrollments.
type Store struct {
	db *database.DB
	Config
	now func() time.Time

	mu     sync.Mutex
	offers map[string]time.Time // courses whose row in offerings is there, and when the catalogue told what it says
}

// seatsFresh is how long the number of seats is believed without asking the catalogue.
const seatsFresh = time.Minute

// NewStore makes the tables.
func NewStore(ctx context.Context, db *database.DB, c Config) (*Store, error) {
	if c.Hold == 0 {
		c.Hold = 15 * time.Minute
	}
	return &Store{db: db, Config: c, now: time.Now, offers: map[string]time.Time{}}, db.Migrate(ctx, "enrollment", schema)
}

// Enroll takes a seat for account, exactly once for each key: the same key again gets the same answer. An account that
// has a seat keeps it. A seat that costs something is held until Confirm, or until it expires. ErrFull if there is none, catalog.ErrNoCourse, ErrKey if key was used with another course.
func (s *Store) Enroll(ctx context.Context, account, course, key string) (Enrollment, error) {
	e, done, err := s.earlier(ctx, account, course, key)
	if err != nil || done {
		return e, err
	}
	if err := s.offer(ctx, course); err != nil {
		return Enrollment{}, err
	}
	err = s.db.Write(ctx, func(tx *database.Tx) error {
		e, err = s.enroll(ctx, tx, account, course, key)
		return err
	})
	if err != nil {
		return Enrollment{}, fmt.Errorf("enrol in %s: %w", course, err)
	}
	return e, nil
}

func (s *Store) earlier(ctx context.Context, account, course, key string) (Enrollment, bool, error) {
	return recall(ctx, s.db.Read(), account, course, key)
}

// recall returns the answer that a request with key got before, and whether its seat is held now.
func recall(ctx context.Context, q database.Querier, account, course, key string) (Enrollment, bool, error) {
	var e Enrollment
	var request []byte
	var created, expires int64
	err := q.QueryRow(ctx, `SELECT k.request, k.enrollment, k.course, k.created, o.title, coalesce(e.price, o.price),
		coalesce(e.expires, 0) FROM enrollment_keys k JOIN offerings o ON o.course = k.course
		LEFT JOIN enrollments e ON e.id = k.enrollment WHERE k.account = $1 AND k.key = $2`, account, key).
		Scan(&request, &e.ID, &e.Course, &created, &e.Title, &e.Price, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return e, false, nil
	}
	if err != nil {
		return e, false, fmt.Errorf("recall key: %w", err)
	}
	if string(request) != string(fingerprint(course)) {
		return Enrollment{}, false, ErrKey
	}
	e.times(created, expires)
	return e, true, nil
}

func (e *Enrollment) times(created, expires int64) {
	e.Created, e.Expires = time.UnixMilli(created).UTC(), nil
	if expires > 0 {
		t := time.UnixMilli(expires).UTC()
		e.Expires = &t
	}
}

func fingerprint(course string) []byte {
	sum := sha256.Sum256([]byte("enroll\n" + course))
	return sum[:]
}

func (s *Store) enroll(ctx context.Context, tx *database.Tx, account, course, key string) (Enrollment, error) {
	if e, done, err := recall(ctx, tx, account, course, key); err != nil || done {
		return e, err
	}
	now := s.now()
	e, err := s.seat(ctx, tx, account, course, now)
	if err != nil {
		return e, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO enrollment_keys (account, key, request, enrollment, course, created, used)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, account, key, fingerprint(course), e.ID, course, e.Created.UnixMilli(),
		now.Unix())
	return e, err
}

// seat returns the account's seat, or takes one.
func (s *Store) seat(ctx context.Context, tx *database.Tx, account, course string, now time.Time) (Enrollment, error) {
	if err := s.lapse(ctx, tx, course, now); err != nil {
		return Enrollment{}, err
	}
	e, err := find(ctx, tx, account, course)
	if !errors.Is(err, ErrNoSeat) {
		return e, err
	}
	e = Enrollment{ID: "enr_" + rand.Text(), Course: course}
	err = tx.QueryRow(ctx, `UPDATE offerings SET taken = taken + 1 WHERE course = $1 AND taken < seats RETURNING price, title`,
		course).Scan(&e.Price, &e.Title)
	if errors.Is(err, sql.ErrNoRows) {
		return e, ErrFull
	}
	if err != nil {
		return e, err
	}
	expires := int64(0)
	if e.Price > 0 {
		expires = now.Add(s.Hold).UnixMilli()
	}
	e.times(now.UnixMilli(), expires)
	if _, err = tx.Exec(ctx, `INSERT INTO enrollments (id, account, course, created, price, expires)
		VALUES ($1, $2, $3, $4, $5, $6)`, e.ID, account, course, now.UnixMilli(), e.Price, expires); err != nil || e.Held() {
		return e, err
	}
	return e, s.tell(ctx, tx, notifications.Enrolled, account, e, now)
}

func (s *Store) tell(ctx context.Context, tx *database.Tx, kind notifications.Kind, account string, e Enrollment, now time.Time) error {
	return s.Outbox.Add(ctx, tx, notifications.Event{ID: string(kind) + " " + e.ID, Kind: kind, Account: account,
		Course: e.Course, Title: e.Title, Amount: e.Price, At: now})
}

const columns = `e.id, e.account, e.course, o.title, e.created, e.price, e.expires
	FROM enrollments e JOIN offerings o ON o.course = e.course `

func scan(row interface{ Scan(...any) error }) (e Enrollment, account string, err error) {
	var created, expires int64
	err = row.Scan(&e.ID, &account, &e.Course, &e.Title, &created, &e.Price, &expires)
	e.times(created, expires)
	return e, account, err
}

func find(ctx context.Context, q database.Querier, account, course string) (Enrollment, error) {
	e, _, err := scan(q.QueryRow(ctx, `SELECT `+columns+`WHERE e.account = $1 AND e.course = $2`, account, course))
	if errors.Is(err, sql.ErrNoRows) {
		return Enrollment{}, ErrNoSeat
	}
	return e, err
}

// Seat returns account's seat in a course, or ErrNoSeat.
func (s *Store) Seat(ctx context.Context, account, course string) (Enrollment, error) {
	e, err := find(ctx, s.db.Read(), account, course)
	if err == nil && e.lapsed(s.now()) {
		return Enrollment{}, ErrNoSeat
	}
	return e, err
}

// Confirm makes a held seat its learner's for good: it has been paid, or will be at once. ErrNoSeat if it has gone back;
// the same enrollment never comes again, so this answer is final. So is the other.
func (s *Store) Confirm(ctx context.Context, id string) (Enrollment, error) {
	var e Enrollment
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		var account string
		var err error
		e, account, err = scan(tx.QueryRow(ctx, `SELECT `+columns+`WHERE e.id = $1`, id))
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNoSeat
		}
		if err != nil || !e.Held() {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE enrollments SET expires = 0 WHERE id = $1`, id); err != nil {
			return err
		}
		e.Expires = nil
		return s.tell(ctx, tx, notifications.Enrolled, account, e, s.now())
	})
	if err != nil {
		return Enrollment{}, fmt.Errorf("confirm %s: %w", id, err)
	}
	return e, nil
}

// The held seats whose time is over: all, and those of a course, which are asked for whenever a seat is taken.
const (
	lapsed   = `SELECT ` + columns + `WHERE e.expires > 0 AND e.expires <= $1`
	lapsedOf = lapsed + ` AND e.course = $2`
)

// lapse gives the held seats of a course back whose time is over; "" those of all courses.
func (s *Store) lapse(ctx context.Context, tx *database.Tx, course string, now time.Time) error {
	query, args := lapsed, []any{now.UnixMilli()}
	if course != "" {
		query, args = lapsedOf, append(args, course)
	}
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("held seats: %w", err)
	}
	defer rows.Close()
	gone := map[string][]Enrollment{}
	for rows.Next() {
		e, account, err := scan(rows)
		if err != nil {
			return fmt.Errorf("held seats: %w", err)
		}
		gone[account] = append(gone[account], e)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return fmt.Errorf("held seats: %w", err)
	}
	for account, seats := range gone {
		for _, e := range seats {
			if err := s.free(ctx, tx, e); err != nil {
				return err
			}
			if err := s.tell(ctx, tx, notifications.Lapsed, account, e, now); err != nil {
				return err
			}
		}
	}
	return nil
}

// free gives a seat back.
func (s *Store) free(ctx context.Context, tx *database.Tx, e Enrollment) error {
	there, err := tx.Changed(ctx, `DELETE FROM enrollments WHERE id = $1`, e.ID)
	if err == nil && there {
		_, err = tx.Exec(ctx, `UPDATE offerings SET taken = taken - 1 WHERE course = $1`, e.Course)
	}
	if err != nil {
		return fmt.Errorf("free the seat %s: %w", e.ID, err)
	}
	return nil
}

// offer makes sure that the number of a course's seats is known. While the catalogue is away the number it said last
// goes on to hold.
func (s *Store) offer(ctx context.Context, course string) error {
	now := s.now()
	if s.offered(course, now) {
		return nil
	}
	var checked int64
	err := s.db.Read().QueryRow(ctx, `SELECT checked FROM offerings WHERE course = $1`, course).Scan(&checked)
	known := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("offering %s: %w", course, err)
	}
	if known && now.Sub(time.Unix(checked, 0)) < seatsFresh {
		s.heard(course, time.Unix(checked, 0))
		return nil
	}
	c, err := s.ask(ctx, course)
	if err != nil {
		if known && errors.Is(err, rest.ErrUnavailable) {
			return nil
		}
		return err
	}
	err = s.db.Write(ctx, func(tx *database.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO offerings (course, seats, price, title, checked) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (course) DO UPDATE SET seats = excluded.seats, price = excluded.price, title = excluded.title,
			checked = excluded.checked`, course, c.Seats, c.Price, c.Title, now.Unix())
		return err
	})
	if err == nil {
		s.heard(course, now)
	}
	return err
}

// offered reports whether the number of a course's seats is new enough without looking.
func (s *Store) offered(course string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.offers[course]
	return ok && now.Sub(at) < seatsFresh
}

// heard notes when the catalogue told how many seats a course has.
func (s *Store) heard(course string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offers[course] = at
}

// ask spends at most half of what is left of the request's time on the catalogue.
func (s *Store) ask(ctx context.Context, course string) (catalog.Course, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return s.Course(ctx, course)
}

// Leave gives a seat back. An account without one has left already; ErrPaid if the seat was paid for.
func (s *Store) Leave(ctx context.Context, account, course string) error {
	return s.db.Write(ctx, func(tx *database.Tx) error {
		e, err := find(ctx, tx, account, course)
		switch {
		case errors.Is(err, ErrNoSeat):
			return nil
		case err != nil:
			return fmt.Errorf("leave %s: %w", course, err)
		case e.Price > 0 && !e.Held():
			return ErrPaid
		}
		return s.free(ctx, tx, e)
	})
}

// Of returns the enrollments of account, newest first. Which of them have lapsed is not asked of SQLite: it would plan the
// question anew each time, because whether enrollments_by_expiry helps depends on the time that it is asked with.
func (s *Store) Of(ctx context.Context, account string) ([]Enrollment, error) {
	rows, err := s.db.Read().Query(ctx, `SELECT `+columns+`WHERE e.account = $1 ORDER BY e.created DESC, e.id`, account)
	if err != nil {
		return nil, fmt.Errorf("enrollments: %w", err)
	}
	defer rows.Close()
	now := s.now()
	all := []Enrollment{}
	for rows.Next() {
		e, _, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("enrollments: %w", err)
		}
		if !e.lapsed(now) {
			all = append(all, e)
		}
	}
	return all, rows.Err()
}

// Taken returns how many seats of each course are taken, or of all courses where none is named. Courses that nobody has
// asked for yet are left out.
func (s *Store) Taken(ctx context.Context, courses []string) ([]Seats, error) {
	which := ""
	args := make([]any, len(courses))
	if len(courses) > 0 {
		marks := make([]string, len(courses))
		for i, c := range courses {
			args[i], marks[i] = c, fmt.Sprintf("$%d", i+1)
		}
		which = `WHERE course IN (` + strings.Join(marks, ", ") + `) `
	}
	rows, err := s.db.Read().Query(ctx, `SELECT course, seats, taken FROM offerings `+which+`ORDER BY course`, args...)
	if err != nil {
		return nil, fmt.Errorf("seats: %w", err)
	}
	defer rows.Close()
	all := []Seats{}
	for rows.Next() {
		var n Seats
		if err := rows.Scan(&n.Course, &n.Seats, &n.Taken); err != nil {
			return nil, fmt.Errorf("seats: %w", err)
		}
		all = append(all, n)
	}
	return all, rows.Err()
}

// Tidy gives back the held seats whose time is over, every few seconds, and removes keys that are older than 24 hours,
// once an hour, until ctx ends.
func (s *Store) Tidy(ctx context.Context, log *slog.Logger) error {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	var forgotten time.Time
	for {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			log.Error("give held seats back", "err", err)
		}
		if time.Since(forgotten) > time.Hour {
			forgotten = time.Now()
			if err := s.forget(ctx); err != nil && ctx.Err() == nil {
				log.Error("forget old keys", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// sweep writes only where there is something to give back.
func (s *Store) sweep(ctx context.Context) error {
	now := s.now()
	var n int
	if err := s.db.Read().QueryRow(ctx, `SELECT count(*) FROM enrollments WHERE expires > 0 AND expires <= $1`,
		now.UnixMilli()).Scan(&n); err != nil || n == 0 {
		return err
	}
	return s.db.Write(ctx, func(tx *database.Tx) error { return s.lapse(ctx, tx, "", now) })
}

func (s *Store) forget(ctx context.Context) error {
	return s.db.Write(ctx, func(tx *database.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM enrollment_keys WHERE used < $1`, s.now().Add(-keyLife).Unix())
		return err
	})
}
