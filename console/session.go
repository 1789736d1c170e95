package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sessionLife is how long a browser stays signed in.
const sessionLife = 30 * 24 * time.Hour

// pageHeader carries the proof that a page of the console sends with each request.
const pageHeader = "X-Trellis-Page"

// sessions makes and checks the two proofs of a session, "EXPIRY.MAC". Nothing is kept.
type sessions struct{ key []byte }

func (s sessions) proof(purpose string, ends time.Time) string {
	text := strconv.FormatInt(ends.Unix(), 10)
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(purpose + " " + text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func (s sessions) valid(purpose, proof string, now time.Time) bool {
	text, _, ok := strings.Cut(proof, ".")
	ends, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil || now.Unix() >= ends {
		return false
	}
	return hmac.Equal([]byte(proof), []byte(s.proof(purpose, time.Unix(ends, 0))))
}

// ticketLife is how long a ticket lets a browser in: it has to start within that time.
const ticketLife = time.Minute

// Ticket returns what lets one browser in where key would, once, within a minute: it may stand where others on the machine can read it, as
// the arguments of a process that opens a browser do. It is "NONCE-EXPIRY-MAC": the page takes for a key what has only the characters
// that a key has, and a proof's dot is none of them.
func Ticket(key string) string {
	nonce := rand.Text()
	return nonce + "-" + strings.Replace(sessions{[]byte(key)}.proof("ticket "+nonce, time.Now().Add(ticketLife)), ".", "-", 1)
}

// tickets are those that were used and would still be valid, by when they end. The zero value is none.
type tickets struct {
	mu   sync.Mutex
	used map[string]time.Time
}

// take says whether a ticket is valid, and makes it no more so.
func (t *tickets) take(s sessions, ticket string, now time.Time) bool {
	nonce, proof, _ := strings.Cut(ticket, "-")
	if !s.valid("ticket "+nonce, strings.Replace(proof, "-", ".", 1), now) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.used, func(_ string, ends time.Time) bool { return now.After(ends) })
	if _, again := t.used[nonce]; again {
		return false
	}
	if t.used == nil {
		t.used = map[string]time.Time{}
	}
	t.used[nonce] = now.Add(ticketLife)
	return true
}

// cookieName differs by port, because the consoles of several projects share the cookies of a host.
func cookieName(host string) string {
	_, port, err := net.SplitHostPort(host)
	if err != nil {
		port = "80"
	}
	return "trellis-" + port
}

// admitted serves only those who hold both proofs.
func (c *console) admitted(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		now := time.Now()
		cookie, err := r.Cookie(cookieName(r.Host))
		if err != nil || !c.sessions.valid("cookie", cookie.Value, now) || !c.sessions.valid("page", r.Header.Get(pageHeader), now) {
			refuse(w, http.StatusUnauthorized, "not signed in; `trellis console` prints the address that signs in")
			return
		}
		next(w, r)
	}
}

// signIn trades the key, or a ticket, for the two proofs.
func (c *console) signIn(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Key string `json:"key"`
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&in)
	key := strings.TrimSpace(in.Key)
	if err != nil || subtle.ConstantTimeCompare([]byte(key), []byte(c.cfg.Key)) != 1 && !c.tickets.take(c.sessions, key, time.Now()) {
		refuse(w, http.StatusUnauthorized, "this is not the console's key; `trellis console` prints it")
		return
	}
	ends := time.Now().Add(sessionLife)
	setCookie(w, r, c.sessions.proof("cookie", ends), int(sessionLife/time.Second))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"page": c.sessions.proof("page", ends)})
}

func (c *console) signOut(w http.ResponseWriter, r *http.Request) {
	setCookie(w, r, "", -1)
	w.WriteHeader(http.StatusNoContent)
}

func setCookie(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName(r.Host), Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}

// describe tells a page whom it speaks for.
func (c *console) describe(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"project": c.cfg.Project, "actor": c.cfg.Actor})
}
