// Package catalog is the domain of courses: what can be learned, by whom it is taught, and how to find it.
package catalog

import (
	"net/http"

	"evergreen/rest"
)

// Course is one course. Slug is its identity: it never changes.
type Course struct {
	Slug       string   `json:"slug"`
	Title      string   `json:"title"`
	Summary    string   `json:"summary"` // one sentence
	Topic      string   `json:"topic"`   // a Topic's Slug
	Subject    string   `json:"subject"`
	Level      string   `json:"level"` // beginner, intermediate, advanced
	Teacher    string   `json:"teacher"`
	Weeks      int      `json:"weeks"`
	Hours      int      `json:"hours"` // a week
	Seats      int      `json:"seats"`
	Price      int      `json:"price"`              // cents of a euro; 0 free of charge
	About      []string `json:"about,omitempty"`    // paragraphs; only where one course is asked for
	Outcomes   []string `json:"outcomes,omitempty"` // likewise
	Outline    []Unit   `json:"outline,omitempty"`  // likewise
	Popularity int      `json:"popularity"`         // greater is better known; orders lists
}

// Unit is one week's part of a course.
type Unit struct {
	Title   string   `json:"title"`
	Lessons []string `json:"lessons"`
}

// Free reports whether the course costs nothing.
func (c Course) Free() bool { return c.Price == 0 }

// Topic is a shelf of the catalogue.
type Topic struct {
	Slug    string `json:"slug"`
	Name    string `json:"name"`
	Courses int    `json:"courses"`
}

// Query asks for one page of courses.
type Query struct {
	Text  string // words, each of which a course must contain, the last perhaps unfinished; "" all
	Topic string // "" all
	Level string // "" all
	Page  int    // from 1; 0 is 1
	Size  int    // 1 to 60; 0 is 12
}

// Page is one page of courses, best match first.
type Page struct {
	Courses []Course `json:"courses"`
	Total   int      `json:"total"` // on all pages
	Page    int      `json:"page"`
	Pages   int      `json:"pages"` // at least 1
}

// Levels are the levels of courses, easiest first.
var Levels = [...]string{"beginner", "intermediate", "advanced"}

// topics are the shelves, in the order in which they are shown.
var topics = [...]Topic{
	{Slug: "programming", Name: "Programming"}, {Slug: "data", Name: "Data"}, {Slug: "design", Name: "Design"},
	{Slug: "business", Name: "Business"}, {Slug: "languages", Name: "Languages"}, {Slug: "science", Name: "Science"},
	{Slug: "mathematics", Name: "Mathematics"}, {Slug: "music", Name: "Music"}, {Slug: "wellbeing", Name: "Wellbeing"},
	{Slug: "crafts", Name: "Crafts"}, {Slug: "writing", Name: "Writing"}, {Slug: "engineering", Name: "Engineering"},
}

// ErrNoCourse says that there is no course with the slug asked for.
var ErrNoCourse = &rest.Problem{Status: http.StatusNotFound, Code: "no_course", Title: "There is no such course."}

func (q Query) normal() Query {
	q.Page = min(max(q.Page, 1), 1_000_000)
	if q.Size <= 0 {
		q.Size = 12
	}
	q.Size = min(q.Size, 60)
	return q
}

// TopicName returns the name of the topic with the given slug, or the slug.
func TopicName(slug string) string {
	for _, t := range topics {
		if t.Slug == slug {
			return t.Name
		}
	}
	return slug
}
