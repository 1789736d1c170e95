package compose

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/sirupsen/logrus"
)

// prepareLibrary sets, once, what compose-go keeps for the whole process: nothing is logged, because the diagnostics say
// it with a place, and env_file knows the format raw, as it does in Docker Compose.
var prepareLibrary = sync.OnceFunc(func() {
	logrus.SetOutput(io.Discard)
	dotenv.RegisterFormat("raw", rawVariables)
})

// rawVariables reads KEY=value lines in which nothing is quoted or replaced; KEY alone takes the value it has.
func rawVariables(r io.Reader, _ string, vars map[string]string, lookup func(key string) (string, bool)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxFileSize+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimLeft(strings.TrimPrefix(lines.Text(), "\ufeff"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if key == "" || strings.ContainsAny(key, " \t") {
			return fmt.Errorf("line %d: a key is empty or holds a space", n)
		}
		if !ok {
			if value, ok = lookup(key); !ok {
				continue
			}
		}
		vars[key] = value
	}
	return lines.Err()
}

var (
	libraryPath    = regexp.MustCompile(`\b(?:services|networks|volumes|secrets|configs|jobs|models|include)(?:\.\[?[A-Za-z0-9_-]+\]?|\[\d+\])+`)
	decoderPath    = regexp.MustCompile(`'(?:Project\.)?((?:services|networks|volumes|secrets|configs|jobs|models)\[[^']*)'`)
	libraryService = regexp.MustCompile(`(?i)\bservice "([^"]+)"`)
	libraryPrefix  = regexp.MustCompile(`^(?:validating [^:]*: |invalid spec: |failed to parse [^:]*: )+`)
	environFile    = regexp.MustCompile(`env file (\S+) not found`)
)

// fromLibrary reports an error of compose-go that no check of ours foresaw, at the place that its text speaks of.
func (l *loading) fromLibrary(err error) {
	for _, text := range strings.Split(err.Error(), "\n") {
		text = libraryPrefix.ReplaceAllString(strings.TrimSpace(text), "")
		if text == "" || strings.HasPrefix(text, "decoding failed due to") {
			continue
		}
		path := ""
		if m := decoderPath.FindStringSubmatch(text); m != nil {
			path = l.decoderPath(m[1])
			text = strings.TrimSpace(strings.Replace(text, m[0], "", 1))
		} else if found := libraryPath.FindString(text); found != "" {
			path = fromLibraryPath(found)
			text = strings.TrimLeft(strings.Replace(text, found, "", 1), ": ")
		} else if m := libraryService.FindStringSubmatch(text); m != nil {
			path = JoinPath("services", m[1])
		} else if m := environFile.FindStringSubmatch(text); m != nil {
			path = l.pathWithValue(m[1])
		}
		l.errorPath(path, "%s", cut(text, 500))
	}
}

// fromLibraryPath turns "services.web.ports.[0]" or "services.web.ports.0" into "services.web.ports[0]".
func fromLibraryPath(found string) string {
	path := ""
	for i, s := range strings.Split(strings.ReplaceAll(found, "[", ".["), ".") {
		if s == "" {
			continue
		}
		s = strings.Trim(s, "[]")
		if _, err := strconv.Atoi(s); err == nil && i > 1 {
			path += "[" + s + "]"
			continue
		}
		path = JoinPath(path, s)
	}
	return path
}

// decoderPath turns "services[web].ports[0]" into "services.web.ports[0]": what stands in brackets is a key unless it
// is an index of a list.
func (l *loading) decoderPath(found string) string {
	path := ""
	for _, s := range SplitPath(found) {
		key := strings.Trim(s, "[]")
		m, _ := Positions{root: l.root}.find(path)
		if _, err := strconv.Atoi(key); err == nil && strings.HasPrefix(s, "[") && m != nil && m.kind == listMark {
			path += s
			continue
		}
		path = JoinPath(path, key)
	}
	return path
}

// pathWithValue returns the path of a scalar that ends in the last element of value, "" where there is none.
func (l *loading) pathWithValue(value string) string {
	base := value[strings.LastIndexByte(value, '/')+1:]
	var search func(m *mark, path string) string
	search = func(m *mark, path string) string {
		switch m.kind {
		case mappingMark:
			for _, k := range m.keys() {
				if found := search(m.fields[k], JoinPath(path, k)); found != "" {
					return found
				}
			}
		case listMark:
			for i, item := range m.items {
				if found := search(item, indexPath(path, i)); found != "" {
					return found
				}
			}
		default:
			if base != "" && strings.HasSuffix(m.text(), base) {
				return path
			}
		}
		return ""
	}
	return search(l.root, "")
}
