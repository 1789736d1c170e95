package compose

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestContents(t *testing.T) {
	dir := write(t, map[string]string{
		"compose.yaml": `
services: {web: {image: x, secrets: [token, key, dotenv], configs: [inline, file]}}
secrets:
  token: {environment: TOKEN}
  dotenv: {environment: FROM_DOTENV}
  key: {file: key.pem}
  elsewhere: {external: true}
configs:
  inline: {content: "port=${PORT:-80}\n"}
  file: {file: site.conf}
  variable: {environment: TOKEN}
`,
		".env": "FROM_DOTENV=from-dotenv\nTOKEN=loses", "key.pem": "key\x00\xff", "site.conf": "",
	})
	environ := []string{"TOKEN=s3cret"}
	p, _, err := Load(context.Background(), Options{WorkingDir: dir, Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Contents(p, environ)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{
		"secrets/token": []byte("s3cret"), "secrets/dotenv": []byte("from-dotenv"), "secrets/key": []byte("key\x00\xff"),
		"configs/inline": []byte("port=80\n"), "configs/file": {}, "configs/variable": []byte("s3cret"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestProjectHoldsNoSecret: what is written into revisions, plans and logs.
func TestProjectHoldsNoSecret(t *testing.T) {
	dir := write(t, map[string]string{"compose.yaml": `
services: {web: {image: x, secrets: [token, key]}}
secrets: {token: {environment: TOKEN}, key: {file: key.pem}}
configs: {c: {environment: TOKEN}}
`, "key.pem": "hidden-in-a-file"})
	p, _, err := Load(context.Background(), Options{WorkingDir: dir, Environ: []string{"TOKEN=hidden-in-the-environment"}})
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%+v", p) + indented(t, p); strings.Contains(text, "hidden-in") {
		t.Errorf("the project holds a secret:\n%s", text)
	}
}

// TestErrorsQuoteNoVariables: what is wrong with a file of variables is said without what stands in it.
func TestErrorsQuoteNoVariables(t *testing.T) {
	for _, line := range []string{"A='hunter2", "A=\"hunter2", "A hunter2=1", "hunter2'=1", "A=\"${hunter2\"", "A=${B:?}hunter2", "hunter2\"x=1", "A='x\nhunter2"} {
		for name, files := range map[string]map[string]string{
			".env":     {"compose.yaml": one, ".env": line},
			"env_file": {"compose.yaml": "services: {web: {image: x, env_file: v.env}}\n", "v.env": line},
			"include":  {"compose.yaml": "include: [{path: c.yaml, env_file: v.env}]\n" + one, "c.yaml": one, "v.env": line},
		} {
			_, _, err := Load(context.Background(), Options{WorkingDir: write(t, files), Environ: []string{}})
			if err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q as %s: the error is %v", line, name, err)
			}
		}
	}
}

func TestContentsThatCannotBeRead(t *testing.T) {
	dir := write(t, map[string]string{"compose.yaml": `
services: {web: {image: x}}
secrets:
  a: {file: missing.pem}
  b: {environment: NOT_SET}
configs:
  c: {file: big}
  d: {file: dir}
`, "big": strings.Repeat("hidden", maxContent), "dir/x": ""})
	p, _, err := Load(context.Background(), Options{WorkingDir: dir, Environ: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Contents(p, []string{})
	var d Diagnostics
	if !errors.As(err, &d) || len(d) != 4 {
		t.Fatalf("the error is %v", err)
	}
	for i, want := range []string{
		"compose.yaml:4:3: secrets.a: the file " + dir + "/missing.pem does not exist: create it",
		"compose.yaml:5:3: secrets.b: the variable NOT_SET is not set",
		"compose.yaml:7:3: configs.c: the file " + dir + "/big cannot be read: has ",
		"compose.yaml:8:3: configs.d: the file " + dir + "/dir cannot be read: is a directory",
	} {
		if !strings.HasPrefix(d[i].String(), want) {
			t.Errorf("%s\nis not %s", d[i], want)
		}
	}
	if strings.Contains(err.Error(), "hidden") {
		t.Error("the error holds content")
	}
}
