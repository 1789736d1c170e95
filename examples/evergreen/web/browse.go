package web

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	"evergreen/catalog"
	"evergreen/enrollment"
	"evergreen/rest"
)

// card is a course in a list, with its seats where they are known.
type card struct {
	catalog.Course
	Seats *enrollment.Seats
}

type homePage struct {
	Topics  []catalog.Topic
	Popular []card
	Total   int
	Missing bool
}

func (s *site) home(w http.ResponseWriter, r *http.Request, v *view) error {
	v.Title = "Learn something that stays"
	var data homePage
	shelves, err := s.shelves(r.Context(), catalog.Query{Size: 30}, v)
	if err != nil {
		s.log.Warn("home without courses", "err", err)
		data.Missing = true
	} else {
		data.Topics, data.Popular, data.Total = shelves.topics, mixed(shelves.cards, 6), shelves.page.Total
	}
	v.Data = data
	return s.views.render(w, http.StatusOK, "home", v)
}

// mixed returns the first n cards of which no two are of one topic.
func mixed(all []card, n int) []card {
	var some []card
	seen := map[string]bool{}
	for _, c := range all {
		if !seen[c.Topic] && len(some) < n {
			seen[c.Topic] = true
			some = append(some, c)
		}
	}
	return some
}

type shelves struct {
	topics []catalog.Topic
	page   catalog.Page
	cards  []card
}

// shelves asks for a page of courses and for the topics, at the same time, and then for the seats of those courses.
func (s *site) shelves(ctx context.Context, q catalog.Query, v *view) (shelves, error) {
	ctx, cancel := within(ctx, needed)
	defer cancel()
	var out shelves
	var oldTopics bool
	var topicsErr error
	var asked sync.WaitGroup
	asked.Go(func() {
		out.topics, oldTopics, topicsErr = recall(s.memory, "topics", func() ([]catalog.Topic, error) {
			return s.Catalog.Topics(ctx)
		})
	})
	key := "search " + searchURL(q)
	page, old, err := recall(s.memory, key, func() (catalog.Page, error) { return s.Catalog.Search(ctx, q) })
	asked.Wait()
	if err = errors.Join(err, topicsErr); err != nil {
		return out, err
	}
	if old || oldTopics {
		v.Notice = "The catalogue is resting for a moment. You see what it said last."
	}
	out.page = page
	out.cards = s.cards(ctx, page.Courses)
	return out, nil
}

// cards adds the seats to courses, as far as they can be told in time.
func (s *site) cards(ctx context.Context, courses []catalog.Course) []card {
	slugs := make([]string, len(courses))
	all := make([]card, len(courses))
	for i, c := range courses {
		slugs[i], all[i].Course = c.Slug, c
	}
	if len(slugs) == 0 {
		return all
	}
	ctx, cancel := within(ctx, extra)
	defer cancel()
	taken, err := s.Enrollment.Taken(ctx, slugs...)
	if err != nil {
		s.log.Warn("courses without seats", "err", err)
		return all
	}
	for i := range all {
		all[i].Seats = seatsOf(all[i].Course, taken)
	}
	return all
}

// seatsOf returns a course's seats; one that nobody has asked a seat of is empty.
func seatsOf(c catalog.Course, taken map[string]enrollment.Seats) *enrollment.Seats {
	n, ok := taken[c.Slug]
	if !ok {
		n = enrollment.Seats{Course: c.Slug, Seats: c.Seats}
	}
	return &n
}

type coursesPage struct {
	Query    catalog.Query
	Topics   []catalog.Topic
	Levels   []string
	Topic    string // name of the chosen one
	Cards    []card
	Page     catalog.Page
	Previous string
	Next     string
}

func (s *site) courses(w http.ResponseWriter, r *http.Request, v *view) error {
	form := r.URL.Query()
	q := catalog.Query{Text: form.Get("q"), Topic: form.Get("topic"), Level: form.Get("level"), Page: 1, Size: 12}
	if n, err := strconv.Atoi(form.Get("page")); err == nil && n > 0 {
		q.Page = n
	}
	found, err := s.shelves(r.Context(), q, v)
	if err != nil {
		return err
	}
	data := coursesPage{Query: q, Topics: found.topics, Levels: catalog.Levels[:], Cards: found.cards, Page: found.page}
	for _, t := range found.topics {
		if t.Slug == q.Topic {
			data.Topic = t.Name
		}
	}
	if q.Page > 1 {
		data.Previous = searchURL(at(q, min(q.Page-1, found.page.Pages)))
	}
	if q.Page < found.page.Pages {
		data.Next = searchURL(at(q, q.Page+1))
	}
	v.Title, v.Search, v.Data = "Courses", q.Text, data
	return s.views.render(w, http.StatusOK, "courses", v)
}

func at(q catalog.Query, page int) catalog.Query {
	q.Page = page
	return q
}

// searchURL returns the address of a list of courses.
func searchURL(q catalog.Query) string {
	form := url.Values{}
	for name, value := range map[string]string{"q": q.Text, "topic": q.Topic, "level": q.Level} {
		if value != "" {
			form.Set(name, value)
		}
	}
	if q.Page > 1 {
		form.Set("page", strconv.Itoa(q.Page))
	}
	if len(form) == 0 {
		return "/courses"
	}
	return "/courses?" + form.Encode()
}

type coursePage struct {
	Course   catalog.Course
	Topic    string
	Seats    *enrollment.Seats // nil: cannot be told now
	Enrolled bool
	Key      string // names the enrolment that the form on this page asks for
	Related  []card
}

func (s *site) course(w http.ResponseWriter, r *http.Request, v *view) error {
	slug := r.PathValue("slug")
	ctx, cancel := within(r.Context(), needed)
	defer cancel()
	c, old, err := recall(s.memory, "course "+slug, func() (catalog.Course, error) { return s.Catalog.Course(ctx, slug) })
	if err != nil {
		return err
	}
	if old {
		v.Notice = "The catalogue is resting for a moment. You see what it said last."
	}
	data := coursePage{Course: c, Topic: catalog.TopicName(c.Topic), Key: rand.Text()}
	data.Seats, data.Enrolled = s.seat(ctx, c, v.User)
	data.Related = s.related(ctx, c)
	v.Title, v.Data = c.Title, data
	if v.Notice == "" {
		v.Notice, v.Good = notices[r.URL.Query().Get("done")], true
	}
	return s.views.render(w, http.StatusOK, "course", v)
}

var notices = map[string]string{
	"enrolled": "You have a seat. Welcome!",
	"left":     "You have left this course. Your seat is free for somebody else.",
	"account":  "Welcome to Evergreen. Your account is ready.",
}

// seat tells how many seats there are and whether the visitor has one.
func (s *site) seat(ctx context.Context, c catalog.Course, who *visitor) (*enrollment.Seats, bool) {
	ctx, cancel := within(ctx, extra)
	defer cancel()
	taken, err := s.Enrollment.Taken(ctx, c.Slug)
	if err != nil {
		s.log.Warn("course without seats", "err", err)
		return nil, false
	}
	seats := seatsOf(c, taken)
	if who == nil || who.Unsure {
		return seats, false
	}
	mine, err := s.Enrollment.Mine(ctx, who.token)
	if err != nil {
		s.log.Warn("course without the learner's own seat", "err", err)
	}
	for _, e := range mine {
		if e.Course == c.Slug {
			return seats, true
		}
	}
	return seats, false
}

// related returns other courses of the same subject and topic; none if they cannot be told in time.
func (s *site) related(ctx context.Context, c catalog.Course) []card {
	ctx, cancel := within(ctx, extra)
	defer cancel()
	page, _, err := recall(s.memory, "related "+c.Slug, func() (catalog.Page, error) {
		return s.Catalog.Search(ctx, catalog.Query{Text: c.Subject, Topic: c.Topic, Size: 4})
	})
	if err != nil && !errors.Is(err, rest.ErrUnavailable) {
		s.log.Warn("course without related ones", "err", err)
	}
	var all []card
	for _, other := range page.Courses {
		if other.Slug != c.Slug && len(all) < 3 {
			all = append(all, card{Course: other})
		}
	}
	return all
}
