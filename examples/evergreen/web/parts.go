package web

import (
	"hash/maphash"
	"html/template"
	"strings"
	"sync"

	"evergreen/catalog"
	"evergreen/content"
)

// part is a piece of a page that looks the same whenever it shows the same. It is drawn once: most of a page consists of
// such pieces, and a template takes longer for them than for all the rest.
type part interface {
	// shows writes down all that the piece depends on.
	shows(h *maphash.Hash)
}

// about is what a course's page says of the course itself.
type about struct{ catalog.Course }

func (a about) shows(h *maphash.Hash) {
	words(h, "about")
	words(h, a.About...)
	words(h, a.Outcomes...)
	for _, u := range a.Outline {
		words(h, u.Title)
		words(h, u.Lessons...)
	}
}

// heading is what a course's page begins with.
type heading struct{ catalog.Course }

func (p heading) shows(h *maphash.Hash) {
	words(h, "heading", p.Topic, p.Level, p.Title, p.Summary, p.Teacher)
}

// facts are how long a course takes, how many learn together, and what it costs.
type facts struct{ catalog.Course }

func (f facts) shows(h *maphash.Hash) {
	words(h, "facts")
	number(h, f.Weeks, f.Hours, f.Seats, f.Price)
}

func (c card) shows(h *maphash.Hash) {
	words(h, "card", c.Slug, c.Title, c.Summary, c.Topic, c.Level, c.Teacher)
	number(h, c.Weeks, c.Price, c.left())
}

// left is how many seats a card tells of: none above ten, and -1 where it is not known.
func (c card) left() int {
	if c.Seats == nil {
		return -1
	}
	return min(c.Seats.Free(), 11)
}

// shows is all that the first page says.
func (p homePage) shows(h *maphash.Hash) {
	words(h, "home")
	number(h, p.Total, bit(p.Missing), len(p.Popular))
	for _, c := range p.Popular {
		c.shows(h)
	}
	topicList{Topics: p.Topics}.shows(h)
}

// shows is all that a list of courses says.
func (p coursesPage) shows(h *maphash.Hash) {
	words(h, "courses", p.Query.Text, p.Query.Topic, p.Query.Level, p.Topic, p.Previous, p.Next)
	words(h, p.Levels...)
	number(h, p.Page.Total, p.Page.Page, p.Page.Pages, len(p.Cards))
	for _, c := range p.Cards {
		c.shows(h)
	}
	topicList{p.Topics, true, p.Query.Topic}.shows(h)
}

// topicList is the list of topics on the first page, or the choice of one above a list of courses.
type topicList struct {
	Topics []catalog.Topic
	Choice bool
	Chosen string // slug
}

func (t topicList) shows(h *maphash.Hash) {
	words(h, "topics", t.Chosen)
	if t.Choice {
		number(h, 1)
	}
	for _, topic := range t.Topics {
		words(h, topic.Slug, topic.Name)
		number(h, topic.Courses)
	}
}

// text is what there is to read in a lesson.
type text struct{ content.Body }

func (t text) shows(h *maphash.Hash) {
	words(h, "text", t.Exercise)
	words(h, t.Text...)
	words(h, t.Remember...)
}

// outline is the list beside a lesson.
type outline struct {
	Course  string // slug
	Lessons []listed
}

func (o outline) shows(h *maphash.Hash) {
	words(h, "outline", o.Course)
	for _, l := range o.Lessons {
		words(h, l.Title)
		number(h, l.N, bit(l.Done)|bit(l.Here)<<1|bit(l.Open)<<2)
	}
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// words tells apart what strings are, how long, and how many: "a", "b" is not "ab".
func words(h *maphash.Hash, all ...string) {
	number(h, len(all))
	for _, s := range all {
		number(h, len(s))
		h.WriteString(s)
	}
}

func number(h *maphash.Hash, all ...int) {
	for _, n := range all {
		for range 4 {
			h.WriteByte(byte(n))
			n >>= 8
		}
	}
}

// kept keeps pieces by what they show.
type kept struct {
	seed maphash.Seed
	mu   sync.RWMutex
	of   map[uint64]template.HTML
}

// maxKept bounds it: at most 10 kB each.
const maxKept = 4000

func newKept() *kept { return &kept{seed: maphash.MakeSeed(), of: map[uint64]template.HTML{}} }

func (k *kept) get(p part, draw func() (template.HTML, error)) (template.HTML, error) {
	var h maphash.Hash
	h.SetSeed(k.seed)
	p.shows(&h)
	key := h.Sum64()
	k.mu.RLock()
	drawn, ok := k.of[key]
	k.mu.RUnlock()
	if ok {
		return drawn, nil
	}
	drawn, err := draw()
	if err != nil {
		return "", err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.of) >= maxKept {
		clear(k.of)
	}
	k.of[key] = drawn
	return drawn, nil
}

// draw returns a piece as the template of that name draws it.
func (v *views) draw(name string, p part) (template.HTML, error) {
	return v.kept.get(p, func() (template.HTML, error) {
		var b strings.Builder
		err := v.parts.ExecuteTemplate(&b, name, p)
		return template.HTML(b.String()), err
	})
}

// cards draws courses side by side.
func (v *views) cards(all []card) (template.HTML, error) {
	var b strings.Builder
	b.WriteString(`<div class="cards">`)
	for _, c := range all {
		drawn, err := v.draw("card", c)
		if err != nil {
			return "", err
		}
		b.WriteString(string(drawn))
	}
	b.WriteString(`</div>`)
	return template.HTML(b.String()), nil
}

// picture is the cover of a course.
type picture struct{ topic, slug string }

func (p picture) shows(h *maphash.Hash) { words(h, "cover", p.topic, p.slug) }

func (v *views) cover(topic, slug string) (template.HTML, error) {
	return v.kept.get(picture{topic, slug}, func() (template.HTML, error) { return cover(topic, slug), nil })
}
