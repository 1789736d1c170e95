package proxy

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestEarlyAnswerLetsGoOfTheBody: an instance that answers before it has read the request over HTTP/2 does not see what the
// memory of the body holds afterwards; the race detector sees who still reads it.
func TestEarlyAnswerLetsGoOfTheBody(t *testing.T) {
	const secret = '!' // what is given back is overwritten with
	var foreign atomic.Int64
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if rand.IntN(2) == 0 {
			return
		}
		http.NewResponseController(w).EnableFullDuplex()
		http.NewResponseController(w).Flush()
		if p, _ := io.ReadAll(r.Body); bytes.IndexByte(p, secret) >= 0 {
			foreign.Add(1)
		}
	})
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}, HTTP2: []int{80}}}
	r.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
	r.push()
	var wg sync.WaitGroup
	for _, c := range []*http.Client{client(t), client(t), h2client(t)} {
		wg.Go(func() {
			for range 100 {
				res, err := c.Post("http://"+addr+"/", "text/plain", strings.NewReader(strings.Repeat("mine", 500)))
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != 200 {
					t.Errorf("%d", res.StatusCode)
				}
			}
		})
	}
	wg.Wait()
	if n := foreign.Load(); n > 0 {
		t.Errorf("%d requests carried what was not theirs", n)
	}
}
