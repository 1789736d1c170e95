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
	"sync"

	"evergreen/catalog"
	"evergreen/content"
	"evergreen/rest"
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
	Same   part          // all that the page says below its head, where that is the same for everybody; nil: it is not
	Drawn  template.HTML // Same, drawn
}

// views are the parsed templates and the files beside them.
type views struct {
	pages   map[string]*template.Template
	assets  map[string]asset   // by address
	style   string             // address of the style sheet
	buffers sync.Pool          // that pages are made in
	parts   *template.Template // those of which pages consist
	kept    *kept
}

type asset struct {
	kind string
	body []byte
	keep bool // its address changes with its content
}

func newViews() (*views, error) {
	v := &views{pages: map[string]*template.Template{}, assets: map[string]asset{}, kept: newKept()}
	v.buffers.New = func() any { return new(bytes.Buffer) }
	if err := v.load(); err != nil {
		return nil, err
	}
	base, err := template.New("").Funcs(template.FuncMap{
		"cover": v.cover, "cards": v.cards, "style": func() string { return v.style }, "fields": fields, "count": count,
		"topic":   catalog.TopicName,
		"heading": func(c catalog.Course) (template.HTML, error) { return v.draw("heading", heading{c}) },
		"facts":   func(c catalog.Course) (template.HTML, error) { return v.draw("facts", facts{c}) },
		"about":   func(c catalog.Course) (template.HTML, error) { return v.draw("about", about{c}) },
		"text":    func(b *content.Body) (template.HTML, error) { return v.draw("text", text{*b}) },
		"outline": func(course string, lessons []listed) (template.HTML, error) {
			return v.draw("outline", outline{course, lessons})
		},
		"topics": func(all []catalog.Topic) (template.HTML, error) { return v.draw("topics", topicList{Topics: all}) },
		"choice": func(all []catalog.Topic, chosen string) (template.HTML, error) {
			return v.draw("choice", topicList{all, true, chosen})
		},
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
	if v.parts, err = base.Clone(); err != nil {
		return nil, fmt.Errorf("parse templates: %w", err)
	}
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
		w.Header().Set("Cache-Control", "public, max-age=300")
		if a.keep {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		rest.Send(w, http.StatusOK, a.kind, a.body)
	})
}

// render answers with a page. Nothing is sent before all of it could be made.
func (v *views) render(w http.ResponseWriter, status int, name string, data *view) error {
	b := v.buffers.Get().(*bytes.Buffer)
	defer v.buffers.Put(b)
	b.Reset()
	if data.Same != nil {
		var err error
		data.Drawn, err = v.kept.get(data.Same, func() (template.HTML, error) {
			var b strings.Builder
			err := v.pages[name].ExecuteTemplate(&b, "content", data)
			return template.HTML(b.String()), err
		})
		if err != nil {
			return fmt.Errorf("render %s: %w", name, err)
		}
	}
	if err := v.pages[name].ExecuteTemplate(b, "layout", data); err != nil {
		return fmt.Errorf("render %s: %w", name, err)
	}
	h := w.Header()
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "private, no-cache")
	}
	rest.Send(w, status, "text/html; charset=utf-8", b.Bytes())
	return nil
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
