package compose

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"trellis/cputime"
)

// write makes a directory of files, by name.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, content)
	}
	return dir
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// nested are files that include or extend two others each, which is 2^n ways through n of them.
func nested(n int, of func(i int) string) map[string]string {
	files := map[string]string{}
	for i := range n {
		for _, side := range []string{"a", "b"} {
			files[fmt.Sprintf("%d%s.yaml", i, side)] = of(i)
		}
	}
	files["compose.yaml"] = "include: [0a.yaml, 0b.yaml]\nservices: {web: {image: x}}\n"
	return files
}

func aliases(levels, width int) string {
	var b strings.Builder
	b.WriteString("x-0: &a0 [x]\n")
	for i := 1; i <= levels; i++ {
		fmt.Fprintf(&b, "x-%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), width), ", "))
	}
	return b.String() + fmt.Sprintf("services: {web: {image: x, command: *a%d}}\n", levels)
}

func manyServices(n int, each string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  s%d: %s\n", i, each)
	}
	return b.String()
}

// TestHostileFiles: each gives an error that names a place, in bounded time and memory.
func TestHostileFiles(t *testing.T) {
	service := "services: {web: {image: x, labels: {a: %s}}}\n"
	tests := map[string]struct {
		files map[string]string
		want  string // part of an error
	}{
		"alias bomb":          {map[string]string{"compose.yaml": aliases(20, 10)}, "expanded"},
		"merge bomb":          {map[string]string{"compose.yaml": mergeBomb(24)}, "expanded"},
		"wide aliases":        {map[string]string{"compose.yaml": aliases(3, 100)}, "expanded"},
		"10 MB scalar":        {map[string]string{"compose.yaml": fmt.Sprintf(service, strings.Repeat("a", 10<<20))}, "bytes"},
		"2 MB scalar":         {map[string]string{"compose.yaml": fmt.Sprintf(service, strings.Repeat("a", 2<<20))}, "put it in a file"},
		"deep flow":           {map[string]string{"compose.yaml": "x-a: " + strings.Repeat("[", 100000)}, "nested"},
		"deep mixed":          {map[string]string{"compose.yaml": "x-a: " + strings.Repeat("[a, {b: ", 5000)}, ""},
		"deep block":          {map[string]string{"compose.yaml": "x-a:\n" + deepBlock(2000)}, "nested"},
		"deep sequence":       {map[string]string{"compose.yaml": "x-a:\n  " + strings.Repeat("- ", 100000) + "a"}, ""},
		"many keys":           {map[string]string{"compose.yaml": "x-a:\n" + manyKeys(200000)}, "values"},
		"braces":              {map[string]string{"compose.yaml": fmt.Sprintf(service, `"`+strings.Repeat("${a:-", 50000)+`"`)}, "variables"},
		"variable growth":     {map[string]string{".env": "A=" + strings.Repeat("x", 1<<20), "compose.yaml": fmt.Sprintf(service, "\""+strings.Repeat("$A", 1000)+"\"")}, "variables"},
		"variable laughs":     {map[string]string{".env": laughs(40), "compose.yaml": "services: {web: {image: x}}"}, "larger"},
		"env_file laughs":     {map[string]string{"l.env": laughs(40), "compose.yaml": "services: {web: {image: x, env_file: l.env}}"}, "larger"},
		"quoted laughs":       {map[string]string{".env": "X=\"\n" + strings.ReplaceAll(laughs(40), "\n", "\n\"\nY=\""), "compose.yaml": "services: {web: {image: x}}"}, ""},
		"colon laughs":        {map[string]string{".env": strings.ReplaceAll(laughs(40), "=", ": "), "compose.yaml": "services: {web: {image: x}}"}, "larger"},
		"escaped laughs":      {map[string]string{".env": escapedLaughs(40), "compose.yaml": "services: {web: {image: x}}"}, "larger"},
		"numbered laughs":     {map[string]string{".env": numberedLaughs(40), "compose.yaml": "services: {web: {image: x}}"}, "larger"},
		"laughs over files":   {laughingFiles(40), "larger"},
		"laughs of a service": {map[string]string{"l.env": "B=" + strings.Repeat("$A", 10_000), "compose.yaml": "services: {web: {image: x, env_file: l.env, environment: {A: " + strings.Repeat("x", 900<<10) + "}}}"}, "larger"},
		"env_file braces":     {map[string]string{".env": "A=" + strings.Repeat("${a:-", 50000), "compose.yaml": "services: {web: {image: x}}"}, "variables"},
		"step laughs":         {map[string]string{"l.env": laughs(40), "compose.yaml": stepWith("env_file: l.env")}, "larger"},
		"step device":         {map[string]string{"compose.yaml": stepWith("env_file: /dev/zero")}, "not a regular file"},
		"step label device":   {map[string]string{"compose.yaml": stepWith("label_file: [/dev/zero]")}, "not a regular file"},
		"step outside":        {map[string]string{"compose.yaml": stepWith("env_file: [{path: ../../../../../../etc/passwd}]")}, "leads out of the project"},
		"include itself":      {map[string]string{"compose.yaml": "include: [compose.yaml]\nservices: {web: {image: x}}"}, "includes itself"},
		"include each other":  {map[string]string{"compose.yaml": "include: [b.yaml]\nservices: {web: {image: x}}", "b.yaml": "include: [compose.yaml]"}, "includes itself"},
		"include doubling": {nested(60, func(i int) string {
			if i == 59 {
				return "services: {leaf: {image: x}}\n"
			}
			return fmt.Sprintf("include: [%da.yaml, %db.yaml]\nservices: {s%d: {image: x}}\n", i+1, i+1, i)
		}), "included"},
		"include the same": {map[string]string{"compose.yaml": "include:\n" + strings.Repeat("  - big.yaml\n", 1000) + "services: {web: {image: x}}\n",
			"big.yaml": "x-a: [" + strings.Repeat("1, ", 90_000) + "]\nservices: {a: {image: x}}\n"}, "as often as they are included"},
		"extends the same": {map[string]string{"compose.yaml": "services:\n" + manyServices(1000, "{extends: {file: big.yaml, service: base}}"),
			"big.yaml": "services: {base: {image: x, environment: [" + listOf(1000) + "]}}\n"}, "taken over by extends"},
		"include chain":      {chain(400), ""},
		"include device":     {map[string]string{"compose.yaml": "include: [/dev/zero]\nservices: {web: {image: x}}"}, "not a regular file"},
		"env_file device":    {map[string]string{"compose.yaml": "services: {web: {image: x, env_file: /dev/zero}}"}, "not a regular file"},
		"extends itself":     {map[string]string{"compose.yaml": "services: {web: {extends: web}}"}, "extends itself"},
		"extends file loop":  {map[string]string{"compose.yaml": "services: {web: {extends: {file: b.yaml, service: web}}}", "b.yaml": "services: {web: {extends: {file: compose.yaml, service: web}}}"}, "extends itself"},
		"extends nothing":    {map[string]string{"compose.yaml": "services: {web: {extends: {}}}"}, ""},
		"out of the project": {map[string]string{"compose.yaml": "services: {web: {image: x, env_file: ../../../../../../etc/passwd}}"}, "leads out of the project"},
		"include outside":    {map[string]string{"compose.yaml": "include: [../../../../../../etc/passwd]\nservices: {web: {image: x}}"}, "leads out of the project"},
		"config outside":     {map[string]string{"compose.yaml": "services: {web: {image: x}}\nconfigs: {a: {file: ../../../../../../etc/shadow}}"}, "leads out of the project"},
		"target outside":     {map[string]string{"compose.yaml": "services: {web: {image: x, secrets: [{source: a, target: ../../etc/cron.d/x}]}}\nsecrets: {a: {environment: A}}"}, "holds .."},
		"volume name":        {map[string]string{"compose.yaml": "services: {web: {image: x}}\nvolumes: {a: {name: ../../etc}}"}, "cannot be a name"},
		"subpath":            {map[string]string{"compose.yaml": "services: {web: {image: x, volumes: [{type: volume, source: a, target: /a, volume: {subpath: ../../etc}}]}}\nvolumes: {a: }"}, "leads out"},
		"control characters": {map[string]string{"compose.yaml": "services: {\"a\\e[2Jb\": {image: x}}"}, "control character"},
		"shell name":         {map[string]string{"compose.yaml": "services: {\"a;$(rm -rf /)\": {image: x}}"}, "may hold only"},
		"project name":       {map[string]string{"compose.yaml": "name: ../../etc\nservices: {a: {image: x}}"}, "cannot be the project's name"},
		"NUL":                {map[string]string{"compose.yaml": "services: {a: {image: x, environment: {A: \"x\\0y\"}}}"}, "NUL"},
		"binary":             {map[string]string{"compose.yaml": "\x00\x01\x02\xff\xfe"}, ""},
		"not UTF-8":          {map[string]string{"compose.yaml": "services: {a: {image: \xff\xfe}}"}, ""},
		"tags":               {map[string]string{"compose.yaml": "services: !!python/object:os.system {a: {image: !!binary aGVsbG8=}}\nx: !<tag:yaml.org,2002:int> x"}, ""},
		"long lists":         {map[string]string{"compose.yaml": longLists(2, 30_000)}, "merged"},
		"lists of many":      {map[string]string{"compose.yaml": longLists(100, 100)}, "merged"},
		"unset variables":    {map[string]string{"compose.yaml": fmt.Sprintf(service, unset(400<<10))}, ""},
		"huge integers":      {map[string]string{"compose.yaml": "services: {a: {image: x, mem_limit: 99999999999999999999999, deploy: {replicas: 1e400}}}"}, ""},
		"huge range":         {map[string]string{"compose.yaml": "services: {a: {image: x, ports: [\"1-65535:1-65535\", \"1-65535:1-65535/udp\"]}}"}, ""},
		"many ports":         {map[string]string{"compose.yaml": "services: {a: {image: x, ports: [\"1-9999:1-9999\"]}}"}, ""},
		"many routes":        {map[string]string{"compose.yaml": routes(8000)}, ""},
		"huge address":       {map[string]string{"compose.yaml": "services: {a: {image: x, volumes: [\"" + strings.Repeat(":", 100000) + "\"]}}"}, ""},
		"many errors":        {map[string]string{"compose.yaml": "services:\n" + manyServices(10_000, "{build: 5}")}, "more than 1000 errors"},
		"nulls":              {map[string]string{"compose.yaml": "services:\n  a:\n  b: {image: , build: , deploy: , ports: [ , ~], volumes: [~], depends_on: {a: ~}, networks: {x: ~}, healthcheck: ~}\nnetworks: ~\nvolumes: {a: ~}\nsecrets: {a: ~}"}, ""},
		"lists everywhere":   {map[string]string{"compose.yaml": "services: [a]\nnetworks: [b]\nname: [c]\ninclude: d\nx-trellis: [e]"}, ""},
		"reset everything":   {map[string]string{"compose.yaml": "services: !reset {}\n"}, ""},
		"two documents":      {map[string]string{"compose.yaml": "services: {a: {image: x, ports: [\"80:80\"]}}\n---\nservices: {a: [b]}\n---\nnull\n---\n"}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := write(t, test.files)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := cputime.Used(t)
			_, warnings, err := Load(context.Background(), Options{WorkingDir: dir, Environ: []string{}})
			took := cputime.Used(t) - start
			runtime.ReadMemStats(&after)
			if took > 30*time.Second {
				t.Errorf("it took %v of a processor", took)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 2<<30 {
				t.Errorf("it allocated %d MiB", grown>>20)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("the error does not say %q: %.500v", test.want, err)
			}
			var d Diagnostics
			if err != nil && !errors.As(err, &d) {
				t.Errorf("the error is no Diagnostics: %v", err)
			}
			for _, e := range append(d, warnings...) {
				if strings.ContainsAny(e.String(), "\x00\x1b\n") {
					t.Errorf("a message could move the cursor: %q", e.String())
				}
				if strings.Contains(e.Message, "internal error") {
					t.Errorf("it panicked: %v", e)
				}
				if len(e.String()) > 4096 {
					t.Errorf("a message has %d bytes", len(e.String()))
				}
			}
		})
	}
}

func mergeBomb(levels int) string {
	var b strings.Builder
	b.WriteString("x-0: &a0 {k: v}\n")
	for i := 1; i <= levels; i++ {
		fmt.Fprintf(&b, "x-%d: &a%d {l: *a%d, r: *a%d}\n", i, i, i-1, i-1)
	}
	return b.String() + fmt.Sprintf("services: {web: {image: x, <<: *a%d}}\n", levels)
}

func deepBlock(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i+1) + "a:\n")
	}
	return b.String()
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  k%d: v\n", i)
	}
	return b.String()
}

// routes are so many ports of a service, each with a route.
func routes(n int) string {
	var b strings.Builder
	b.WriteString("x-trellis: {gateway: {policy: {auth: none}}}\nservices: {web: {image: x, ports: [")
	for i := range n {
		fmt.Fprintf(&b, "{target: %d, x-trellis: {routes: [{path: /a}]}},", i+1)
	}
	return b.String() + "]}}\n"
}

func listOf(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "V%d=v, ", i)
	}
	return b.String()
}

// longLists are documents with as many different values in one list.
func longLists(documents, values int) string {
	var b strings.Builder
	b.WriteString("services: {web: {image: x}}\n")
	for i := range documents {
		b.WriteString("---\nx-a: [")
		for j := range values {
			fmt.Fprintf(&b, "%d-%d,", i, j)
		}
		b.WriteString("]\n")
	}
	return b.String()
}

// unset is a value of so many bytes that uses a variable after the other.
func unset(size int) string {
	var b strings.Builder
	for i := 0; b.Len()+10 < size; i++ {
		fmt.Fprintf(&b, "$A%d ", i)
	}
	return b.String()
}

// laughs are variables that double one another.
func laughs(n int) string {
	return doubling(n, "A0="+strings.Repeat("x", 100)+"\n", "A%d=${A%d}$A%d\n")
}

// escapedLaughs are laughs whose first variable is long: a quote in it ends nothing.
func escapedLaughs(n int) string {
	return doubling(n, "A0=\"\\\"\nX="+strings.Repeat("x", 1000)+"\"\n", "A%d=\"\\\"\nX=$A%d$A%d\"\n")
}

// numberedLaughs are laughs that write the dollar sign by its number.
func numberedLaughs(n int) string {
	return doubling(n, "A0="+strings.Repeat("x", 100)+"\n", `A%d="\0044A%d \0044A%d"`+"\n")
}

// doubling is a first variable and n more, each a line made of its number and twice that of the one before.
func doubling(n int, first, line string) string {
	var b strings.Builder
	b.WriteString(first)
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, line, i, i-1, i-1)
	}
	return b.String()
}

// laughingFiles are files of variables of one service, each of which doubles a variable of the one before.
func laughingFiles(n int) map[string]string {
	files, names := map[string]string{"0.env": "A=" + strings.Repeat("x", 100)}, "0.env"
	for i := 1; i <= n; i++ {
		name := fmt.Sprintf("%d.env", i)
		files[name] = "A=$A$A"
		names += ", " + name
	}
	files["compose.yaml"] = "services: {web: {image: x, env_file: [" + names + "]}}"
	return files
}

// stepWith is a project whose service has a step before its start.
func stepWith(key string) string {
	return "services: {web: {image: x, pre_start: [{command: [a], " + key + "}]}}"
}

func chain(n int) map[string]string {
	files := map[string]string{"compose.yaml": "include: [0.yaml]\nservices: {web: {image: x}}\n"}
	for i := range n {
		files[fmt.Sprintf("%d.yaml", i)] = fmt.Sprintf("include: [%d.yaml]\nservices: {s%d: {image: x}}\n", i+1, i)
	}
	files[fmt.Sprintf("%d.yaml", n)] = "services: {last: {image: x}}\n"
	return files
}

// TestPipesAreNotRead: a named pipe would hold Load for ever.
func TestPipesAreNotRead(t *testing.T) {
	dir := write(t, map[string]string{"compose.yaml": "services: {web: {image: x, env_file: pipe}}\nsecrets: {s: {file: pipe}}\nconfigs: {c: {file: pipe}}\n"})
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := Load(context.Background(), Options{WorkingDir: dir, Environ: []string{}})
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("the error is %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Load waits for a pipe")
	}
	if _, err := Contents(Project{Secrets: map[string]FileValue{"s": {File: filepath.Join(dir, "pipe")}}}, []string{}); err == nil {
		t.Error("Contents read a pipe")
	}
}

// TestSymlinksDoNotLeadOut: the way out of the project is closed for links too.
func TestSymlinksDoNotLeadOut(t *testing.T) {
	dir := write(t, map[string]string{"compose.yaml": "services: {web: {image: x, env_file: link}}\n"})
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	_, _, err := Load(context.Background(), Options{WorkingDir: dir, Environ: []string{}})
	if err == nil || !strings.Contains(err.Error(), "leads out of the project") {
		t.Errorf("the error is %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "root:") {
		t.Errorf("the error quotes the file: %v", err)
	}
}

// TestRepositoryIsTheProject: inside of a repository a file may come from above the project directory.
func TestRepositoryIsTheProject(t *testing.T) {
	dir := write(t, map[string]string{".git/HEAD": "ref", "shared.env": "A=1", "deploy/compose.yaml": "services: {web: {image: x, env_file: ../shared.env}}\n"})
	p, _, err := Load(context.Background(), Options{WorkingDir: filepath.Join(dir, "deploy"), Environ: []string{}})
	if err != nil || p.Services["web"].Environment["A"] != "1" {
		t.Errorf("%v %v", p.Services["web"].Environment, err)
	}
}
