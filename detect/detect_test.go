package detect

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-cmp/cmp"

	"trellis/compose"
)

// tree makes a file system of "name: content" pairs.
func files(pairs ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return m
}

const (
	mainGo   = "package main\n\nimport \"net/http\"\n\nfunc main() { http.ListenAndServe(\":8080\", nil) }\n"
	nodeFile = "FROM node:22\nWORKDIR /app\nCOPY package.json ./\nRUN npm install\nCOPY . .\n"
)

// look runs Look for one service "web" that is built in the folder web.
func look(t *testing.T, fsys fstest.MapFS, s compose.Service) Report {
	t.Helper()
	s.Name = "web"
	if s.Build == nil {
		s.Build = &compose.Build{Context: "/p/web"}
	}
	inside := func(p string) (string, bool) {
		rel, err := filepath.Rel("/p", p)
		return rel, err == nil && filepath.IsLocal(rel)
	}
	r, err := Look(t.Context(), fsys, ".", inside, compose.Project{Name: "p", WorkingDir: "/p", Services: map[string]compose.Service{"web": s}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// told is a report in short lines: "path = value (reason)" without limits, and the notes.
func told(r Report) string {
	var b strings.Builder
	for _, p := range r.Proposals {
		if p.Kind != KindLimits {
			fmt.Fprintf(&b, "%s = %v\n", strings.TrimPrefix(p.Path, "services.web."), p.Value)
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "- %s\n", n.Message)
	}
	return b.String()
}

func TestPrograms(t *testing.T) {
	goTree := func(dockerfile string, more ...string) fstest.MapFS {
		return files(append([]string{"web/Dockerfile", dockerfile, "web/go.mod", "module example.org/web\n", "web/cmd/app/main.go", mainGo}, more...)...)
	}
	for _, c := range []struct {
		name string
		fsys fstest.MapFS
		svc  compose.Service
		want string
	}{
		{"go in two stages", goTree("FROM golang AS b\nWORKDIR /src\nCOPY . .\nRUN go build -o /bin/x ./cmd/app\nFROM scratch\nCOPY --from=b /bin/x /x\nENTRYPOINT [\"/x\"]\nCMD [\"-v\"]\n"), compose.Service{},
			"x-trellis.process = [{dir web} {build go build -trimpath -buildvcs=false -o bin/web ./cmd/app} {artifacts [bin/web]} {command [bin/web -v]}]\nx-trellis.probe = [{tcp 8080}]\n"},
		{"go through stages, folders and a shell", goTree("ARG V=1\nFROM golang:$V AS b\nARG OUT=/out\nWORKDIR /src\nCOPY . .\nRUN mkdir -p $OUT && \\\n  # why\n  cd cmd && CGO_ENABLED=0 go build -ldflags \"-s -X main.v=$(git describe)\" -tags 'a b' -o ${OUT}/app/server ./app\nFROM b AS c\nFROM alpine\nCOPY --from=c /out/app /usr/local/bin/\nCMD exec /usr/local/bin/server --x \"y z\"\n"), compose.Service{},
			"x-trellis.process = [{dir web/cmd} {build CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags='a b' -o bin/web ./app} {artifacts [bin/web]} {command [bin/web --x y z]}]\nx-trellis.probe = [{tcp 8080}]\n"},
		{"go install, found in PATH", goTree("FROM golang\nWORKDIR /src\nCOPY . .\nRUN go install ./cmd/app\nCMD [\"app\"]\n", "web/templates/a.html", "x"), compose.Service{},
			"x-trellis.process = [{dir web} {build go build -trimpath -buildvcs=false -o bin/web ./cmd/app} {artifacts [bin/web templates]} {command [bin/web]}]\nx-trellis.probe = [{tcp 8080}]\n"},
		{"go run", goTree("FROM golang\nWORKDIR /src\nCOPY . .\nCMD [\"go\", \"run\", \"./cmd/app\", \"-q\"]\n"), compose.Service{},
			"x-trellis.process = [{dir web} {build go build -trimpath -buildvcs=false -o bin/web ./cmd/app} {artifacts [bin/web]} {command [bin/web -q]}]\nx-trellis.probe = [{tcp 8080}]\n"},
		{"go with files beside it", goTree("FROM golang AS b\nWORKDIR /src\nCOPY . .\nRUN go build -o app ./cmd/app\nFROM alpine\nWORKDIR /srv\nCOPY --from=b /src/app .\nCOPY static ./static\nCMD [\"./app\"]\n", "web/static/x.css", "x"), compose.Service{},
			"x-trellis.process = [{dir web} {build go build -trimpath -buildvcs=false -o bin/web ./cmd/app} {artifacts [bin/web static]} {command [bin/web]}]\nx-trellis.probe = [{tcp 8080}]\n"},
		{"go with files somewhere else", goTree("FROM golang AS b\nWORKDIR /src\nCOPY . .\nRUN go build -o app ./cmd/app\nFROM alpine\nCOPY --from=b /src/app /app\nCOPY conf.yaml /etc/app/conf.yaml\nCMD [\"/app\"]\n", "web/conf.yaml", "x"), compose.Service{},
			"- no process: COPY in web/Dockerfile:7 puts conf.yaml at /etc/app/conf.yaml, where a process would not find it\n"},
		{"built by make", goTree("FROM golang\nCOPY . .\nRUN make\nCMD [\"/app\"]\n"), compose.Service{},
			"- no process: /app (CMD in web/Dockerfile:4) is a program of the image golang, or made in a way that is not understood\n"},
		{"a package that is not there", goTree("FROM golang\nWORKDIR /s\nCOPY . .\nRUN go build -o /app ./cmd/other\nCMD [\"/app\"]\n"), compose.Service{},
			"- no process: 'go build ./cmd/other' in web/Dockerfile:4: web/cmd/other has no package main\n"},
		{"a shell script", goTree("FROM golang\nCMD sleep 1 && /app\n"), compose.Service{},
			"- no process: its command is a shell script (sleep 1 && /app, CMD in web/Dockerfile:2), which is not taken apart\n"},
		{"words that a shell would take apart", goTree("FROM golang\nWORKDIR /s\nCOPY . .\nRUN go build -tags 'a;touch x' -ldflags=-s;-w -mod 'b&c' -o /app ./cmd/app\nCMD [\"/app\"]\n"), compose.Service{},
			"- no process: /app (CMD in web/Dockerfile:5) is a program of the image golang, or made in a way that is not understood\n"},
		{"words that a shell would take apart, quoted", goTree("FROM golang\nWORKDIR /s\nCOPY . .\nRUN go build -tags 'a;touch' -mod \"b&c\" -o /app ./cmd/app\nCMD [\"/app\"]\n"), compose.Service{},
			"x-trellis.process = [{dir web} {build go build -trimpath -buildvcs=false -tags='a;touch' -mod='b&c' -o bin/web ./cmd/app} {artifacts [bin/web]} {command [bin/web]}]\nx-trellis.probe = [{tcp 8080}]\n"},
		{"packages with versions", files("web/Dockerfile", "FROM python\nWORKDIR /a\nCOPY . .\nRUN pip install 'flask>=2,<3' gunicorn==20.1\nCMD [\"python\", \"app.py\"]\n", "web/app.py", "x"), compose.Service{Expose: []string{"80"}},
			"x-trellis.process = [{dir web} {build python3 -m pip install --target .packages 'flask>=2,<3' gunicorn==20.1} {artifacts [app.py .packages]} {command [env PYTHONPATH=.packages python3 app.py]}]\nx-trellis.probe = [{tcp true}]\n"},
		{"a script of its own", goTree("FROM golang\nCOPY start.sh /\nENTRYPOINT [\"/start.sh\"]\n"), compose.Service{},
			"- no process: its start-up script /start.sh (ENTRYPOINT in web/Dockerfile:3) is not taken apart\n"},
		{"nothing to run", goTree("FROM nginx\nCOPY . /usr/share/nginx/html\n"), compose.Service{},
			"- no process: web/Dockerfile has neither CMD nor ENTRYPOINT, so the program is the one of nginx\n"},
		{"the file's command wins", files("web/Dockerfile", nodeFile+"CMD [\"npm\", \"start\"]\n", "web/package.json", `{"dependencies":{"a":"1"}}`, "web/w.js", "x"), compose.Service{Command: []string{"node", "w.js"}},
			"x-trellis.process = [{dir web} {build npm install} {artifacts [node_modules package.json w.js]} {command [node w.js]}]\n- no probe: no port is seen in the file, the image or the code, so it is ready when it runs\n"},
		{"node by npm start, with its environment", files("web/Dockerfile", nodeFile+"ENV A=1 \\\n    B=/app/x\nEXPOSE 3000\nCMD npm start\n", "web/package.json", `{"scripts":{"start":"node server.js"}}`, "web/server.js", "app.get('/health', f)"), compose.Service{},
			"environment.A = 1\nx-trellis.process = [{dir web} {build npm install} {artifacts [package.json server.js]} {command [node server.js]}]\nx-trellis.probe = [{http /health} {port 3000}]\n- B=/app/x (web/Dockerfile:6) is left out: it speaks of the image\n"},
		{"node behind tini", files("web/Dockerfile", nodeFile+"ENTRYPOINT [\"/sbin/tini\", \"--\"]\nCMD [\"node\", \"/app/s.js\"]\n", "web/package.json", "{}", "web/s.js", "listen(4000)"), compose.Service{},
			"x-trellis.process = [{dir web} {build npm install} {artifacts [package.json s.js]} {command [node s.js]}]\n- no probe: no port is seen in the file, the image or the code, so it is ready when it runs\n"},
		{"python by pip and gunicorn", files("web/Dockerfile", "FROM python\nWORKDIR /a\nCOPY requirements.txt .\nRUN pip install --no-cache-dir -r requirements.txt\nCOPY . .\nCMD gunicorn app:app -b 0.0.0.0:$PORT\n", "web/requirements.txt", "gunicorn", "web/app.py", "@app.route('/healthz')"), compose.Service{Environment: map[string]string{"PORT": "9000"}},
			"x-trellis.process = [{dir web} {build python3 -m pip install --target .packages -r requirements.txt} {artifacts [app.py requirements.txt .packages]} {command [sh -c exec env PYTHONPATH=.packages python3 -m gunicorn app:app -b 0.0.0.0:$$PORT]}]\nx-trellis.probe = [{http /healthz} {port 9000}]\n"},
		{"user and signal", files("web/Dockerfile", nodeFile+"USER 1000:1000\nSTOPSIGNAL SIGQUIT\nCMD node s.js\n", "web/package.json", "{}", "web/s.js", "x"), compose.Service{Expose: []string{"80"}},
			"user = 1000:1000\nstop_signal = SIGQUIT\nx-trellis.process = [{dir web} {build npm install} {artifacts [package.json s.js]} {command [node s.js]}]\nx-trellis.probe = [{tcp true}]\n"},
		{"a user of the image", files("web/Dockerfile", nodeFile+"USER node\nCMD node s.js\n", "web/package.json", "{}", "web/s.js", "x"), compose.Service{Expose: []string{"80"}},
			"x-trellis.process = [{dir web} {build npm install} {artifacts [package.json s.js]} {command [node s.js]}]\nx-trellis.probe = [{tcp true}]\n- USER node (web/Dockerfile:6) is left out: it is a user of the image; set user to one of this machine\n"},
		{"python by poetry", files("web/Dockerfile", "FROM python\nWORKDIR /a\nCOPY . .\nRUN poetry install\nCMD [\"python\", \"app.py\"]\n", "web/app.py", "x"), compose.Service{},
			"- no process: poetry installs its packages, which a process would have to have in another way (web/Dockerfile:4)\n"},
		{"a Dockerfile that is not there", files("web/x", "x"), compose.Service{},
			"- web/Dockerfile cannot be read: nothing is known of its program\n"},
		{"sources somewhere else", files("x", "x"), compose.Service{Build: &compose.Build{Context: "https://example.org/x.git"}},
			"- its sources are not in this project (https://example.org/x.git), so nothing is known of its program\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff(c.want, told(look(t, c.fsys, c.svc))); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestHealthChecks(t *testing.T) {
	ports := []compose.Port{{Target: 8080, Published: "8080", Protocol: "tcp"}}
	for _, c := range []struct {
		name string
		test []string
		want string // "" for no probe
	}{
		{"curl", []string{"CMD", "curl", "-f", "http://localhost:8080/health"}, "[{http /health}]"},
		{"curl in a shell", []string{"CMD-SHELL", "curl -fsS --max-time 2 http://127.0.0.1:8080/health?x=1 || exit 1"}, "[{http /health?x=1}]"},
		{"wget", []string{"CMD-SHELL", "wget -q --spider http://localhost:9090/ready"}, "[{http /ready} {port 9090}]"},
		{"wget to nowhere", []string{"CMD-SHELL", "wget -qO /dev/null 'http://localhost:8080/' || exit 1"}, "[{http /}]"},
		{"without a scheme", []string{"CMD-SHELL", "curl --silent --fail localhost:8080/flask || exit 1"}, "[{http /flask}]"},
		{"by its own name", []string{"CMD", "curl", "-f", "http://web/x"}, "[{http /x} {port 80}]"},
		{"https", []string{"CMD", "curl", "-kf", "https://localhost:8080/x"}, "[{http /x} {scheme https}]"},
		{"another host", []string{"CMD", "curl", "-f", "http://db:8080/health"}, ""},
		{"a header", []string{"CMD-SHELL", "curl -H 1 http://localhost:8080/health"}, ""},
		{"a post", []string{"CMD-SHELL", "curl -X POST http://localhost:8080/health"}, ""},
		{"its output counts", []string{"CMD-SHELL", "curl -s http://localhost:8080/health | grep ok"}, ""},
		{"a variable", []string{"CMD-SHELL", "curl -f http://localhost:$PORT/health"}, ""},
		{"another program", []string{"CMD", "pg_isready"}, ""},
		{"none wanted", []string{"NONE"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := look(t, files(), compose.Service{Ports: ports, Healthcheck: &compose.Healthcheck{Test: c.test}})
			got := ""
			for _, p := range r.Proposals {
				got += fmt.Sprint(p.Value)
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestHealthPaths(t *testing.T) {
	for _, c := range []struct{ name, language, file, text, want string }{
		{"go", "go", "a.go", `mux.HandleFunc("GET /healthz", f)`, "/healthz"},
		{"the most telling", "go", "a.go", "m.Handle(\"/ping\", f)\nm.Handle(\"/readyz\", f)\nm.Handle(\"/health\", f)", "/readyz"},
		{"go, asked of others", "go", "a.go", `http.Get(base + "/healthz")`, ""},
		{"go, below a prefix", "go", "a.go", "g := r.Group(\"/v1\")\ng.GET(\"/healthz\", f)", ""},
		{"go, commented out", "go", "a.go", `	// mux.HandleFunc("/healthz", f)`, ""},
		{"express", "node", "a.js", `app.get('/health', (req, res) => res.send())`, "/health"},
		{"a router", "node", "a.js", "const router = express.Router()\nrouter.get('/health', f)", ""},
		{"a client", "node", "a.js", `axios.get('/health')`, ""},
		{"plain node", "node", "a.js", `if (req.url === '/healthz') {`, "/healthz"},
		{"flask", "python", "a.py", `@app.route("/api/health")`, "/api/health"},
		{"a blueprint", "python", "a.py", "bp = Blueprint('a')\n@app.route('/health')", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := newTree(t.Context(), files("d/"+c.file, c.text))
			if got, _ := tr.healthPath(facts{language: c.language, sources: []string{"d"}}, nil); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestRoutes(t *testing.T) {
	at := func(published string, target int) compose.Port {
		return compose.Port{Target: target, Published: published, Protocol: "tcp"}
	}
	probed := compose.ServiceExtension{Probe: &compose.Probe{HTTP: "/"}}
	for _, c := range []struct {
		name     string
		services map[string]compose.Service
		want     string
	}{
		{"one without a door", map[string]compose.Service{"a": {Ports: []compose.Port{at("", 80)}, Trellis: probed}},
			"services.a.ports[0].x-trellis.routes = [[{path /*} {auth none}]]\n"},
		{"two without a door", map[string]compose.Service{"a": {Ports: []compose.Port{at("", 80)}, Trellis: probed}, "b": {Ports: []compose.Port{at("", 80)}, Trellis: probed}},
			"services.a.ports[0].x-trellis.routes = [[{host a.localhost} {auth none}]]\nservices.b.ports[0].x-trellis.routes = [[{host b.localhost} {auth none}]]\n"},
		{"one door", map[string]compose.Service{"a": {Ports: []compose.Port{at("80", 80)}, Trellis: probed}}, ""},
		{"two doors", map[string]compose.Service{"a": {Ports: []compose.Port{at("81", 80)}, Trellis: probed}, "b": {Ports: []compose.Port{at("82", 80)}, Trellis: probed}},
			"- no routes: the published ports are the doors (a at 81, b at 82); x-trellis.routes on a port in the long form puts several behind one address\n"},
		{"not HTTP", map[string]compose.Service{"a": {Ports: []compose.Port{at("", 80)}, Trellis: compose.ServiceExtension{Probe: &compose.Probe{TCP: true}}}}, ""},
		{"the gateway's address is taken", map[string]compose.Service{"a": {Ports: []compose.Port{at("", 80)}, Trellis: probed}, "b": {Ports: []compose.Port{at("8080", 80)}}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, s := range c.services {
				s.Name, s.Build = name, nil
				c.services[name] = s
			}
			var r Report
			newTree(t.Context(), files()).proposeRoutes(compose.Project{Services: c.services}, &r)
			if d := cmp.Diff(c.want, told(r)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestImages(t *testing.T) {
	for _, c := range []struct {
		image string
		ports []int
		want  string
	}{
		{"postgres:16", nil, "[{tcp 5432}]"},
		{"registry.example.org/x/redis@sha256:0", []int{6379}, "[{tcp true}]"},
		{"postgres", []int{80, 81}, ""},
		{"nginx", nil, ""},
		{"nginx", []int{80}, "[{tcp true}]"},
		{"mine/thing", []int{80, 81}, ""},
	} {
		s := compose.Service{Name: "web", Image: c.image}
		for _, p := range c.ports {
			s.Ports = append(s.Ports, compose.Port{Target: p, Protocol: "tcp"})
		}
		r, err := Look(t.Context(), files(), ".", func(string) (string, bool) { return "", false }, compose.Project{Services: map[string]compose.Service{"web": s}})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, p := range r.Proposals {
			got += fmt.Sprint(p.Value)
		}
		if got != c.want || len(r.Notes) != 1 {
			t.Errorf("%s %v: got %s with %v, want %s", c.image, c.ports, got, r.Notes, c.want)
		}
	}
}

// TestFreshIsPlainCompose loads what Fresh proposes with the library that Docker Compose itself loads files with, its
// consistency checks included.
func TestFreshIsPlainCompose(t *testing.T) {
	for name, fsys := range map[string]fstest.MapFS{
		"go":        files("go.mod", "module m\n\ngo 1.26\n", "cmd/a/main.go", mainGo, "cmd/b.c/main.go", mainGo),
		"docker":    files("Dockerfile", "FROM x\nEXPOSE 80\n", "b/worker.Dockerfile", "FROM y\n", "b/Dockerfile.dev", "FROM z\n"),
		"node":      files("package.json", `{"name":"@a/b","workspaces":["p/*"]}`, "p/one/package.json", `{"scripts":{"start":"node a.js"}}`, "p/one/a.js", "listen(3000)"),
		"python":    files("requirements.txt", "fastapi\nuvicorn\n", "main.py", "app = FastAPI()\n"),
		"django":    files("requirements.txt", "gunicorn\n", "manage.py", "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')", "shop/wsgi.py", "x"),
		"procfile":  files("Procfile", "web: ./run $PORT \"#{x}\"\n\nworker: ruby a.rb & wait\n"),
		"a dollar":  files("Dockerfile", "FROM node\nWORKDIR /a\nCOPY . .\nENV A='$b' C=1\nCMD [\"node\", \"a$b.js\"]\n", "package.json", "{}", "a$b.js", "x"),
		"same name": files("a/x/Dockerfile", "FROM x\n", "b/x/Dockerfile", "FROM x\n"),
	} {
		t.Run(name, func(t *testing.T) {
			text, r, err := Fresh(t.Context(), fsys, "p", nil)
			if err != nil || text == nil {
				t.Fatalf("%v, notes %v", err, r.Notes)
			}
			p, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{WorkingDir: t.TempDir(), ConfigFiles: []types.ConfigFile{{Filename: "compose.yaml", Content: text}}})
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if len(p.Services) == 0 {
				t.Errorf("no services in\n%s", text)
			}
		})
	}
}

func TestFreshFindsNothing(t *testing.T) {
	for name, fsys := range map[string]fstest.MapFS{
		"empty":          files(),
		"a library":      files("go.mod", "module m\n", "a.go", "package a\n"),
		"a tool":         files("go.mod", "module m\n", "main.go", "package main\nfunc main() {}\n"),
		"somebody's":     files("node_modules/x/package.json", `{"scripts":{"start":"node x"}}`, "vendor/y/Dockerfile", "FROM x"),
		"no start":       files("package.json", `{"scripts":{"test":"x"}}`),
		"no JSON":        files("package.json", `{`),
		"a Python thing": files("requirements.txt", "x", "lib.py", "def f(): pass"),
	} {
		t.Run(name, func(t *testing.T) {
			text, r, err := Fresh(t.Context(), fsys, "p", nil)
			if err != nil || text != nil {
				t.Fatalf("%v, %s", err, text)
			}
			if last := r.Notes[len(r.Notes)-1].Message; !strings.Contains(last, "looked for") {
				t.Errorf("the last note is %q", last)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Fresh(ctx, files("Dockerfile", "FROM x"), "p", nil); err == nil {
		t.Error("no error")
	}
}
