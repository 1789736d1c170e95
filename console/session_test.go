package console

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestTicketLetsInOnce: and not when its minute is over, nor with another key, nor as anything else that the key has signed.
func TestTicketLetsInOnce(t *testing.T) {
	s := sessions{[]byte(strings.Repeat("k", 32))}
	now := time.Now()
	var used tickets
	first, second := Ticket(string(s.key)), Ticket(string(s.key))
	for _, step := range []struct {
		what, ticket string
		at           time.Time
		want         bool
	}{
		{"nothing", "", now, false},
		{"one of another key", Ticket(strings.Repeat("x", 32)), now, false},
		{"one with another nonce", "A" + first, now, false},
		{"a cookie's proof", s.proof("cookie", now.Add(time.Hour)), now, false},
		{"the first", first, now, true},
		{"the first again", first, now.Add(time.Second), false},
		{"the second", second, now.Add(2 * time.Second), true},
		{"the second, a minute later", second, now.Add(ticketLife), false},
		{"a third, too late", Ticket(string(s.key)), now.Add(ticketLife + time.Second), false},
	} {
		if got := used.take(s, step.ticket, step.at); got != step.want {
			t.Errorf("%s: %v, want %v", step.what, got, step.want)
		}
	}
	fourth := sessions{s.key}.proof("ticket n", now.Add(3*ticketLife))
	used.take(s, "n-"+strings.Replace(fourth, ".", "-", 1), now.Add(2*ticketLife))
	if len(used.used) != 1 {
		t.Errorf("%d tickets are remembered that are over", len(used.used)-1)
	}
}

// TestThePageTakesATicket: what the browser is opened with is what the page looks for behind the #, so that nobody has to type it.
func TestThePageTakesATicket(t *testing.T) {
	source, err := os.ReadFile("../web/src/session.ts")
	if err != nil {
		t.Fatal(err)
	}
	looks := regexp.MustCompile(`/(\^#key=.*\$)/\.exec\(location\.hash\)`).FindSubmatch(source)
	if looks == nil {
		t.Fatal("the page does not look for a key behind the # as it did")
	}
	key := strings.Repeat("K", 52)
	for what, given := range map[string]string{"the key": key, "a ticket": Ticket(key)} {
		found := regexp.MustCompile(string(looks[1])).FindStringSubmatch("#key=" + given)
		if found == nil || found[1] != given {
			t.Errorf("%s %q: the page finds %q", what, given, found)
		}
	}
}
