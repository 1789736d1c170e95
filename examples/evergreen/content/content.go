// Package content is the domain of lessons: what there is to read and to do in a course.
package content

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"evergreen/catalog"
	"evergreen/database"
	"evergreen/rest"
)

var schema = []string{
	`CREATE TABLE lessons (
		course TEXT NOT NULL, n INTEGER NOT NULL, unit TEXT NOT NULL, title TEXT NOT NULL, minutes INTEGER NOT NULL,
		body TEXT NOT NULL, PRIMARY KEY (course, n));`,
}

// Lesson is one sitting. N counts the lessons of a course from 1.
type Lesson struct {
	Course  string `json:"course"` // slug
	N       int    `json:"n"`
	Unit    string `json:"unit"`
	Title   string `json:"title"`
	Minutes int    `json:"minutes"`
	Body    *Body  `json:"body,omitempty"` // only where one lesson is asked for
}

// Body is what a lesson consists of.
type Body struct {
	Text     []string `json:"text"`     // paragraphs
	Remember []string `json:"remember"` // points to keep
	Exercise string   `json:"exercise"`
}

// Preview is the lesson that everybody may read.
const Preview = 1

// ErrNoLesson says that there is no such lesson.
var ErrNoLesson = &rest.Problem{Status: http.StatusNotFound, Code: "no_lesson", Title: "There is no such lesson."}

// Store keeps lessons.
type Store struct{ db *database.DB }

// seedPart is of how many courses the lessons, about twenty each, are written in one transaction.
const seedPart = 20

// NewStore makes the tables and, in a database without lessons, those of the courses of catalog.Seed.
func NewStore(ctx context.Context, db *database.DB) (*Store, error) {
	if err := db.Migrate(ctx, "content", schema); err != nil {
		return nil, err
	}
	courses := catalog.Seed()
	standing := func(tx *database.Tx) (int, error) {
		var n int
		err := tx.QueryRow(ctx, `SELECT count(*) FROM lessons`).Scan(&n)
		if n > 0 {
			n = len(courses)
		}
		return n, err
	}
	return &Store{db}, db.Seed(ctx, "lessons", len(courses), seedPart, standing, func(tx *database.Tx, i int) error {
		return insert(ctx, tx, Write(courses[i]))
	})
}

func insert(ctx context.Context, tx *database.Tx, lessons []Lesson) error {
	for _, l := range lessons {
		body, err := json.Marshal(l.Body)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO lessons (course, n, unit, title, minutes, body)
			VALUES ($1, $2, $3, $4, $5, $6)`, l.Course, l.N, l.Unit, l.Title, l.Minutes, string(body)); err != nil {
			return fmt.Errorf("lesson %d of %s: %w", l.N, l.Course, err)
		}
	}
	return nil
}

// Lessons returns the lessons of a course without their bodies, in order, or catalog.ErrNoCourse.
func (s *Store) Lessons(ctx context.Context, course string) ([]Lesson, error) {
	rows, err := s.db.Read().Query(ctx, `SELECT n, unit, title, minutes FROM lessons WHERE course = $1 ORDER BY n`, course)
	if err != nil {
		return nil, fmt.Errorf("lessons of %s: %w", course, err)
	}
	defer rows.Close()
	var all []Lesson
	for rows.Next() {
		l := Lesson{Course: course}
		if err := rows.Scan(&l.N, &l.Unit, &l.Title, &l.Minutes); err != nil {
			return nil, fmt.Errorf("lessons of %s: %w", course, err)
		}
		all = append(all, l)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("lessons of %s: %w", course, err)
	}
	if len(all) == 0 {
		return nil, catalog.ErrNoCourse
	}
	return all, nil
}

// Lesson returns one lesson in full, or ErrNoLesson.
func (s *Store) Lesson(ctx context.Context, course string, n int) (Lesson, error) {
	l := Lesson{Course: course, N: n, Body: &Body{}}
	var body string
	err := s.db.Read().QueryRow(ctx, `SELECT unit, title, minutes, body FROM lessons WHERE course = $1 AND n = $2`, course, n).
		Scan(&l.Unit, &l.Title, &l.Minutes, &body)
	if errors.Is(err, sql.ErrNoRows) {
		return Lesson{}, ErrNoLesson
	}
	if err == nil {
		err = json.Unmarshal([]byte(body), l.Body)
	}
	if err != nil {
		return Lesson{}, fmt.Errorf("lesson %d of %s: %w", n, course, err)
	}
	return l, nil
}
