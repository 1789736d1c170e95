package content

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"testing"

	"evergreen/catalog"
	"evergreen/database/databasetest"
	"evergreen/enrollment"
	"evergreen/identity"
	"evergreen/rest"
)

func TestMain(m *testing.M) { os.Exit(databasetest.Main(m)) }

func TestEveryCourseHasTheLessonsOfItsOutline(t *testing.T) {
	for _, c := range catalog.Seed() {
		all := Write(c)
		want := 0
		for _, u := range c.Outline {
			want += len(u.Lessons)
		}
		if len(all) != want || want < 6 || !reflect.DeepEqual(all, Write(c)) {
			t.Errorf("%s has %d lessons, want %d, the same every time", c.Slug, len(all), want)
		}
		for i, l := range all {
			text, _ := json.Marshal(l)
			if l.N != i+1 || len(l.Body.Text) != 3 || len(l.Body.Remember) != 3 || l.Body.Exercise == "" || l.Minutes < 10 ||
				strings.ContainsAny(string(text[1:len(text)-1]), "%") || strings.Contains(strings.Join(l.Body.Text, "")+l.Body.Exercise, "{") {
				t.Fatalf("%s, lesson %d is not complete: %s", c.Slug, i+1, text)
			}
		}
	}
}

func TestOverTheNetwork(t *testing.T) {
	s, err := NewStore(t.Context(), databasetest.Open(t))
	if err != nil {
		t.Fatal(err)
	}
	v := identity.NewVerifier("test", func(context.Context) (identity.JWKS, error) { return identity.JWKS{}, nil })
	server := httptest.NewServer(Handler(s, v, func(context.Context, string, string, string) (enrollment.Enrollment, error) {
		return enrollment.Enrollment{}, enrollment.ErrNoSeat
	}))
	defer server.Close()
	c := &Client{REST: &rest.Client{Base: server.URL}}
	all, err := c.Lessons(t.Context(), "everyday-go")
	if err != nil || len(all) < 10 || all[0].N != 1 || all[0].Body != nil {
		t.Fatalf("got %+v, %v", all, err)
	}
	if l, err := c.Lesson(t.Context(), "", "everyday-go", 1); err != nil || l.Title != all[0].Title || l.Body.Exercise == "" {
		t.Errorf("the first lesson: %+v, %v", l, err)
	}
	if _, err := c.Lesson(t.Context(), "forged", "everyday-go", 2); !errors.Is(err, rest.ErrUnauthorized) {
		t.Errorf("the second, without a token: %v", err)
	}
	if _, err := c.Lessons(t.Context(), "nothing"); !errors.Is(err, catalog.ErrNoCourse) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Lesson(t.Context(), "", "nothing", 1); !errors.Is(err, ErrNoLesson) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Lesson(t.Context(), "everyday-go", 1000); !errors.Is(err, ErrNoLesson) {
		t.Errorf("got %v", err)
	}
}
