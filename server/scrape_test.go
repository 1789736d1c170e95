package server

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"trellis/compose"
	"trellis/engine"
)

// TestTargets: what the file names is scraped; of the rest who has answered HTTP before and exposes metrics, asked once.
func TestTargets(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]int{}
	serve := func(name, kind, body string, status int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			asked[name]++
			mu.Unlock()
			if r.URL.Path != "/metrics" {
				http.NotFound(w, r)
				return
			}
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}))
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	const text = "# HELP hits Requests.\n# TYPE hits counter\nhits 1\n"
	project := &compose.Project{Services: map[string]compose.Service{}}
	st := engine.State{Desired: project}
	add := func(name, address string, ready bool, m *compose.Metrics) {
		project.Services[name] = compose.Service{Name: name, Trellis: compose.ServiceExtension{Metrics: m}}
		st.Services = append(st.Services, engine.Service{Name: name, Instances: []engine.Instance{
			{ID: engine.InstanceID(name + "-1"), Address: address, Ready: ready, Revision: 3},
		}})
	}
	add("library", serve("library", "text/plain; version=0.0.4; charset=utf-8", text, 200), true, nil)
	add("openmetrics", serve("openmetrics", "application/openmetrics-text; version=1.0.0", text, 200), true, nil)
	add("by hand", serve("by hand", "text/plain", text, 200), true, nil)
	add("page", serve("page", "text/html", "<p>", 200), true, nil)
	add("words", serve("words", "text/plain", "hello", 200), true, nil)
	add("failing", serve("failing", "text/plain; version=0.0.4", text, 500), true, nil)
	add("unready", serve("unready", "text/plain; version=0.0.4", text, 200), false, nil)
	add("silent", serve("silent", "text/plain; version=0.0.4", text, 200), true, nil)
	add("named", "10.1.2.3:80", true, &compose.Metrics{Path: "/stats", Port: 9100})
	add("nowhere", "", true, &compose.Metrics{})
	spoken := map[string]bool{}
	for name := range project.Services {
		spoken[name] = name != "silent"
	}
	finder := targets{patience: 20 * time.Second}
	for range 2 {
		var got []string
		for _, target := range finder.find(t.Context(), st, spoken) {
			got = append(got, target.Service)
			if target.Service == "named" && (target.Address != "10.1.2.3:9100" || target.Path != "/stats" || target.Revision != 3) {
				t.Errorf("named: %+v", target)
			}
		}
		if want := []string{"library", "openmetrics", "by hand", "named"}; !slices.Equal(got, want) {
			t.Errorf("scraped are %q, want %q", got, want)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for name, n := range asked {
		if n > 1 || name == "unready" || name == "silent" {
			t.Errorf("%s was asked %d times", name, n)
		}
	}
}

// TestTargetThatIsGone: an instance that does not answer is none, and nobody waits for it for long.
func TestTargetThatIsGone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	if exposesMetrics(t.Context(), "http://127.0.0.1:"+strconv.Itoa(port)+metricsPath, 20*time.Second) {
		t.Error("nothing listens there")
	}
}
