package proxy

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestWhatHTTP2DoesNotCarry: a request of which the transport to an instance over HTTP/2 makes nothing is the client's fault. The
// instance, which has not seen it, is not taken for broken: after as many as it takes for that everybody else is answered by it.
func TestWhatHTTP2DoesNotCarry(t *testing.T) {
	for name, c := range map[string]struct {
		field, sent string // the trailer that is sent
		want        string
	}{
		"Content-Length announced as a trailer": {"Trailer: Content-Length", "", "200 [] whole"},
		"Transfer-Encoding likewise":            {"Trailer: transfer-encoding", "", "200 [] whole"},
		"no field's name":                       {"Trailer: a b", "", "200 [] whole"},
		"one among others":                      {"Trailer: Trailer, X-Sum, x y", "X-Sum: 7\r\n", "200 [7] whole"},
		"more than the instance takes":          {"X-Large: " + strings.Repeat("x", 10<<10), "", "431"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var p http.Protocols
			p.SetUnencryptedHTTP2(true)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Protocols: &p, MaxHeaderBytes: 4 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				fmt.Fprint(w, r.Trailer["X-Sum"], " ", string(b))
			})}
			go srv.Serve(ln)
			t.Cleanup(func() { srv.Close() })
			r := newRig(t, Config{})
			r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", ln.Addr().String())}, HTTP2: []int{80}}}
			r.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
			addr := r.listen(Listener{Name: "gateway", Protocol: HTTP1})
			r.push()
			ask := func(field, trailer string) string {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n%s\r\n\r\n5\r\nwhole\r\n0\r\n%s\r\n", field, trailer)
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				text := body(t, res, err)
				if res.StatusCode != 200 {
					return fmt.Sprint(res.StatusCode)
				}
				return fmt.Sprint(res.StatusCode, " ", text)
			}
			for i := range breaksToEject + 1 {
				if got := ask("Trailer: X-Sum", "X-Sum: 1\r\n"); got != "200 [1] whole" {
					t.Fatalf("another client after %d of them: %s", i, got)
				}
				if got := ask(c.field, c.sent); got != c.want {
					t.Errorf("%s, want %s", got, c.want)
				}
			}
			if broken := r.proxy.table.Load().services["app"].instances["app-1"].tally.failed.Load(); broken > 0 {
				t.Errorf("%d times the instance was to blame", broken)
			}
		})
	}
}
