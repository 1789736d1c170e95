package compose

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Positions tell where in the files the values of a Project stand. The zero value knows nothing.
type Positions struct {
	root *mark
	cwd  string
}

// Equal says that positions never make two projects different.
func (Positions) Equal(Positions) bool { return true }

// Position returns the place that supplied the value at a Compose path such as "services.web.ports[0].target": of the
// value itself, or of the nearest node above it that the files write. A mapping or list is where its key stands. The
// file is absolute, line and column count from 1; all are zero where nothing is known.
func (p Project) Position(path string) (file string, line, col int) {
	m, _ := p.Positions.find(path)
	if m == nil {
		return "", 0, 0
	}
	line, col = m.place()
	return m.file(), line, col
}

// short returns a place with the file's path as it is written in diagnostics.
func (p Positions) short(path string) (file string, line, col int) {
	file, line, col = Project{Positions: p}.Position(path)
	return shorten(file, p.cwd), line, col
}

// Places are positions, as file:line:column with the file relative to the project directory, by Compose path. Equal says
// that they never make two projects different.
type Places map[string]string

// Equal says that positions never make two projects different.
func (Places) Equal(Places) bool { return true }

// RoutePlace returns where a route stands: the one with that number of the service's port with that number; "" where that
// is not known.
func (p Project) RoutePlace(service string, port, route int) string {
	return p.Places[placeOfRoute(service, port, route)]
}

func placeOfRoute(service string, port, route int) string {
	return indexPath(indexPath(JoinPath("services", service)+".ports", port)+".x-trellis.routes", route)
}

// places returns the places of all routes.
func (l *loading) places(p Project) Places {
	all := Places{}
	for name, s := range p.Services {
		for i, port := range s.Ports {
			for j := range port.Trellis.Routes {
				if file, line, col := p.Position(l.routePath(name, port, i, j)); line > 0 {
					all[placeOfRoute(name, i, j)] = fmt.Sprintf("%s:%d:%d", shorten(file, p.WorkingDir), line, col)
				}
			}
		}
	}
	return all
}

// find returns the deepest mark on the way to path and whether it is the mark of path itself.
func (p Positions) find(path string) (*mark, bool) {
	m := p.root
	if m == nil {
		return nil, false
	}
	for _, s := range SplitPath(path) {
		next := m.child(s)
		if next == nil {
			return m, false
		}
		m = next
	}
	return m, true
}

// written returns the way to path as far as the file has it, where that ends at a single value.
func (p Positions) written(path string) string {
	m, way := p.root, ""
	if m == nil {
		return path
	}
	for _, s := range SplitPath(path) {
		next := m.child(s)
		if next == nil {
			break
		}
		if m.kind == listMark {
			way += s
		} else {
			way = JoinPath(way, s)
		}
		m = next
	}
	if m.kind == mappingMark || m.kind == listMark {
		return path
	}
	return way
}

// SplitPath takes a Compose path apart, as JoinPath put it together: keys as they are, indexes as "[0]". Keys that hold dots
// or brackets are written in double quotes.
func SplitPath(path string) []string {
	var segments []string
	for path != "" {
		switch path[0] {
		case '.':
			path = path[1:]
		case '[':
			end := strings.IndexByte(path, ']')
			if end < 0 {
				return append(segments, path)
			}
			segments, path = append(segments, path[:end+1]), path[end+1:]
		case '"':
			quoted, err := strconv.QuotedPrefix(path)
			if err != nil {
				return append(segments, path)
			}
			key, _ := strconv.Unquote(quoted)
			segments, path = append(segments, key), path[len(quoted):]
		default:
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				return append(segments, path)
			}
			segments, path = append(segments, path[:end]), path[end:]
		}
	}
	return segments
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_/@$*+:,=~-]+$`)

// JoinPath adds a key to a Compose path, as positions and diagnostics write it.
func JoinPath(path, key string) string {
	if !plainKey.MatchString(key) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// indexPath adds an index to a Compose path.
func indexPath(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
