package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"evergreen/database"
)

// schema is what both dialects have in common.
var schema = []string{
	`CREATE TABLE courses (
		slug TEXT PRIMARY KEY, title TEXT NOT NULL, summary TEXT NOT NULL, topic TEXT NOT NULL, subject TEXT NOT NULL,
		level TEXT NOT NULL, teacher TEXT NOT NULL, weeks INTEGER NOT NULL, hours INTEGER NOT NULL,
		seats INTEGER NOT NULL CHECK (seats >= 0), popularity INTEGER NOT NULL, detail TEXT NOT NULL);
	CREATE INDEX courses_by_topic ON courses (topic, popularity DESC);
	CREATE INDEX courses_by_popularity ON courses (popularity DESC);`,
	`ALTER TABLE courses ADD COLUMN price INTEGER NOT NULL DEFAULT 0 CHECK (price >= 0);
	UPDATE courses SET price = CASE WHEN level = 'advanced' THEN 100 * weeks * hours WHEN seats < 30 THEN 200 * weeks * hours
		ELSE 0 END;`,
}

// Store keeps the courses.
type Store struct {
	db    *database.DB
	words index
}

// detail is what lists leave out.
type detail struct {
	About    []string `json:"about"`
	Outcomes []string `json:"outcomes"`
	Outline  []Unit   `json:"outline"`
}

// seedPart is how many courses are written in one transaction.
const seedPart = 100

// NewStore makes the tables and, in a database without courses, the courses of Seed. Several processes may do so at
// once.
func NewStore(ctx context.Context, db *database.DB) (*Store, error) {
	s := &Store{db: db, words: indexes[db.Dialect()]}
	steps := append([]string(nil), schema...)
	steps[0] += s.words.schema
	if err := db.Migrate(ctx, "catalog", steps); err != nil {
		return nil, err
	}
	courses := Seed()
	standing := func(tx *database.Tx) (int, error) {
		var n int
		err := tx.QueryRow(ctx, `SELECT count(*) FROM courses`).Scan(&n)
		if n > 0 {
			n = len(courses)
		}
		return n, err
	}
	err := db.Seed(ctx, "courses", len(courses), seedPart, standing, func(tx *database.Tx, i int) error {
		return s.insert(ctx, tx, courses[i])
	})
	return s, err
}

func (s *Store) insert(ctx context.Context, tx *database.Tx, c Course) error {
	d, err := json.Marshal(detail{c.About, c.Outcomes, c.Outline})
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO courses (slug, title, summary, topic, subject, level, teacher, weeks,
		hours, seats, price, popularity, detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
		c.Slug, c.Title, c.Summary, c.Topic, c.Subject, c.Level, c.Teacher, c.Weeks, c.Hours, c.Seats, c.Price,
		c.Popularity, string(d)); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, s.words.insert, c.Slug, s.words.fold(c.Title), s.words.fold(c.Subject+" "+c.Topic),
		s.words.fold(c.Teacher), s.words.fold(c.Summary), s.words.fold(strings.Join(c.About, "\n")))
	return err
}

const columns = `c.slug, c.title, c.summary, c.topic, c.subject, c.level, c.teacher, c.weeks, c.hours, c.seats, c.price,
	c.popularity`

func fields(c *Course) []any {
	return []any{&c.Slug, &c.Title, &c.Summary, &c.Topic, &c.Subject, &c.Level, &c.Teacher, &c.Weeks, &c.Hours, &c.Seats,
		&c.Price, &c.Popularity}
}

// Course returns one course in full, or ErrNoCourse.
func (s *Store) Course(ctx context.Context, slug string) (Course, error) {
	var c Course
	var d string
	err := s.db.Read().QueryRow(ctx, `SELECT `+columns+`, c.detail FROM courses c WHERE c.slug = $1`, slug).
		Scan(append(fields(&c), &d)...)
	if errors.Is(err, sql.ErrNoRows) {
		return c, ErrNoCourse
	}
	if err != nil {
		return c, fmt.Errorf("course %s: %w", slug, err)
	}
	var more detail
	if err := json.Unmarshal([]byte(d), &more); err != nil {
		return c, fmt.Errorf("course %s: %w", slug, err)
	}
	c.About, c.Outcomes, c.Outline = more.About, more.Outcomes, more.Outline
	return c, nil
}

// Search returns one page of the courses that match q. Words match in title, subject, teacher, summary and description,
// in that order of weight; without words the best known courses come first.
func (s *Store) Search(ctx context.Context, q Query) (Page, error) {
	q = q.normal()
	from, order := `courses c`, `c.popularity DESC, c.slug`
	var where []string
	var args []any
	param := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	if words := s.words.query(s.words.fold(q.Text)); words != "" {
		from += ` JOIN course_words w ON w.slug = c.slug`
		p := param(words)
		where = append(where, strings.ReplaceAll(s.words.match, "%s", p))
		order = strings.ReplaceAll(s.words.rank, "%s", p) + `, ` + order
	} else if strings.TrimSpace(q.Text) != "" {
		where = append(where, `1 = 0`)
	}
	if q.Topic != "" {
		where = append(where, `c.topic = `+param(q.Topic))
	}
	if q.Level != "" {
		where = append(where, `c.level = `+param(q.Level))
	}
	if len(where) > 0 {
		from += ` WHERE ` + strings.Join(where, ` AND `)
	}
	page := Page{Courses: []Course{}, Page: q.Page, Pages: 1}
	if err := s.db.Read().QueryRow(ctx, `SELECT count(*) FROM `+from, args...).Scan(&page.Total); err != nil {
		return page, fmt.Errorf("search courses: %w", err)
	}
	page.Pages = max(1, (page.Total+q.Size-1)/q.Size)
	text := `SELECT ` + columns + ` FROM ` + from + ` ORDER BY ` + order + ` LIMIT ` + param(q.Size) + ` OFFSET ` +
		param((q.Page-1)*q.Size)
	rows, err := s.db.Read().Query(ctx, text, args...)
	if err != nil {
		return page, fmt.Errorf("search courses: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var c Course
		if err := rows.Scan(fields(&c)...); err != nil {
			return page, fmt.Errorf("search courses: %w", err)
		}
		page.Courses = append(page.Courses, c)
	}
	return page, rows.Err()
}

// Topics returns all topics with the number of their courses.
func (s *Store) Topics(ctx context.Context) ([]Topic, error) {
	rows, err := s.db.Read().Query(ctx, `SELECT topic, count(*) FROM courses GROUP BY topic`)
	if err != nil {
		return nil, fmt.Errorf("topics: %w", err)
	}
	defer rows.Close()
	counts := map[string]int{}
	for rows.Next() {
		var slug string
		var n int
		if err := rows.Scan(&slug, &n); err != nil {
			return nil, fmt.Errorf("topics: %w", err)
		}
		counts[slug] = n
	}
	all := append([]Topic(nil), topics[:]...)
	for i := range all {
		all[i].Courses = counts[all[i].Slug]
	}
	return all, rows.Err()
}
