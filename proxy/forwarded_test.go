package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"trellis/proxy/http1"
)

func TestTrustedProxies(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q %q", r.Header.Values("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"))
	})
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}}}
	r.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	trusting := r.listen(Listener{Name: "trusting", Protocol: HTTP1, Upgrade: 8443, Trusted: []string{"127.0.0.0/8", "10.0.0.0/8", "2001:db8::/32"}})
	plain := r.listen(Listener{Name: "plain", Protocol: HTTP1, Trusted: []string{"127.0.0.0/8", "10.0.0.0/8", "2001:db8::/32"}})
	other := r.listen(Listener{Name: "other", Protocol: HTTP1, Trusted: []string{"192.0.2.0/24"}})
	r.push()
	for _, c := range []struct {
		addr   string
		from   []string
		proto  string
		client string
		scheme string
	}{
		{other, []string{"6.6.6.6"}, "https", "127.0.0.1", "http"},
		{plain, nil, "", "127.0.0.1", "http"},
		{plain, []string{"198.51.100.7"}, "https", "198.51.100.7", "https"},
		{plain, []string{"6.6.6.6, 198.51.100.7"}, "http", "198.51.100.7", "http"},
		{plain, []string{"6.6.6.6, 198.51.100.7 ,10.1.2.3"}, "", "198.51.100.7", "http"},
		{plain, []string{"6.6.6.6", "198.51.100.7", "10.1.2.3, 2001:db8::1"}, "", "198.51.100.7", "http"},
		{plain, []string{"10.0.0.1, 10.0.0.2"}, "", "10.0.0.1", "http"},
		{plain, []string{"198.51.100.7:4711"}, "", "198.51.100.7", "http"},
		{plain, []string{"6.6.6.6, [2001:db9::7]:4711"}, "", "2001:db9::7", "http"},
		{plain, []string{"::ffff:198.51.100.7"}, "", "198.51.100.7", "http"},
		{plain, []string{"6.6.6.6, unknown, 10.0.0.2"}, "", "10.0.0.2", "http"},
		{plain, []string{"6.6.6.6,"}, "", "127.0.0.1", "http"},
		{plain, []string{"fe80::1%eth0"}, "", "127.0.0.1", "http"},
		{plain, []string{"0.0.0.0"}, "", "127.0.0.1", "http"},
		{plain, []string{"198.51.100.7"}, "gopher", "198.51.100.7", "http"},
		{plain, []string{"198.51.100.7"}, "https, http", "198.51.100.7", "http"},
	} {
		req, err := http.NewRequest("GET", "http://"+c.addr+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, from := range c.from {
			req.Header.Add("X-Forwarded-For", from)
		}
		if c.proto != "" {
			req.Header.Set("X-Forwarded-Proto", c.proto)
		}
		res, err := client(t).Do(req)
		if got, want := body(t, res, err), fmt.Sprintf("[%q] %q", c.client, c.scheme); got != want {
			t.Errorf("%q %q: %s, want %s", c.from, c.proto, got, want)
		}
	}
	for proto, status := range map[string]int{"http": 308, "https": 200} {
		req, err := http.NewRequest("GET", "http://"+trusting+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-Proto", proto)
		res, err := client(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != status {
			t.Errorf("a client that came over %s: %s", proto, res.Status)
		}
	}
}

// FuzzBelieve: the client is the one that called, or one that is written there and is somebody's address.
func FuzzBelieve(f *testing.F) {
	for _, seed := range []string{"", "198.51.100.7", "6.6.6.6, 10.0.0.1", ",,", "[::1]:80, 10.0.0.1", "fe80::1%eth0"} {
		f.Add(seed, seed)
	}
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	peer := netip.MustParseAddr("10.9.9.9")
	f.Fuzz(func(t *testing.T, first, second string) {
		q := &request{client: peer, scheme: "http"}
		for _, line := range []string{first, second} {
			q.header = append(q.header, http1.Field{Name: "X-Forwarded-For", Value: line, Kind: http1.KindOf("X-Forwarded-For")})
		}
		q.believe(trusted)
		if !q.client.IsValid() || q.client.Zone() != "" || q.client.IsUnspecified() || q.client.IsMulticast() || q.client.Is4In6() {
			t.Errorf("%q %q: %s", first, second, q.client)
		}
	})
}

// TestTrustedClientEverywhere: the client that a trusted gateway tells of is the one whom limits count, whom the log and the spans
// name, and of whom a service that decides about requests is told.
func TestTrustedClientEverywhere(t *testing.T) {
	var out lines
	r := newRig(t, Config{AccessLog: &out})
	r.snap.AccessLog = 1
	asked := make(chan string, 10)
	sso := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Header.Get("X-Forwarded-For") + " " + r.Header.Get("X-Forwarded-Proto")
	})
	b := serveFunc(t, func(http.ResponseWriter, *http.Request) {})
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}}, {Name: "sso", Instances: []Instance{instanceAt("sso-1", sso.addr)}}}
	r.snap.Auth = map[string]Auth{"sso": {Forward: &ForwardAuth{Service: "sso", Port: 80, Path: "/check"}}}
	r.snap.Routes = []Route{
		{Path: "/limited", Service: "app", Port: 80, Decision: Decision{Auth: "none", RateLimit: &RateLimit{Per: "client", Rate: 0.01, Burst: 1}}},
		{Path: "/asked", Service: "app", Port: 80, Decision: Decision{Auth: "sso"}},
	}
	url := "http://" + r.listen(Listener{Name: "gateway", Protocol: HTTP1, Trusted: []string{"127.0.0.1/32"}})
	r.push()
	for i, c := range []struct {
		client string
		status int
	}{{"198.51.100.7", 200}, {"198.51.100.8", 200}, {"198.51.100.7", 429}, {"6.6.6.6, 198.51.100.8", 429}} {
		if res, _ := ask(t, "GET", url+"/limited", "", "X-Forwarded-For", c.client); res.StatusCode != c.status {
			t.Errorf("request %d, of %s: %d, want %d", i, c.client, res.StatusCode, c.status)
		}
	}
	ask(t, "GET", url+"/asked", "", "X-Forwarded-For", "198.51.100.9", "X-Forwarded-Proto", "https")
	if got := <-asked; got != "198.51.100.9 https" {
		t.Errorf("who decides was told of %q", got)
	}
	eventually(t, "the lines of the log", func() bool { return len(out.read(t)) == 5 })
	var logged, traced []string // each when its request has ended, which a client may know before
	for _, line := range out.read(t) {
		logged = append(logged, fmt.Sprint(line["client"]))
	}
	for _, s := range r.proxy.spans.take() {
		if s.Service == "app" {
			traced = append(traced, fmt.Sprint(s.Attributes["client.address"]))
		}
	}
	slices.Sort(logged)
	slices.Sort(traced)
	if want := []string{"198.51.100.7", "198.51.100.7", "198.51.100.8", "198.51.100.8", "198.51.100.9"}; !slices.Equal(logged, want) {
		t.Errorf("the log names %v, want %v", logged, want)
	}
	if want := []string{"198.51.100.7", "198.51.100.8", "198.51.100.9"}; !slices.Equal(traced, want) {
		t.Errorf("the spans name %v, want %v", traced, want)
	}
}

// TestNobodyTrustedCostsNothing: whoever is not trusted may write what they like into X-Forwarded-For.
func TestNobodyTrustedCostsNothing(t *testing.T) {
	q := &request{client: netip.MustParseAddr("192.0.2.1"), scheme: "http"}
	q.header.Add("X-Forwarded-For", strings.Repeat("10.0.0.1, ", 3000)+"10.0.0.1")
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	if n := testing.AllocsPerRun(100, func() { q.believe(trusted) }); n > 0 || q.client != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("%v allocations, and the client is %s", n, q.client)
	}
}

// BenchmarkBelieve is what is read of a trusted gateway's requests: as a rule, and as much as a header may hold.
func BenchmarkBelieve(b *testing.B) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	peer := netip.MustParseAddr("10.9.9.9")
	for name, text := range map[string]string{"one": "198.51.100.7", "32KiB": strings.Repeat("10.0.0.1,", 3600) + "10.0.0.1"} {
		b.Run(name, func(b *testing.B) {
			q := &request{}
			q.header.Add("X-Forwarded-For", text)
			b.ReportAllocs()
			for b.Loop() {
				q.client, q.scheme = peer, "http"
				q.believe(trusted)
			}
		})
	}
}
