package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// hinted is an instance that sends two informational answers, and the answer itself when it is told to go on.
func hinted(t *testing.T, goOn <-chan bool) string {
	return rawServer(t, func(c net.Conn) {
		if head, _ := readHead(c); head == "" {
			return // somebody looked whether it is there
		}
		io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 7\r\n\r\n")
		io.WriteString(c, "HTTP/1.1 199 \r\nX-Progress: half\r\n\r\n")
		<-goOn
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwhole")
	})
}

// TestInformationalAnswers go to the client as they come, before the answer itself is there, without what is for one connection alone.
func TestInformationalAnswers(t *testing.T) {
	t.Parallel()
	goOn := make(chan bool)
	s := newSecureRig(t, nil)
	s.issue(time.Now(), "shop.localhost")
	s.snap.Services[0].Instances = []Instance{instanceAt("app-1", hinted(t, goOn))}
	s.push()
	for name, c := range map[string]*http.Client{"HTTP/1.1": s.client(false), "HTTP/2": s.client(true)} {
		came := make(chan string, 10)
		trace := &httptrace.ClientTrace{Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
			came <- fmt.Sprint(status, " ", http.Header(h))
			return nil
		}}
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, "https://"+s.secure+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		answered := make(chan string)
		go func() {
			res, err := c.Do(req)
			if err != nil {
				answered <- err.Error()
				return
			}
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			answered <- fmt.Sprint(res.StatusCode, " ", string(b), res.Header["Link"])
		}()
		for _, want := range []string{"103 map[Link:[</a.css>; rel=preload]]", "199 map[X-Progress:[half]]"} {
			select {
			case got := <-came:
				if got != want {
					t.Errorf("%s: got %s, want %s", name, got, want)
				}
			case got := <-answered:
				t.Fatalf("%s: %s before %s", name, got, want)
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: %s did not come", name, want)
			}
		}
		goOn <- true
		if got := <-answered; got != "200 whole[]" || len(came) > 0 {
			t.Errorf("%s: answered %s, and %d more informational ones", name, got, len(came))
		}
	}
}

// TestNoInformationalAnswers over HTTP/1.0, which has none.
func TestNoInformationalAnswers(t *testing.T) {
	t.Parallel()
	goOn := make(chan bool, 1)
	goOn <- true
	r := newRig(t, Config{})
	conn, err := net.Dial("tcp", r.gateway(instanceAt("app-1", hinted(t, goOn))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, "GET / HTTP/1.0\r\nHost: a\r\n\r\n")
	br := bufio.NewReader(conn)
	line, err := br.ReadString('\n')
	if rest, _ := io.ReadAll(br); !strings.HasPrefix(line, "HTTP/1.0 200") || !strings.HasSuffix(string(rest), "whole") {
		t.Errorf("%q %q, %v", line, rest, err)
	}
}
