package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"
)

// conversation is a call over HTTP/2 whose client has sent one message, and says no more.
type conversation struct {
	t    *testing.T
	came chan *http.Response // the answer's head; nil: it was broken off before
}

// converse begins a conversation, which ends with the test. Its answer has to be whole, or broken off, within 10 s: far less
// than the stall time.
func converse(t *testing.T, addr, contentType string) *conversation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	out, in := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+addr+"/", out)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	c, client := &conversation{t, make(chan *http.Response, 1)}, h2client(t)
	t.Cleanup(func() { cancel(); in.Close() })
	go func() {
		res, err := client.Do(req)
		if err != nil {
			res = nil
		}
		c.came <- res
	}()
	if _, err := io.WriteString(in, "hello"); err != nil {
		t.Fatal(err)
	}
	return c
}

// head returns the answer's head.
func (c *conversation) head() *http.Response {
	c.t.Helper()
	res := <-c.came
	if res == nil {
		c.t.Fatal("the call was broken off")
	}
	c.t.Cleanup(func() { res.Body.Close() })
	return res
}

// rest returns what comes of an answer until it ends.
func (c *conversation) rest(res *http.Response) (all string, err error) {
	c.t.Helper()
	b, err := io.ReadAll(res.Body)
	if errors.Is(err, context.DeadlineExceeded) {
		c.t.Fatalf("the answer has not ended after %q", b)
	}
	return string(b), err
}

// TestSilentClientsListen: a client that has said what it wants may be silent for as long as it likes: over gRPC from the
// beginning, else once the answer has begun.
func TestSilentClientsListen(t *testing.T) {
	t.Parallel()
	const stall = time.Second
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		if _, err := io.ReadFull(r.Body, make([]byte, 5)); err != nil {
			t.Error(err)
		}
		if r.Header.Get("Content-Type") != "application/grpc" {
			w.(http.Flusher).Flush()
		}
		time.Sleep(2 * stall)
		io.WriteString(w, "news")
	})
	for name, tc := range map[string]struct {
		contentType string
		http2       []int
	}{
		"gRPC":                {"application/grpc", nil},
		"gRPC that has begun": {"application/grpc+proto", nil},
		"to HTTP/2":           {"text/plain", []int{80}},
		"to HTTP/1":           {"text/plain", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{})
			r.proxy.front.stall = stall
			r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}, HTTP2: tc.http2}}
			addr := r.listen(Listener{Name: "app", Protocol: HTTP1, Service: "app", Port: 80})
			r.push()
			c := converse(t, addr, tc.contentType)
			if all, err := c.rest(c.head()); all != "news" || err != nil {
				t.Errorf("%q %v", all, err)
			}
		})
	}
}

// TestSilentClientsOweABody: without an answer there is no conversation yet, and a body whose length was said is owed to
// its end. Such a client is let go of.
func TestSilentClientsOweABody(t *testing.T) {
	t.Parallel()
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > 0 {
			http.NewResponseController(w).EnableFullDuplex()
			w.(http.Flusher).Flush()
		}
		io.Copy(io.Discard, r.Body)
	})
	r := newRig(t, Config{})
	r.proxy.front.stall = time.Second
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}, HTTP2: []int{80}}, {Name: "old", Instances: []Instance{instanceAt("old-1", b.addr)}}}
	for _, name := range []string{"app", "old"} {
		addr := r.listen(Listener{Name: name, Protocol: HTTP1, Service: name, Port: 80})
		r.push()
		for _, length := range []int64{-1, 100_000} {
			out, in := io.Pipe()
			req, _ := http.NewRequest("POST", "http://"+addr+"/", out)
			req.ContentLength = length
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if res, err := h2client(t).Do(req); err == nil {
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			}()
			io.WriteString(in, "hello")
			eventually(t, "begun", func() bool { return r.proxy.handlers.Load() > 0 })
			eventually(t, "let go of", func() bool { return r.proxy.handlers.Load() == 0 && r.proxy.Status().InUse[name+"-1"] == 0 })
			in.Close()
			<-ended
		}
	}
}

// TestSilentClientsHearOfTheEnd: a client that listens is told at once that its instance has died, before its answer or in
// it, that it is replaced, or that it does not want what the client says.
func TestSilentClientsHearOfTheEnd(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		begins bool                 // the answer has
		ends   func(*rig, *backend) // nil: the instance refuses
		want   func(*testing.T, *http.Response, string, error)
	}{
		"dies before its head": {false, func(_ *rig, b *backend) { b.kill() }, func(t *testing.T, res *http.Response, _ string, err error) {
			if res.StatusCode != 502 || res.Header.Get(ErrorHeader) != kindReset || err != nil {
				t.Errorf("%d %v %v", res.StatusCode, res.Header, err)
			}
		}},
		"dies": {true, func(_ *rig, b *backend) { b.kill() }, func(t *testing.T, res *http.Response, all string, err error) {
			if res.StatusCode != 200 || all != "news" || err == nil {
				t.Errorf("%d %q %v", res.StatusCode, all, err)
			}
		}},
		"is replaced": {true, func(r *rig, _ *backend) {
			inst := &r.snap.Services[0].Instances[0]
			inst.Draining, inst.DrainBy = true, time.Now()
			r.push()
		}, func(t *testing.T, res *http.Response, all string, err error) {
			if all != "news" || err != nil || res.Trailer.Get("Grpc-Status") != "14" {
				t.Errorf("%q %v %v", all, err, res.Trailer)
			}
		}},
		"refuses": {true, nil, func(t *testing.T, res *http.Response, all string, err error) {
			if res.StatusCode != 403 || all != "newsno more" || err != nil {
				t.Errorf("%d %q %v", res.StatusCode, all, err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			heard := make(chan struct{})
			b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
				io.ReadFull(r.Body, make([]byte, 5))
				if tc.ends == nil {
					w.WriteHeader(403)
				}
				if tc.begins {
					io.WriteString(w, "news")
					w.(http.Flusher).Flush()
				}
				close(heard)
				if tc.ends == nil {
					time.Sleep(50 * time.Millisecond)
					io.WriteString(w, "no more")
					return
				}
				<-r.Context().Done()
			})
			r := newRig(t, Config{})
			addr := r.gateway(instanceAt("app-1", b.addr))
			c := converse(t, addr, "application/grpc")
			<-heard
			if !tc.begins {
				tc.ends(r, b)
			}
			res, all := c.head(), ""
			if tc.begins && tc.ends != nil {
				news := make([]byte, 4)
				n, _ := io.ReadFull(res.Body, news)
				all = string(news[:n])
				tc.ends(r, b)
			}
			more, err := c.rest(res)
			tc.want(t, res, all+more, err)
			eventually(t, "released", func() bool { return r.proxy.Status().InUse["app-1"] == 0 })
		})
	}
}
