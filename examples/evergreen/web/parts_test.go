package web

import (
	"hash/maphash"
	"testing"

	"evergreen/catalog"
	"evergreen/content"
	"evergreen/enrollment"
)

// TestAPieceIsKeptByAllThatItShows changes one thing at a time: whatever a template shows has to tell two pieces apart.
func TestAPieceIsKeptByAllThatItShows(t *testing.T) {
	course := func(change func(*catalog.Course)) catalog.Course {
		c := catalog.Course{Slug: "go", Title: "Go", Summary: "Short", Topic: "programming", Level: "beginner", Teacher: "Ada", Weeks: 2,
			About: []string{"a", "b"}, Outcomes: []string{"c"}, Outline: []catalog.Unit{{Title: "u", Lessons: []string{"l", "m"}}}}
		change(&c)
		return c
	}
	seats := func(free int) *enrollment.Seats { return &enrollment.Seats{Seats: free} }
	lesson := func(l listed) []listed { return []listed{l} }
	pieces := map[string]part{
		"card": card{Course: course(func(*catalog.Course) {})}, "slug": card{Course: course(func(c *catalog.Course) { c.Slug = "og" })},
		"title": card{Course: course(func(c *catalog.Course) { c.Title = "Og" })}, "summary": card{Course: course(func(c *catalog.Course) { c.Summary = "Long" })},
		"topic": card{Course: course(func(c *catalog.Course) { c.Topic = "data" })}, "level": card{Course: course(func(c *catalog.Course) { c.Level = "advanced" })},
		"teacher": card{Course: course(func(c *catalog.Course) { c.Teacher = "Eve" })}, "weeks": card{Course: course(func(c *catalog.Course) { c.Weeks = 3 })},
		"price": card{Course: course(func(c *catalog.Course) { c.Price = 100 })}, "full": card{course(func(*catalog.Course) {}), seats(0)},
		"few": card{course(func(*catalog.Course) {}), seats(9)}, "many": card{course(func(*catalog.Course) {}), seats(30)},
		"heading": heading{course(func(*catalog.Course) {})}, "heading title": heading{course(func(c *catalog.Course) { c.Title = "Og" })},
		"heading summary": heading{course(func(c *catalog.Course) { c.Summary = "Long" })}, "heading topic": heading{course(func(c *catalog.Course) { c.Topic = "data" })},
		"heading level": heading{course(func(c *catalog.Course) { c.Level = "advanced" })}, "heading teacher": heading{course(func(c *catalog.Course) { c.Teacher = "Eve" })},
		"facts": facts{course(func(*catalog.Course) {})}, "facts weeks": facts{course(func(c *catalog.Course) { c.Weeks = 3 })},
		"facts hours": facts{course(func(c *catalog.Course) { c.Hours = 1 })}, "facts seats": facts{course(func(c *catalog.Course) { c.Seats = 1 })},
		"facts price": facts{course(func(c *catalog.Course) { c.Price = 100 })},
		"about":       about{course(func(*catalog.Course) {})}, "about one": about{course(func(c *catalog.Course) { c.About = []string{"ab"} })},
		"outcomes": about{course(func(c *catalog.Course) { c.About, c.Outcomes = []string{"a"}, []string{"b", "c"} })},
		"unit":     about{course(func(c *catalog.Course) { c.Outline[0].Title = "v" })}, "lessons": about{course(func(c *catalog.Course) { c.Outline[0].Lessons = []string{"lm"} })},
		"topics": topicList{Topics: []catalog.Topic{{Slug: "a", Name: "A", Courses: 1}}}, "topic slug": topicList{Topics: []catalog.Topic{{Slug: "b", Name: "A", Courses: 1}}},
		"topic name": topicList{Topics: []catalog.Topic{{Slug: "a", Name: "B", Courses: 1}}}, "topic courses": topicList{Topics: []catalog.Topic{{Slug: "a", Name: "A", Courses: 2}}},
		"choice": topicList{[]catalog.Topic{{Slug: "a", Name: "A", Courses: 1}}, true, ""}, "chosen": topicList{[]catalog.Topic{{Slug: "a", Name: "A", Courses: 1}}, true, "a"},
		"text": text{content.Body{Text: []string{"a"}, Remember: []string{"b"}, Exercise: "c"}}, "remember": text{content.Body{Text: []string{"a"}, Remember: []string{"c"}, Exercise: "c"}},
		"exercise": text{content.Body{Text: []string{"a"}, Remember: []string{"b"}, Exercise: "d"}}, "paragraph": text{content.Body{Text: []string{"b"}, Remember: []string{"b"}, Exercise: "c"}},
		"outline": outline{"go", lesson(listed{N: 1, Title: "a"})}, "of another": outline{"og", lesson(listed{N: 1, Title: "a"})},
		"n": outline{"go", lesson(listed{N: 257, Title: "a"})}, "lesson title": outline{"go", lesson(listed{N: 1, Title: "b"})},
		"done": outline{"go", lesson(listed{N: 1, Title: "a", Done: true})}, "here": outline{"go", lesson(listed{N: 1, Title: "a", Here: true})},
		"open": outline{"go", lesson(listed{N: 1, Title: "a", Open: true})},
		"home": homePage{}, "home in need": homePage{Missing: true}, "home with courses": homePage{Total: 1},
		"home with a card":  homePage{Popular: []card{{Course: course(func(*catalog.Course) {})}}},
		"home with a topic": homePage{Topics: []catalog.Topic{{Slug: "a", Name: "A", Courses: 1}}},
		"courses":           coursesPage{}, "courses of a level": coursesPage{Query: catalog.Query{Level: "beginner"}},
		"courses of a topic": coursesPage{Query: catalog.Query{Topic: "a"}}, "topic by name": coursesPage{Query: catalog.Query{Topic: "a"}, Topic: "A"},
		"courses found": coursesPage{Query: catalog.Query{Text: "a"}}, "courses with levels": coursesPage{Levels: []string{"a"}},
		"courses with a card": coursesPage{Cards: []card{{Course: course(func(*catalog.Course) {})}}},
		"courses in all":      coursesPage{Page: catalog.Page{Total: 1}}, "second page": coursesPage{Page: catalog.Page{Page: 1}},
		"two pages": coursesPage{Page: catalog.Page{Pages: 1}}, "previous": coursesPage{Previous: "/"}, "next": coursesPage{Next: "/"},
		"courses with a topic": coursesPage{Topics: []catalog.Topic{{Slug: "a", Name: "A", Courses: 1}}},
		"cover":                picture{"a", "bc"}, "another cover": picture{"ab", "c"},
	}
	seed := maphash.MakeSeed()
	sum := func(p part) uint64 {
		var h maphash.Hash
		h.SetSeed(seed)
		p.shows(&h)
		return h.Sum64()
	}
	known := map[uint64]string{}
	for name, p := range pieces {
		if other, ok := known[sum(p)]; ok {
			t.Errorf("%s is taken for %s", name, other)
		}
		known[sum(p)] = name
	}
	if more := (card{course(func(*catalog.Course) {}), seats(40)}); known[sum(more)] != "many" {
		t.Error("a card with 40 free seats is drawn anew although it shows what one with 30 does")
	}
}

func TestWhatIsKeptIsDrawnOnceAndBounded(t *testing.T) {
	v, err := newViews()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, slug := range []string{"a", "b"} {
			if _, err := v.cards([]card{{Course: catalog.Course{Slug: slug}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(v.kept.of); n != 4 { // two cards and their covers
		t.Errorf("%d pieces are kept", n)
	}
	for n := range maxKept + 5 {
		if _, err := v.cover("data", string(rune(n))); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(v.kept.of); n > maxKept {
		t.Errorf("%d pieces are kept", n)
	}
}
