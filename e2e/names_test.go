//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	neturl "net/url"
	"strings"
	"testing"

	"trellis/api"
)

// shopOf is a project of two services that are called at the port at which web is published on all addresses, as a plain
// file has it.
func shopOf(port int, version string) string {
	return fmt.Sprintf(`name: shop
services:
  web:
    image: testapp
    ports: ["%[1]d:%[1]d"]
    environment: {VERSION: "web-%[2]s"}
    x-trellis: {process: {command: [%[3]s]}, probe: {http: /healthz}}
  api:
    image: testapp
    expose: ["%[1]d"]
    environment: {VERSION: "api-%[2]s"}
    x-trellis: {process: {command: [%[3]s]}, probe: {http: /healthz}}
`, port, version, built.app)
}

// whole looks whether web answers where it is published, and whether web and api are found by the addresses that web was
// given for them. It returns the port of web.
func (s *scene) whole(version string, flags ...string) int {
	s.t.Helper()
	out, exit := s.typed(append(flags, "ps", "--format", "json")...)
	var status api.Status
	if err := json.Unmarshal([]byte(out), &status); err != nil || exit != 0 {
		s.t.Fatalf("ps: exit code %d, %v\n%s", exit, err, out)
	}
	web := serviceOf(s.t, status, "web")
	if len(web.Ports) != 1 {
		s.t.Fatalf("web of %s: %+v", version, web)
	}
	at := url(web.Ports[0].Published)
	if body := get(s.t, at+"/"); !strings.Contains(body, fmt.Sprintf(`"web-%s"`, version)) {
		s.t.Errorf("at %s: %s", at, body)
	}
	var env []string
	if err := json.Unmarshal([]byte(get(s.t, at+"/env")), &env); err != nil {
		s.t.Fatal(err)
	}
	asked := 0
	for _, variable := range env {
		name, address, _ := strings.Cut(variable, "=")
		if name == "API_URL" {
			asked++
			if body := get(s.t, at+"/fetch?url="+neturl.QueryEscape(address)); !strings.Contains(body, fmt.Sprintf(`"api-%s"`, version)) {
				s.t.Errorf("%s of web-%s is %s, and there: %s", name, version, address, body)
			}
		}
	}
	if asked == 0 {
		s.t.Errorf("web-%s is not told where api is: %v", version, env)
	}
	return web.Ports[0].Published
}

// TestAnOrdinaryUsersPortsMayBeThoseOfNames has a user without namespaces publish, on all addresses, a port at which
// services are called: of one project, of a second checkout, and of a copy, each beside the others, and whichever comes
// back last.
func TestAnOrdinaryUsersPortsMayBeThoseOfNames(t *testing.T) {
	port := freePort(t)
	first, second := newScene(t).nobody(), newScene(t).nobody()
	second.env = first.env // one user has one home
	first.file("compose.yaml", shopOf(port, "first"))
	second.file("compose.yaml", shopOf(port, "second"))
	first.up()
	if at := first.whole("first"); at != port {
		t.Errorf("the first is at %d instead of %d", at, port)
	}
	second.up()
	if at := second.whole("second"); at == port {
		t.Errorf("the second checkout is at %d too", at)
	}
	if out, exit := first.typed("--copy", "trial", "up", "-d"); exit != 0 {
		t.Fatalf("a copy: exit code %d\n%s", exit, out)
	}
	if at := first.whole("first", "--copy", "trial"); at == port {
		t.Errorf("the copy is at %d too", at)
	}
	if out, exit := first.typed("down"); exit != 0 {
		t.Fatalf("down: exit code %d\n%s", exit, out)
	}
	first.up()
	if at := first.whole("first"); at != port {
		t.Errorf("back again the first is at %d instead of %d", at, port)
	}
	second.whole("second")
	first.whole("first", "--copy", "trial")
	if out, exit := first.typed("--copy", "trial", "down"); exit != 0 {
		t.Errorf("down of the copy: exit code %d\n%s", exit, out)
	}
}
