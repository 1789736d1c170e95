// Package progress is the domain of what learners have done: which lessons, and when a course was completed.
package progress

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"evergreen/content"
	"evergreen/database"
	"evergreen/notifications"
	"evergreen/rest"
)

var schema = []string{
	`CREATE TABLE lessons_done (
		account TEXT NOT NULL, course TEXT NOT NULL, lesson INTEGER NOT NULL, done INTEGER NOT NULL,
		PRIMARY KEY (account, course, lesson));
	CREATE TABLE courses_done (
		account TEXT NOT NULL, course TEXT NOT NULL, done INTEGER NOT NULL, PRIMARY KEY (account, course));`,
}

// Progress is how far a learner has got in a course.
type Progress struct {
	Course    string     `json:"course"` // slug
	Done      []int      `json:"done"`   // lessons, in order
	Completed *time.Time `json:"completed,omitempty"`
}

// Has reports whether a lesson is done.
func (p Progress) Has(lesson int) bool {
	for _, n := range p.Done {
		if n == lesson {
			return true
		}
	}
	return false
}

// Config says how a Store works.
type Config struct {
	// Lessons tells what a course consists of: content.Client.Lessons or as good.
	Lessons func(ctx context.Context, course string) ([]content.Lesson, error)
	Outbox  *notifications.Outbox
}

// Store keeps progress.
type Store struct {
	db *database.DB
	Config
	now func() time.Time

	mu    sync.Mutex
	known map[string]outline // by course
}

// outline is how many lessons a course has, as content said at a time.
type outline struct {
	lessons int
	asked   time.Time
}

// outlineFresh is how long the number of a course's lessons is believed without asking content.
const outlineFresh = time.Minute

// NewStore makes the tables.
func NewStore(ctx context.Context, db *database.DB, c Config) (*Store, error) {
	return &Store{db: db, Config: c, now: time.Now, known: map[string]outline{}}, db.Migrate(ctx, "progress", schema)
}

// Finish says that account has done a lesson of the course with that title, and returns how far it has got now. A lesson is done once. The last one
// completes the course, which the learner is told. content.ErrNoLesson if there is no such lesson.
func (s *Store) Finish(ctx context.Context, account, course, title string, lesson int) (Progress, error) {
	total, err := s.lessons(ctx, course)
	if err != nil {
		return Progress{}, err
	}
	if lesson < 1 || lesson > total {
		return Progress{}, content.ErrNoLesson
	}
	var p Progress
	err = s.db.Write(ctx, func(tx *database.Tx) error {
		now := s.now()
		if _, err := tx.Exec(ctx, `INSERT INTO lessons_done (account, course, lesson, done) VALUES ($1, $2, $3, $4)
			ON CONFLICT DO NOTHING`, account, course, lesson, now.UnixMilli()); err != nil {
			return err
		}
		all, err := of(ctx, tx, account, course)
		if err != nil || len(all) != 1 {
			return errors.Join(err, missing(all))
		}
		if p = all[0]; len(p.Done) < total || p.Completed != nil {
			return nil
		}
		return s.complete(ctx, tx, &p, account, title, now)
	})
	if err != nil {
		return Progress{}, fmt.Errorf("finish lesson %d of %s: %w", lesson, course, err)
	}
	return p, nil
}

func missing(all []Progress) error {
	if len(all) == 1 {
		return nil
	}
	return errors.New("the lesson that was just kept is not there")
}

func (s *Store) complete(ctx context.Context, tx *database.Tx, p *Progress, account, title string, now time.Time) error {
	at := now.UTC().Truncate(time.Millisecond)
	p.Completed = &at
	if _, err := tx.Exec(ctx, `INSERT INTO courses_done (account, course, done) VALUES ($1, $2, $3)`, account, p.Course,
		at.UnixMilli()); err != nil {
		return err
	}
	return s.Outbox.Add(ctx, tx, notifications.Event{ID: "completed " + account + " " + p.Course, Kind: notifications.Completed,
		Account: account, Course: p.Course, Title: title, At: at})
}

// lessons returns how many lessons a course has. While content is away the number it said last goes on to hold.
func (s *Store) lessons(ctx context.Context, course string) (int, error) {
	s.mu.Lock()
	o, ok := s.known[course]
	s.mu.Unlock()
	if ok && s.now().Sub(o.asked) < outlineFresh {
		return o.lessons, nil
	}
	all, err := s.Lessons(ctx, course)
	if err != nil {
		if ok && errors.Is(err, rest.ErrUnavailable) {
			return o.lessons, nil
		}
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[course] = outline{len(all), s.now()}
	return len(all), nil
}

// Of returns how far account has got in each course it has begun; in one only where course is not "".
func (s *Store) Of(ctx context.Context, account, course string) ([]Progress, error) {
	return of(ctx, s.db.Read(), account, course)
}

func of(ctx context.Context, q database.Querier, account, course string) ([]Progress, error) {
	rows, err := q.Query(ctx, `SELECT l.course, l.lesson, coalesce(c.done, 0) FROM lessons_done l
		LEFT JOIN courses_done c ON c.account = l.account AND c.course = l.course
		WHERE l.account = $1 AND (l.course = $2 OR $2 = '') ORDER BY l.course, l.lesson`, account, course)
	if err != nil {
		return nil, fmt.Errorf("progress: %w", err)
	}
	defer rows.Close()
	all := []Progress{}
	for rows.Next() {
		var slug string
		var lesson int
		var done int64
		if err := rows.Scan(&slug, &lesson, &done); err != nil {
			return nil, fmt.Errorf("progress: %w", err)
		}
		if len(all) == 0 || all[len(all)-1].Course != slug {
			all = append(all, Progress{Course: slug})
		}
		p := &all[len(all)-1]
		p.Done = append(p.Done, lesson)
		if done > 0 {
			at := time.UnixMilli(done).UTC()
			p.Completed = &at
		}
	}
	return all, rows.Err()
}
