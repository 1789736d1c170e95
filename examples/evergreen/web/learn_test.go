package web

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	free = "/courses/working-with-watercolour"
	paid = "/courses/watercolour-in-depth" // €77
)

// pay sends the form of the page a.
func (b *browser) pay(a answer, number string) answer {
	b.t.Helper()
	return b.post(paid+"/pay", "key", a.key(b.t), "number", number, "expiry", "12/99", "code", "123")
}

func TestAPaidCourse(t *testing.T) {
	b := newWorld(t).browser(t)
	b.join()
	b.get(paid).want(t, 200, "€77", "You pay on the next page")
	form := b.post(paid+"/enrol", "key", b.get(paid).key(t))
	form.want(t, 200, "Pay for your seat", "€77", "for another 15 minutes")
	b.get(paid).want(t, 200, "A seat is kept for you", "Give the seat back")
	b.get(paid+"/lessons/2").want(t, 409, "You have no seat in this course")

	wrong := b.pay(form, "4242 4242 4242 4241")
	wrong.want(t, 422, "not the number of a card", `aria-invalid`)
	declined := b.pay(wrong, "4000 0000 0000 0002")
	declined.want(t, 402, "Your bank has declined the payment", "try another card")
	if declined.key(t) == wrong.key(t) {
		t.Error("another card under the same key")
	}
	done := b.pay(declined, "4242 4242 4242 4242")
	done.want(t, 200, "Your payment has arrived", "Start the first lesson")
	if strings.Contains(done.body, "Leave this course") {
		t.Error("a seat that was paid for can be left")
	}
	b.post(paid+"/leave").want(t, 409, "This seat has been paid for")
	b.pay(declined, "4242 4242 4242 4242").want(t, 200, "Your payment has arrived")
	b.get(paid+"/pay").want(t, 200, "You have a seat")
}

func TestASeatThatIsNotPaidGoesBack(t *testing.T) {
	b := newWorld(t).browser(t)
	b.join()
	form := b.post(paid + "/enrol")
	b.post(paid+"/leave").want(t, 200, "You have left this course", "Take a seat")
	b.get(paid+"/pay").want(t, 409, "You have no seat in this course")
	b.pay(form, "4242 4242 4242 4242").want(t, 409, "You have no seat in this course")
}

func TestAPaymentWhoseOutcomeIsUnknownIsNotMadeTwice(t *testing.T) {
	w := newWorld(t)
	b := w.browser(t)
	b.join()
	form := b.post(paid + "/enrol")
	w.payments.away.Store(true)
	again := b.pay(form, "4242 4242 4242 4242")
	again.want(t, 503, "you will not pay twice")
	if again.key(t) != form.key(t) {
		t.Error("the form has another key")
	}
	w.payments.away.Store(false)
	b.pay(again, "4000 0000 0000 0119").want(t, 200, "Your payment has arrived") // whose first answer is lost
}

func TestStudying(t *testing.T) {
	w := newWorld(t)
	b := w.browser(t)
	b.get(free+"/lessons/1").want(t, 200, "Take a seat to go on", "Your turn")
	b.get(free+"/lessons/2").want(t, 200, "Welcome back")
	b.join()
	b.get(free+"/lessons/2").want(t, 409, "You have no seat")
	b.post(free+"/enrol").want(t, 200, "Start the first lesson")
	lesson := b.get(free + "/learn")
	lesson.want(t, 200, "Lesson 1 of", "Done, on to the next one")
	total := regexp.MustCompile(`Lesson 1 of (\d+)`).FindStringSubmatch(lesson.body)[1]
	for n := 2; strings.Contains(lesson.body, "on to the next one"); n++ {
		lesson = b.post(lesson.path)
		if lesson.status != 200 || n > 100 {
			t.Fatalf("%d %s", lesson.status, lesson.path)
		}
	}
	lesson.want(t, 200, "Lesson "+total+" of "+total)
	b.post(lesson.path).want(t, 200, "You have completed this course", "Your certificate")
	b.get(free+"/certificate.svg").want(t, 200, "<svg>Ada Lovelace</svg>")
	b.get(free+"/lessons/99").want(t, 404, "There is no such lesson")
	b.get("/my-courses").want(t, 200, "Completed", "What goes with it", "Everyday Go")
}

func TestTheInboxShowsANoticeAsNewOnce(t *testing.T) {
	w := newWorld(t)
	b := w.browser(t)
	b.join()
	b.get("/inbox").want(t, 200, "Nothing yet")
	b.post(free + "/enrol")
	deadline := time.Now().Add(10 * time.Second)
	box := b.get("/inbox")
	for !strings.Contains(box.body, "You have a seat in Working with Watercolour") {
		if time.Now().After(deadline) {
			t.Fatalf("the notice never came:\n%s", box.body)
		}
		box = b.get("/inbox")
	}
	box.want(t, 200, `class="new"`)
	again := b.get("/inbox")
	again.want(t, 200, "You have a seat in Working with Watercolour")
	if strings.Contains(again.body, `class="new"`) || strings.Count(again.body, "You have a seat in") != 1 {
		t.Errorf("shown again:\n%s", again.body)
	}
}

func TestTheBrowserKeepsTheNumberOfNewNotices(t *testing.T) {
	w := newWorld(t)
	b := w.browser(t)
	b.join()
	asked := func(path, want string) int64 {
		t.Helper()
		before := w.notifications.calls.Load()
		page := b.get(path)
		page.want(t, 200)
		if got := strings.Contains(page.body, `class="news"`); got != (want != "") || !strings.Contains(page.body, want) {
			t.Errorf("%s tells of news: %v, want %q", path, got, want)
		}
		return w.notifications.calls.Load() - before
	}
	base, _ := url.Parse(w.url)
	set := func(value string) {
		b.http.Jar.SetCookies(base, []*http.Cookie{{Name: newsCookie, Value: value, Path: "/"}})
	}
	asked("/courses", "")
	if n := asked("/courses", ""); n != 0 {
		t.Errorf("notifications were asked %d times although the browser knows", n)
	}
	set("3")
	if n := asked("/courses", `class="news">3<`); n != 0 {
		t.Errorf("notifications were asked %d times although the browser knows", n)
	}
	set("<b>")
	if n := asked("/courses", ""); n != 1 {
		t.Errorf("what is no number is believed: asked %d times", n)
	}
	set("3")
	b.post("/sign-up", "name", "Eve", "email", "eve@example.org", "password", "another sentence")
	if n := asked("/courses", ""); n != 0 { // asked by the page that the sign-up led to
		t.Errorf("notifications were asked %d times", n)
	}
	set("3")
	b.post("/sign-out").want(t, 200, "Sign in")
	for _, c := range b.http.Jar.Cookies(base) {
		t.Errorf("cookie %s is left after the sign-out", c.Name)
	}
}

func TestTheFirstLessonOutlivesContent(t *testing.T) {
	w := newWorld(t)
	b := w.browser(t)
	b.get(free+"/lessons/1").want(t, 200, "Your turn")
	w.content.away.Store(true)
	b.get(free+"/lessons/1").want(t, 200, "Your turn", "Take a seat to go on")
	b.get(paid+"/lessons/1").want(t, 503, "One moment, please")
}

// TestDecorationMayBeAway takes away what a learner can do without, each alone, and looks at every page.
func TestDecorationMayBeAway(t *testing.T) {
	w := newWorld(t)
	b := w.browser(t)
	b.join()
	b.post(free + "/enrol")
	for name, n := range map[string]*near{"progress": w.progress, "notifications": w.notifications, "recommendations": w.recommendations,
		"certificates": w.certificates, "payments": w.payments} {
		t.Run(name, func(t *testing.T) {
			n.away.Store(true)
			defer n.away.Store(false)
			for _, path := range []string{"/", "/courses", free, paid, free + "/lessons/2", "/my-courses"} {
				b.get(path).want(t, 200)
			}
		})
	}
	w.progress.away.Store(true)
	b.get("/my-courses").want(t, 200, "Your progress cannot be shown right now")
	b.get(free+"/lessons/2").want(t, 200, "Your progress cannot be shown right now", "Your turn")
	w.content.away.Store(true)
	b.get(free).want(t, 200, "Week by week")
	b.get(free+"/lessons/2").want(t, 503, "One moment, please")
	w.notifications.away.Store(true)
	b.get("/inbox").want(t, 503, "One moment, please")
}

func TestWhatManyAskIsAskedOnce(t *testing.T) {
	w := newWorldFresh(t, time.Minute)
	w.browser(t).get("/").want(t, 200)
	if n := strings.Count(w.browser(t).get("/courses").body, "<article"); n != 12 {
		t.Errorf("%d courses on a page", n)
	}
	for range 5 {
		w.browser(t).get("/courses").want(t, 200)
		w.browser(t).get(free).want(t, 200)
	}
	if n := w.catalog.calls.Load(); n != 5 { // topics, what home shows, the list, the course, what is like it
		t.Errorf("the catalogue was asked %d times", n)
	}
}
