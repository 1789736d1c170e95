package console_test

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestFilesAreServed(t *testing.T) {
	b := signedIn(t, &recorded{})
	b.cookie, b.page, b.origin = "", "", ""
	page := b.send(t, "GET", "/", "")
	html, _ := io.ReadAll(page.Body)
	if page.StatusCode != 200 || !strings.Contains(string(html), `<div id="root">`) || page.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("/: %s %s\n%s", page.Status, page.Header, html)
	}
	refs := regexp.MustCompile(`(?:src|href)="\./([^"]+)"`).FindAllStringSubmatch(string(html), -1)
	if len(refs) < 3 {
		t.Fatalf("the page loads %v", refs)
	}
	for _, ref := range refs {
		plain := b.send(t, "GET", "/"+ref[1], "")
		want, _ := io.ReadAll(plain.Body)
		tag := plain.Header.Get("ETag")
		if plain.StatusCode != 200 || len(want) == 0 || tag == "" {
			t.Errorf("/%s: %s, %d bytes, ETag %q", ref[1], plain.Status, len(want), tag)
			continue
		}
		b.header.Set("If-None-Match", tag)
		if again := b.send(t, "GET", "/"+ref[1], ""); again.StatusCode != 304 {
			t.Errorf("/%s again: %s", ref[1], again.Status)
		}
		b.header.Del("If-None-Match")
		b.header.Set("Accept-Encoding", "gzip, br")
		packed := b.send(t, "GET", "/"+ref[1], "")
		b.header.Del("Accept-Encoding")
		if packed.Header.Get("Content-Encoding") != "gzip" {
			continue // too small
		}
		r, err := gzip.NewReader(packed.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(r); string(got) != string(want) {
			t.Errorf("/%s is something else when it is packed", ref[1])
		}
	}
	for _, path := range []string{"/index.js", "/assets/", "/assets", "/../console.go", "/assets/%2e%2e/index.html", "/console.go"} {
		if resp := b.send(t, "GET", path, ""); resp.StatusCode == 200 {
			t.Errorf("%s is served", path)
		}
	}
}

// TestNoInlineScript keeps the page within its own content policy.
func TestNoInlineScript(t *testing.T) {
	html, err := os.ReadFile("dist/index.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range regexp.MustCompile(`<script[^>]*>`).FindAllString(string(html), -1) {
		if !strings.Contains(tag, "src=") {
			t.Errorf("inline script: %s", tag)
		}
	}
	if m := regexp.MustCompile(`(?i)<style|\son[a-z]+=|\sstyle=|javascript:`).FindString(string(html)); m != "" {
		t.Errorf("%q in the page, which the policy forbids", m)
	}
}

// TestBuiltFilesAreCurrent fails where a source in web/ changed and the console was not built: `make console`.
func TestBuiltFilesAreCurrent(t *testing.T) {
	var files []string
	for _, source := range []string{"index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts", "public", "src"} {
		err := filepath.WalkDir(filepath.Join("..", "web", source), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(files)
	sum := sha256.New()
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(sum, strings.TrimPrefix(filepath.ToSlash(file), "../web/")+"\x00")
		sum.Write(content)
		io.WriteString(sum, "\x00")
	}
	built, err := os.ReadFile("sources.sha256")
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != strings.TrimSpace(string(built)) {
		t.Errorf("web/ has changed since console/dist was built (%.12s, built of %.12s): run 'make console' and commit both", got, built)
	}
}
