// Package console is the web console: the built files of web/, which are public, and a way for them, and for nobody else,
// to the control plane's API.
//
// A browser runs pages of other sites beside this one, so that being reachable is no permission. A request is only heard
// under a name that no stranger can give to this machine (Host), only from pages that the console itself has served
// (Origin), and only with two proofs that came from the key: a cookie, which scripts cannot read, and a header, which
// other ports of the same host never get to see. The API's paths are those that the console needs, and no more.
package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"

	"trellis/errdefs"
)

// Config is what a console is made of.
type Config struct {
	// API is the control plane's API, which checks no identity itself.
	API http.Handler
	// Key is what lets a browser in; at least 32 characters. Sessions are derived from it, so that they outlive a restart
	// and end with another key.
	Key string
	// Project and Actor are told to whoever is let in. What the console changes, it changes in Actor's name.
	Project string
	Actor   string
	Log     *slog.Logger
}

func (c Config) validate() error {
	if c.API == nil || len(c.Key) < 32 || c.Log == nil {
		return fmt.Errorf("console: %w: needs an API, a key of at least 32 characters and a log", errdefs.ErrInvalid)
	}
	return nil
}

// maxBody bounds what a browser may send: instructions of a few hundred bytes.
const maxBody = 64 << 10

// New returns the handler of a console. It is safe for concurrent use; streams end with the request's context.
func New(cfg Config) (http.Handler, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	files, err := loadFiles()
	if err != nil {
		return nil, err
	}
	c := &console{cfg: cfg, files: files, sessions: sessions{key: []byte(cfg.Key)}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", c.file)
	mux.HandleFunc("POST /session", c.signIn)
	mux.HandleFunc("GET /session", c.admitted(c.describe))
	mux.HandleFunc("DELETE /session", c.admitted(c.signOut))
	for _, path := range []string{
		"status", "routes", "top", "deployments", "changes", "graph", "traces", "traces/{id}", "metrics", "alerts", "why/{service}",
	} {
		mux.HandleFunc("GET /v1/"+path, c.admitted(cfg.API.ServeHTTP))
	}
	for _, path := range []string{"rollback", "rollout", "override", "silences"} {
		mux.HandleFunc("POST /v1/"+path, c.admitted(c.act))
	}
	mux.HandleFunc("DELETE /v1/silences/{id}", c.admitted(cfg.API.ServeHTTP))
	mux.HandleFunc("GET /live", c.admitted(c.live))
	mux.HandleFunc("GET /live/logs", c.admitted(c.liveLogs))
	return c.guard(mux), nil
}

type console struct {
	cfg      Config
	files    map[string]*asset
	sessions sessions
	tickets  tickets
}

// policy is what a page of the console may do: load its own files, ask its own origin, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
	"manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// guard answers only requests that were meant for a console, and says with every answer what browsers may do with it.
func (c *console) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		switch {
		case !knownHost(r.Host):
			refuse(w, http.StatusMisdirectedRequest, "the console answers under localhost and addresses only, not as "+r.Host)
		case !sameOrigin(r):
			refuse(w, http.StatusForbidden, "the request comes from a page of another origin")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// knownHost says whether a Host header names this machine in a way that no other site's name can: by address, or by a
// name that every browser keeps on this machine (RFC 6761, 6.3). A name of somebody's own may be made to lead here.
func knownHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	return net.ParseIP(host) != nil || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// sameOrigin says whether r may come from a page of the console: browsers say so of whatever can change something, and
// mark what other sites embed.
func sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" && r.Header.Get("Sec-Fetch-Mode") != "navigate" {
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return r.Method == http.MethodGet || r.Method == http.MethodHead
	}
	return strings.EqualFold(origin, "http://"+r.Host)
}

// act passes an instruction on, in the name of whoever runs the control plane.
func (c *console) act(w http.ResponseWriter, r *http.Request) {
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "an instruction is sent as application/json")
		return
	}
	instruction := map[string]any{}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	if err := dec.Decode(&instruction); err != nil {
		refuse(w, http.StatusBadRequest, "the instruction cannot be read: "+err.Error())
		return
	}
	if instruction == nil { // null is decoded to no map at all
		refuse(w, http.StatusBadRequest, "an instruction is a JSON object")
		return
	}
	instruction["actor"] = c.cfg.Actor
	body, err := json.Marshal(instruction)
	if err != nil {
		refuse(w, http.StatusBadRequest, "the instruction cannot be passed on: "+err.Error())
		return
	}
	c.cfg.Log.Info("console asked for a change", "path", r.URL.Path, "instruction", string(body))
	r = r.Clone(r.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	c.cfg.API.ServeHTTP(w, r)
}

// refuse answers as the API does.
func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"kind": "refused", "message": message})
}
