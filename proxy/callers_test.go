package proxy

import (
	"fmt"
	"net"
	"net/http"
	"testing"
)

// TestCallersByAddress: where a socket does not say who calls, the address does, in what is measured. It permits nothing: what the caller
// says of where it was sent on from is dropped, as from outside.
func TestCallersByAddress(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header["X-Forwarded-For"]) })
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}}}
	r.snap.Callers = map[string]string{"127.0.0.1": "web", "10.0.0.9": "other"}
	known := r.listen(Listener{Name: "known", Protocol: HTTP1, Service: "app", Port: 80})
	named := r.listen(Listener{Name: "named", Protocol: HTTP1, Service: "app", Port: 80, Caller: "api"})
	passed := r.listen(Listener{Name: "passed", Protocol: TCP, Service: "app", Port: 80})
	r.push()
	req, err := http.NewRequest(http.MethodGet, "http://"+known+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Forwarded-For", "1.2.3.4")
	res, err := client(t).Do(req)
	if got := body(t, res, err); got != "[127.0.0.1]" {
		t.Errorf("upstream saw %q", got)
	}
	get(t, client(t), "http://"+named+"/")
	conn, err := net.Dial("tcp", passed)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eventually(t, "the connection is counted as web's", func() bool { return r.flights()["web  -> appapp-1 r0"] == 1 })
	r.snap.Callers = nil
	r.push()
	get(t, client(t), "http://"+known+"/")
	seen := map[string]uint64{}
	for _, c := range r.proxy.Calls().Calls {
		seen[c.Caller] += c.Status[2]
	}
	if len(seen) != 3 || seen["web"] != 1 || seen["api"] != 1 || seen[""] != 1 {
		t.Errorf("callers %v", seen)
	}
}
