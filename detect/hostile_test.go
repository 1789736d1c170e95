package detect

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"trellis/cputime"
)

// TestHostileTrees gives trees that are made to cost time; each has to be done in a small part of the test's.
func TestHostileTrees(t *testing.T) {
	deep, wide, stages, dockers := fstest.MapFS{}, fstest.MapFS{}, "", fstest.MapFS{}
	deep[strings.Repeat("d/", 200)+"Dockerfile"] = &fstest.MapFile{Data: []byte("FROM x")}
	for i := range 2 * maxEntries {
		wide[fmt.Sprintf("f%d.go", i)] = &fstest.MapFile{Data: []byte("package main")}
	}
	for i := range 5000 {
		stages += fmt.Sprintf("FROM s%d AS s%d\nCOPY --from=s%d /a /a\nRUN go build -o /b . && x\n", i-1, i, i-1)
	}
	for i := range 3000 {
		dockers[fmt.Sprintf("d%d/Dockerfile", i)] = &fstest.MapFile{Data: []byte("FROM x\nCOPY . .\nCMD [\"x\"]")}
	}
	fan := "FROM x AS s0\n"
	for i := range 60 {
		fan += fmt.Sprintf("FROM x AS s%d\nCOPY --from=s%d /a /a\nCOPY --from=s%d /a /a\n", i+1, i, i)
	}
	programs, shared := files("go.mod", "module m"), "package a\n"
	for i := range 4000 {
		programs[fmt.Sprintf("cmd/c%d/main.go", i)] = &fstest.MapFile{Data: []byte("package main\nimport \"m/a\"")}
		shared += fmt.Sprintf("import \"m/x%d\"\n", i)
	}
	programs["a/a.go"] = &fstest.MapFile{Data: []byte(shared + strings.Repeat("mux.HandleFunc(\"/a\", f)\n", maxFileBytes/2/24))}
	services := files("a.js", "app.listen(8080)")
	for i := range 100 {
		services[fmt.Sprintf("s%d.Dockerfile", i)] = &fstest.MapFile{Data: []byte("FROM node\nWORKDIR /x\nCOPY . .\nCMD [\"node\", \"a.js\"]")}
	}
	for i := range 5 {
		services[fmt.Sprintf("b%d.js", i)] = &fstest.MapFile{Data: []byte(strings.Repeat("app.get('/a', f)\n", maxFileBytes/20))}
	}
	big := strings.Repeat("mux.HandleFunc(\"/a\", f)\n", maxFileBytes/24)
	for name, fsys := range map[string]fstest.MapFS{
		"deep": deep, "wide": wide, "many stages": files("Dockerfile", stages+"CMD [\"/a\"]\n"), "many Dockerfiles": dockers, "many programs": programs, "many services": services,
		"binary":         files("Dockerfile", "FROM x\x00\nCMD x", "go.mod", "\xff\xfe", "package.json", "\x00"),
		"large":          files("go.mod", "module m", "main.go", "package main\n"+big[:maxFileBytes-100], "Procfile", strings.Repeat("a: b\n", 1000)),
		"too large":      files("Dockerfile", strings.Repeat("#", maxFileBytes+1)),
		"no line ends":   files("Dockerfile", "FROM x\nRUN "+strings.Repeat("a && ", 100_000)+"\nCMD [\"/x\"]"),
		"long words":     files("Dockerfile", "FROM x\nRUN go "+strings.Repeat("x", maxFileBytes/2)+"\nENV A="+strings.Repeat("x", maxFileBytes/4)+"\nCMD [\"/x\"]", "Procfile", "web: "+strings.Repeat("x", maxFileBytes/2)),
		"continued":      files("Dockerfile", "FROM x\nRUN a"+strings.Repeat(" \\\n", 200_000)),
		"heredocs":       files("Dockerfile", "FROM x\nRUN <<A <<B <<C\nnever closed\n"),
		"a long heredoc": files("Dockerfile", "FROM x\nRUN <<A\n"+strings.Repeat("\n", 1_000_000)),
		"a fan":          files("Dockerfile", fan+"CMD [\"/a\"]\n"),
		"a cycle":        files("Dockerfile", "FROM a AS a\nFROM a AS b\nCOPY --from=b / /\nCMD [\"/x\"]"),
		"quotes":         files("Dockerfile", "FROM x\nCMD \"'`$(\nENV \"a\nARG\nCOPY\nCOPY []\nCOPY [1]\nHEALTHCHECK\nEXPOSE $a 99999999 -1/tcp\n"),
		"Go that loops":  files("go.mod", "module m", "main.go", "package main\nimport \"m/a\"", "a/a.go", "package a\nimport \"m/b\"", "b/b.go", "package b\nimport \"m/a\""),
	} {
		t.Run(name, func(t *testing.T) {
			start := cputime.Used(t)
			if _, _, err := Fresh(t.Context(), fsys, "p", nil); err != nil {
				t.Error(err)
			}
			if took := cputime.Used(t) - start; took > time.Minute {
				t.Errorf("it took %s of a processor", took)
			}
		})
	}
}

// TestVariablesThatDouble has each variable hold the one before twice.
func TestVariablesThatDouble(t *testing.T) {
	text := "FROM x\nENV V0=0123456789\n"
	for i := range 18 {
		text += fmt.Sprintf("ENV V%d=$V%d$V%d\n", i+1, i, i)
	}
	d := parseDockerfile("Dockerfile", text)
	vars := d.image(d.final(""), nil).vars
	if vars["V3"] != strings.Repeat("0123456789", 8) {
		t.Errorf("V3 is %q", vars["V3"])
	}
	for name, value := range vars {
		if len(value) > 2*maxExpanded {
			t.Errorf("%s has %d bytes", name, len(value))
		}
	}
}

// TestLinksLeadNowhere looks at a real folder through os.Root, as the command does.
func TestLinksLeadNowhere(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "Dockerfile"), []byte("FROM x\nCMD [\"x\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"Dockerfile": outside + "/Dockerfile", "folder": outside, "self": "self", "round": "."} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	text, r, err := Fresh(t.Context(), root.FS(), "p", nil)
	if err != nil || text != nil {
		t.Errorf("%v, %v\n%s", err, r.Notes, text)
	}
}

func FuzzDockerfile(f *testing.F) {
	f.Add("FROM golang AS b\nWORKDIR /src\nCOPY . .\nRUN go build -o /bin/x ./cmd/app\nFROM scratch\nCOPY --from=b /bin/x /x\nENTRYPOINT [\"/x\"]\n")
	f.Add("# escape=`\nFROM node\nWORKDIR /app\nCOPY package.json `\n ./\nRUN <<EOF\nnpm ci\nEOF\nENV A=b C=\"d e\"\nHEALTHCHECK --interval=1s CMD curl -f http://localhost:80/\nCMD npm start\n")
	f.Add("FROM python\nRUN --mount=type=bind,target=/x pip install -r /x/requirements.txt\nCMD gunicorn a:b -b :$PORT\n")
	f.Fuzz(func(t *testing.T, text string) {
		fsys := files("Dockerfile", text, "go.mod", "module m\n", "main.go", mainGo, "cmd/app/main.go", mainGo, "package.json", `{"scripts":{"start":"node a.js"}}`, "requirements.txt", "x")
		file, _, err := Fresh(t.Context(), fsys, "p", nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, file)
		}
	})
}
