package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"evergreen/database"
	"evergreen/database/databasetest"
	"evergreen/rest"
)

func TestMain(m *testing.M) { os.Exit(databasetest.Main(m)) }

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := NewStore(context.Background(), databasetest.Open(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSeed(t *testing.T) {
	all := Seed()
	if !reflect.DeepEqual(all, Seed()) {
		t.Fatal("two seeds differ")
	}
	if len(all) < 300 {
		t.Errorf("%d courses", len(all))
	}
	slugs, known := map[string]bool{}, map[string]bool{}
	for _, topic := range topics {
		known[topic.Slug] = true
	}
	for _, c := range all {
		text, _ := json.Marshal(c)
		switch {
		case slugs[c.Slug], c.Slug == "", strings.Trim(c.Slug, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
			t.Errorf("slug %q", c.Slug)
		case !known[c.Topic], !slices.Contains(Levels[:], c.Level):
			t.Errorf("%s: topic %q, level %q", c.Slug, c.Topic, c.Level)
		case c.Seats < 1, c.Weeks < 1, c.Hours < 1, c.Teacher == "", c.Summary == "":
			t.Errorf("%s is not complete: %+v", c.Slug, c)
		case len(c.About) != 3, len(c.Outcomes) < 5, len(c.Outline) != c.Weeks:
			t.Errorf("%s: %d paragraphs, %d outcomes, %d units in %d weeks", c.Slug, len(c.About), len(c.Outcomes), len(c.Outline), c.Weeks)
		case strings.Contains(string(text), "%!"), strings.Contains(string(text), "%s"), strings.Contains(string(text), "{"+"use}"):
			t.Errorf("%s: a text was not filled in: %s", c.Slug, text)
		}
		slugs[c.Slug] = true
	}
}

func TestSeveralProcessesMayMakeTheCatalogueAtOnce(t *testing.T) {
	location := databasetest.Location(t)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			db, err := database.Open(context.Background(), location, "", "catalog")
			if err != nil {
				t.Error(err)
				return
			}
			defer db.Close()
			s, err := NewStore(context.Background(), db)
			if err != nil {
				t.Error(err)
				return
			}
			if page, err := s.Search(context.Background(), Query{}); err != nil || page.Total != len(Seed()) {
				t.Errorf("%d courses, %v", page.Total, err)
			}
		})
	}
	all.Wait()
}

func TestPagesHoldEveryCourseOnce(t *testing.T) {
	s := newStore(t)
	seen := map[string]bool{}
	last := 1 << 30
	for n := 1; ; n++ {
		page, err := s.Search(t.Context(), Query{Page: n, Size: 50})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Courses {
			if seen[c.Slug] || c.Popularity > last {
				t.Fatalf("%s is out of order or twice", c.Slug)
			}
			seen[c.Slug], last = true, c.Popularity
		}
		if n >= page.Pages {
			break
		}
	}
	if len(seen) != len(Seed()) {
		t.Errorf("%d of %d courses", len(seen), len(Seed()))
	}
	page, err := s.Search(t.Context(), Query{Page: 1000})
	if err != nil || len(page.Courses) != 0 || page.Total != len(seen) {
		t.Errorf("behind the end: %d courses of %d, %v", len(page.Courses), page.Total, err)
	}
}

func TestSearch(t *testing.T) {
	s := newStore(t)
	for _, test := range []struct {
		q     Query
		total int    // -1: at least one
		all   string // every title contains it
	}{
		{Query{Text: "watercolour"}, 4, "Watercolour"},
		{Query{Text: "WATERCOLOUR"}, 4, "Watercolour"},
		{Query{Text: "watercol"}, 4, "Watercolour"},
		{Query{Text: "linear algebra"}, 4, "Linear Algebra"},
		{Query{Text: "algebra linear"}, -1, "Linear Algebra"},
		{Query{Topic: "music"}, 32, ""},
		{Query{Topic: "music", Level: "advanced"}, 8, ""},
		{Query{Text: "piano", Topic: "science"}, 0, ""},
		{Query{Text: "nothing has this name"}, 0, ""},
		{Query{Text: "  "}, len(Seed()), ""},
		{Query{Text: `"'*()`}, 0, ""},
		{Query{Text: "garcia"}, -1, ""},
	} {
		page, err := s.Search(t.Context(), test.q)
		if err != nil {
			t.Errorf("%+v: %v", test.q, err)
			continue
		}
		if test.total >= 0 && page.Total != test.total || test.total < 0 && page.Total == 0 {
			t.Errorf("%+v: %d courses, want %d", test.q, page.Total, test.total)
		}
		for _, c := range page.Courses {
			if !strings.Contains(c.Title, test.all) {
				t.Errorf("%+v: %s", test.q, c.Title)
			}
		}
	}
}

func FuzzSearch(f *testing.F) {
	s := newStore(f)
	for _, seed := range []string{"go", `"`, "a AND", "NEAR(a b)", "-x", "title:go", "a*b", "\x00", "É", "日本語", "a OR b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := s.Search(context.Background(), Query{Text: text}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func TestOverTheNetwork(t *testing.T) {
	s := newStore(t)
	server := httptest.NewServer(Handler(s))
	defer server.Close()
	c := &Client{REST: &rest.Client{Base: server.URL}}
	page, err := c.Search(t.Context(), Query{Text: "guitar", Size: 2, Page: 2})
	if err != nil || len(page.Courses) != 2 || page.Total != 4 || page.Pages != 2 || page.Page != 2 {
		t.Fatalf("got %+v, %v", page, err)
	}
	course, err := c.Course(t.Context(), page.Courses[0].Slug)
	if err != nil || len(course.Outline) != course.Weeks || course.Title != page.Courses[0].Title {
		t.Errorf("got %+v, %v", course, err)
	}
	if _, err := c.Course(t.Context(), "no/such course"); !errors.Is(err, ErrNoCourse) {
		t.Errorf("got %v", err)
	}
	all, err := c.Topics(t.Context())
	if err != nil || len(all) != 12 || all[0].Courses != 32 {
		t.Errorf("got %+v, %v", all, err)
	}
	var p *rest.Problem
	err = c.REST.Do(t.Context(), rest.Call{Method: "GET", Path: "/api/courses", Query: map[string][]string{"page": {"zero"}}}, nil)
	if !errors.As(err, &p) || p.Field != "page" {
		t.Errorf("got %v", err)
	}
}
