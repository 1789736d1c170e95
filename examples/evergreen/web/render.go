package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strings"

	"evergreen/catalog"
)

//go:embed templates/*.html static/*
var files embed.FS

// view is what every template gets.
type view struct {
	Title  string
	Path   string
	Search string // what stands in the search field
	User   *visitor
	News   int // notices that the visitor has not seen
	Notice string
	Good   bool // whether Notice is good news
	Data   any
}

// views are the parsed templates and the files beside them.
type views struct {
	pages  map[string]*template.Template
	assets map[string]asset // by address
	style  string           // address of the style sheet
	one    *template.Template
	cards  *kept
}

type asset struct {
	kind string
	body []byte
	keep bool // its address changes with its content
}

func newViews() (*views, error) {
	v := &views{pages: map[string]*template.Template{}, assets: map[string]asset{}, cards: &kept{of: map[string]template.HTML{}}}
	if err := v.load(); err != nil {
		return nil, err
	}
	base, err := template.New("").Funcs(template.FuncMap{
		"cover": (&kept{of: map[string]template.HTML{}}).cover, "card": v.card, "style": func() string { return v.style }, "fields": fields, "count": count, "topic": catalog.TopicName,
		"listing": func(topic, level, text string) string {
			return searchURL(catalog.Query{Topic: topic, Level: level, Text: text})
		},
		"capital": func(s string) string { return strings.ToUpper(s[:min(1, len(s))]) + s[min(1, len(s)):] },
		"add":     func(a, b int) int { return a + b },
		"euro":    euro,
	}).ParseFS(files, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return nil, fmt.Errorf("parse templates: %w", err)
	}
	v.one = base.Lookup("card")
	for _, name := range []string{"home", "courses", "course", "lesson", "pay", "mine", "inbox", "sign-in", "sign-up",
		"sorry"} {
		page, err := base.Clone()
		if err == nil {
			page, err = page.ParseFS(files, "templates/"+name+".html")
		}
		if err != nil {
			return nil, fmt.Errorf("parse templates: %w", err)
		}
		v.pages[name] = page
	}
	return v, nil
}

func (v *views) load() error {
	kinds := map[string]string{".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
	entries, err := fs.ReadDir(files, "static")
	if err != nil {
		return fmt.Errorf("read static files: %w", err)
	}
	for _, e := range entries {
		body, err := files.ReadFile("static/" + e.Name())
		if err != nil {
			return fmt.Errorf("read static files: %w", err)
		}
		name, ext, _ := strings.Cut(e.Name(), ".")
		a := asset{kind: kinds["."+ext], body: body}
		if ext == "css" {
			sum := sha256.Sum256(body)
			v.style, a.keep = "/static/"+name+"."+hex.EncodeToString(sum[:6])+".css", true
			v.assets[v.style] = a
			a.keep = false
		}
		v.assets["/static/"+e.Name()] = a
	}
	return nil
}

// static serves the files. While a release replaces another, a page of one may ask the other for its style sheet: the
// name without the hash is what any release answers with then.
func (v *views) static() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := v.assets[r.URL.Path]
		if !ok && strings.HasPrefix(r.URL.Path, "/static/style.") {
			a, ok = v.assets["/static/style.css"]
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", a.kind)
		w.Header().Set("Cache-Control", "public, max-age=300")
		if a.keep {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		w.Write(a.body)
	})
}

// render answers with a page. Nothing is sent before all of it could be made.
func (v *views) render(w http.ResponseWriter, status int, name string, data *view) error {
	var b bytes.Buffer
	if err := v.pages[name].ExecuteTemplate(&b, "layout", data); err != nil {
		return fmt.Errorf("render %s: %w", name, err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "private, no-cache")
	}
	w.WriteHeader(status)
	w.Write(b.Bytes())
	return nil
}

// card draws a course in a list. The same course with as many seats looks the same on every page.
func (v *views) card(c card) (template.HTML, error) {
	free := -1
	if c.Seats != nil {
		free = min(c.Seats.Free(), 11) // above ten it is not told
	}
	return v.cards.get(fmt.Sprintf("%s\n%s\n%s\n%s\n%d %d %d", c.Slug, c.Title, c.Summary, c.Teacher, c.Weeks, c.Price, free), func() (template.HTML, error) {
		var b strings.Builder
		err := v.one.Execute(&b, c)
		return template.HTML(b.String()), err
	})
}

// fields makes one value of several for a template that takes one.
func fields(pairs ...any) (map[string]any, error) {
	m := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("fields: %v is no name", pairs[i])
		}
		m[name] = pairs[i+1]
	}
	return m, nil
}

// count says how many there are: "1 course", "12 courses".
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
