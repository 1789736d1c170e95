package console

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"sync"
	"time"
)

// beat is the pause between two comments on a quiet stream, which tell both sides that the other is there.
const beat = 15 * time.Second

// live sends what changes as server-sent events, all on one connection, because a browser has six for each host: "status"
// is the project as it is now, "event" one event, "traffic" the newest steps of traffic. Its data are the API's frames.
func (c *console) live(w http.ResponseWriter, r *http.Request) {
	c.stream(w, r, map[string]string{
		"status":  "/v1/watch",
		"event":   "/v1/events?follow=true&limit=500",
		"traffic": "/v1/traffic",
	})
}

// liveLogs sends the output of instances as events named "log".
func (c *console) liveLogs(w http.ResponseWriter, r *http.Request) {
	c.stream(w, r, map[string]string{"log": "/v1/logs?" + r.URL.RawQuery})
}

// stream answers with the lines of several streams of the API, each under its name, until one of them ends. One that the API
// cuts off panics, and the answer is cut off with it: only the goroutine of a request may panic.
func (c *console) stream(w http.ResponseWriter, r *http.Request, paths map[string]string) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := &events{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	if out.send([]byte(": connected\n\n")) != nil {
		return
	}
	var running sync.WaitGroup
	cut := make(chan any, len(paths))
	for name, path := range paths {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
		if err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		running.Go(func() {
			defer cancel()
			defer func() {
				if why := recover(); why != nil {
					cut <- traced(why)
				}
			}()
			lines := &lineEvents{out: out, name: name, header: http.Header{}, status: http.StatusOK}
			c.cfg.API.ServeHTTP(lines, req)
			lines.end()
		})
	}
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			if out.send([]byte(": beat\n\n")) != nil {
				cancel()
			}
		}
	}
	running.Wait()
	select {
	case why := <-cut:
		panic(why)
	default:
	}
}

// traced is what a goroutine panicked with, and where, unless it meant to.
func traced(why any) any {
	if why == http.ErrAbortHandler {
		return why
	}
	return fmt.Sprintf("%v\n%s", why, debug.Stack())
}

// events writes to one stream from several goroutines.
type events struct {
	mu      sync.Mutex
	w       http.ResponseWriter
	control *http.ResponseController
}

func (e *events) send(b []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = e.control.SetWriteDeadline(time.Now().Add(4 * beat)) // a browser that takes nothing for so long is gone
	if _, err := e.w.Write(b); err != nil {
		return err
	}
	return e.control.Flush()
}

// lineEvents is the answer of the API to one of its streams: each line of it becomes an event. It is used by one goroutine.
type lineEvents struct {
	out    *events
	name   string
	header http.Header
	status int
	part   []byte // of a line that is not complete
}

// Header implements http.ResponseWriter.
func (l *lineEvents) Header() http.Header { return l.header }

// WriteHeader implements http.ResponseWriter.
func (l *lineEvents) WriteHeader(status int) { l.status = status }

// Flush implements http.Flusher: every write is sent at once.
func (l *lineEvents) Flush() {}

// Write implements http.ResponseWriter.
func (l *lineEvents) Write(p []byte) (int, error) {
	end := bytes.LastIndexByte(p, '\n')
	if end < 0 {
		l.part = append(l.part, p...)
		return len(p), nil
	}
	whole := append(l.part, p[:end]...)
	l.part = append([]byte(nil), p[end+1:]...)
	if err := l.out.send(l.framed(whole)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// framed makes an event of each line; an answer that is an error becomes one named "error".
func (l *lineEvents) framed(lines []byte) []byte {
	name := l.name
	if l.status != http.StatusOK {
		name = "error"
	}
	var b bytes.Buffer
	for line := range bytes.SplitSeq(lines, []byte("\n")) {
		b.WriteString("event: " + name + "\ndata: ")
		b.Write(bytes.ReplaceAll(line, []byte("\r"), nil)) // which would end the line; JSON never holds one in clear
		b.WriteString("\n\n")
	}
	return b.Bytes()
}

// end sends what is left.
func (l *lineEvents) end() {
	if len(l.part) > 0 {
		_ = l.out.send(l.framed(l.part))
	}
}
