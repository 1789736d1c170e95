package proxy

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// TestH2spec: every case of h2spec, those of its strict mode too, over TLS and without it. Without, the port speaks HTTP/1.1
// as well, and to what is neither says so in the older one's words.
func TestH2spec(t *testing.T) {
	s := newSecureRig(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "hello")
	})
	s.issue(time.Now(), "shop.localhost")
	plain := s.listen(Listener{Name: "gateway", Protocol: HTTP1})
	s.push()
	for _, one := range []struct {
		name, addr string
		but        string // the case that does not hold
	}{{"TLS", s.secure, ""}, {"plain", plain, "http2/3.5/2"}} {
		host, text, err := net.SplitHostPort(one.addr)
		if err != nil {
			t.Fatal(err)
		}
		port, _ := strconv.Atoi(text)
		c := &config.Config{
			Host: host, Port: port, Path: "/", Timeout: 5 * time.Second, MaxHeaderLen: 4000, Strict: true, TLS: one.name == "TLS", Insecure: true,
		}
		c.RunMode("") // makes what every case would make, all at once
		t.Run(one.name, func(t *testing.T) {
			n := 0
			for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
				n += runSpec(t, c, group, one.but)
			}
			if n < 145 {
				t.Errorf("%d cases only", n)
			}
		})
	}
}

// runSpec runs the cases of a group, side by side, and returns how many there are.
func runSpec(t *testing.T, c *config.Config, group *spec.TestGroup, but string) (n int) {
	for i, one := range append(group.Tests, group.StrictTests...) {
		n++
		name := group.ID() + "/" + strconv.Itoa(i+1)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := spec.Dial(c)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			err = one.Run(c, conn)
			switch {
			case name == but && err == nil:
				t.Errorf("%s holds now", name)
			case name != but && err != nil:
				t.Errorf("%s\n%s\n%v", one.Desc, one.Requirement, err)
			}
		})
	}
	for _, g := range group.Groups {
		n += runSpec(t, c, g, but)
	}
	return n
}
