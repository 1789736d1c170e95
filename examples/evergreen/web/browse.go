package web

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"evergreen/catalog"
	"evergreen/enrollment"
	"evergreen/progress"
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
		s.log.WarnContext(r.Context(), "home without courses", "err", err)
		data.Missing = true
	} else {
		data.Topics, data.Popular, data.Total = shelves.topics, mixed(shelves.cards, 6), shelves.page.Total
	}
	v.Data, v.Same = data, data
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
	key := fmt.Sprintf("search %d %s", q.Size, searchURL(q))
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
	all := make([]card, len(courses))
	for i, c := range courses {
		all[i].Course = c
	}
	if len(all) == 0 {
		return all
	}
	taken, err := s.seats.get(ctx)
	if err != nil {
		s.log.WarnContext(ctx, "courses without seats", "err", err)
		return all
	}
	for i := range all {
		all[i].Seats = seatsOf(all[i].Course, taken)
	}
	return all
}

// seatsOf returns a course's seats; one that nobody has asked a seat of is empty.
func seatsOf(c catalog.Course, taken map[string]enrollment.Seats) *enrollment.Seats {
	n := taken[c.Slug]
	if n.Course == "" {
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
	if q.Text == "" { // what people write in is seldom written twice
		v.Same = data
	}
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
	Course  catalog.Course
	Seats   *enrollment.Seats      // nil: cannot be told now
	Mine    *enrollment.Enrollment // the visitor's seat; nil none, or it cannot be told now
	Done    *progress.Progress     // nil: cannot be told now, or there is none
	Lessons int
	Key     string // names the enrolment that the form on this page asks for
	Related []card
}

// Minutes is for how long the visitor's seat is kept.
func (p coursePage) Minutes() int { return minutes(p.Mine) }

func minutes(e *enrollment.Enrollment) int {
	if e == nil || !e.Held() {
		return 0
	}
	return max(1, int(time.Until(*e.Expires).Minutes()+.5))
}

func (s *site) course(w http.ResponseWriter, r *http.Request, v *view) error {
	slug := r.PathValue("slug")
	ctx, cancel := within(r.Context(), needed)
	defer cancel()
	c, old, err := s.describe(ctx, slug)
	if err != nil {
		return err
	}
	if old {
		v.Notice = "The catalogue is resting for a moment. You see what it said last."
	}
	data := coursePage{Course: c, Key: rand.Text()}
	for _, u := range c.Outline {
		data.Lessons += len(u.Lessons)
	}
	var asking sync.WaitGroup
	asking.Go(func() { data.Related = s.related(ctx, c) })
	asking.Go(func() { s.seat(ctx, &data, v.User) })
	asking.Wait()
	v.Title, v.Data = c.Title, data
	if v.Notice == "" {
		v.Notice, v.Good = notices[r.URL.Query().Get("done")], true
	}
	return s.views.render(w, http.StatusOK, "course", v)
}

var notices = map[string]string{
	"enrolled":  "You have a seat. Welcome!",
	"paid":      "Thank you. Your payment has arrived, and the seat is yours.",
	"left":      "You have left this course. Your seat is free for somebody else.",
	"completed": "That was the last lesson. You have completed this course. Well done!",
}

// describe returns a course as the catalogue says or has said it.
func (s *site) describe(ctx context.Context, slug string) (c catalog.Course, old bool, err error) {
	return recall(s.memory, "course "+slug, func() (catalog.Course, error) { return s.Catalog.Course(ctx, slug) })
}

// seat tells how many seats there are, whether the visitor has one, and how far that has led.
func (s *site) seat(ctx context.Context, data *coursePage, who *visitor) {
	slug := data.Course.Slug
	if who != nil && !who.Unsure {
		short, cancel := within(ctx, extra)
		mine, err := s.Enrollment.Seat(short, who.token, slug)
		cancel()
		switch {
		case err == nil:
			data.Mine = &mine
		case !errors.Is(err, enrollment.ErrNoSeat):
			s.log.WarnContext(ctx, "course without the learner's own seat", "err", err)
		}
	}
	if data.Mine != nil {
		if !data.Mine.Held() {
			data.Done = s.progressIn(ctx, who, slug)
		}
		return
	}
	taken, err := s.seats.get(ctx)
	if err != nil {
		s.log.WarnContext(ctx, "course without seats", "err", err)
		return
	}
	data.Seats = seatsOf(data.Course, taken)
}

// related returns other courses of the same subject and topic; none if they cannot be told in time.
func (s *site) related(ctx context.Context, c catalog.Course) []card {
	ctx, cancel := within(ctx, extra)
	defer cancel()
	page, _, err := recall(s.shelf, "related "+c.Slug, func() (catalog.Page, error) {
		return s.Catalog.Search(ctx, catalog.Query{Text: c.Subject, Topic: c.Topic, Size: 4})
	})
	if err != nil && !errors.Is(err, rest.ErrUnavailable) {
		s.log.WarnContext(ctx, "course without related ones", "err", err)
	}
	var all []card
	for _, other := range page.Courses {
		if other.Slug != c.Slug && len(all) < 3 {
			all = append(all, card{Course: other})
		}
	}
	return all
}
