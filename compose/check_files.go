package compose

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/format"
	"github.com/compose-spec/compose-go/v2/types"
)

// specName is what the schema of the specification allows, safeName what is safe as part of a path and of a host name.
var specName = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

var safeName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// checkMarks checks what can be seen in the merged tree without resolving it, so that it is said beside every other
// error.
func (l *loading) checkMarks() {
	for _, section := range []string{"services", "jobs", "networks", "volumes", "secrets", "configs"} {
		for _, name := range l.root.at(section).keys() {
			m, path := l.root.at(section, name), JoinPath(section, name)
			if specName.MatchString(name) && !safeName.MatchString(name) {
				l.errorKey(m, path, "%s cannot be a name: start with a letter, digit or _, and use at most 128 letters, digits and . _ -", quoted(name))
			}
			if n := m.at("name"); n != nil && section != "services" && section != "jobs" && n.text() != "" && !safeName.MatchString(n.text()) && m.at("external").text() != "true" {
				l.errorMark(n, path+".name", "%s cannot be a name: start with a letter, digit or _, and use at most 128 letters, digits and . _ -", quoted(n.text()))
			}
		}
	}
	for _, name := range l.root.at("services").keys() {
		l.checkService(l.root.at("services", name), JoinPath("services", name))
	}
	for _, section := range []string{"secrets", "configs"} {
		for _, name := range l.root.at(section).keys() {
			l.checkSource(l.root.at(section, name), JoinPath(section, name), section)
		}
	}
	l.checkEnvironment()
}

func (l *loading) checkService(m *mark, path string) {
	if ports := m.at("ports"); ports != nil {
		for i, item := range ports.items {
			if ip := item.at("host_ip"); ip != nil && ip.kind == scalarMark && net.ParseIP(ip.text()) == nil {
				l.errorMark(ip, indexPath(path+".ports", i)+".host_ip", "%s is not an IP address: write one, or leave host_ip out for all of this machine's", quoted(ip.text()))
			}
			if item.kind == scalarMark && !item.reset {
				if n := rangeSize(item.text()); n > maxPorts || len(ports.items)+n > maxPorts {
					l.errorMark(item, indexPath(path+".ports", i), "makes more than %d ports of the service: name those that are used", maxPorts)
				} else if _, err := types.ParsePortConfig(item.text()); err != nil {
					l.errorMark(item, indexPath(path+".ports", i), "%s is not a port: %v; write [[IP:]HOST:]CONTAINER[/udp], such as 8080:80", quoted(item.text()), lowerFirst(err))
				}
			}
		}
	}
	l.checkShortForms(m, path)
	if !l.active(m) {
		return // nobody reads its files
	}
	read := l.checkVariableFiles(m, path, environment{})
	if steps := m.at("pre_start"); steps != nil {
		for i, step := range steps.items {
			l.checkVariableFiles(step, indexPath(path+".pre_start", i), read)
		}
	}
}

// active says whether a service runs with the profiles that are asked for.
func (l *loading) active(m *mark) bool {
	profiles := texts(m.at("profiles"))
	return len(profiles) == 0 || slices.ContainsFunc(l.profiles, func(p string) bool { return p == "*" || slices.Contains(profiles, p) })
}

// checkVariableFiles looks at the files that a service, or a step before its start, has variables and labels from. It returns the
// variables, with those of before, which a step takes over.
func (l *loading) checkVariableFiles(m *mark, path string, before environment) environment {
	set := environment{}
	if own := m.at("environment"); own != nil {
		for name, value := range normal(own, []string{"services", "", "environment"}).fields {
			if value.value != nil {
				set[name] = value.text()
			}
		}
	}
	read := set.under(before)
	for _, key := range []string{"env_file", "label_file"} {
		list := m.at(key)
		if list == nil {
			continue
		}
		items := []*mark{list}
		if list.kind == listMark {
			items = list.items
		}
		vars, known := read, []environment{l.env, set}
		if key == "label_file" {
			vars, known = environment{}, nil
		}
		for i, item := range items {
			l.checkEnvFile(item, indexPath(path+"."+key, i), vars, known...)
		}
	}
	return set.under(read)
}

// checkShortForms checks values that compose-go takes apart and, where it cannot, does not say where they stand.
func (l *loading) checkShortForms(m *mark, path string) {
	for _, form := range []struct {
		key, want string
		fault     func(text string) error
	}{
		{"volumes", "a mount: %v; write [SOURCE:]TARGET[:OPTIONS], such as data:/var/lib/data:ro", func(text string) error {
			_, err := format.ParseVolume(text)
			return err
		}},
		{"devices", "a device: %v; write SOURCE[:TARGET[:rwm]], or source, target and permissions each by itself", func(text string) error {
			if strings.Count(text, ":") > 2 {
				return errors.New("it has too many colons")
			}
			return nil
		}},
		{"extra_hosts", "a host: %v; write NAME=ADDRESS", func(text string) error {
			_, err := types.NewHostsList([]string{text})
			return err
		}},
	} {
		list := m.at(form.key)
		if list == nil || list.kind != listMark {
			continue
		}
		for i, item := range list.items {
			if item.kind != scalarMark || item.reset {
				continue
			}
			if err := form.fault(item.text()); err != nil {
				text := strings.TrimPrefix(strings.TrimSuffix(err.Error(), ": "+item.text()), "invalid spec: "+item.text()+": ")
				l.errorMark(item, indexPath(path+"."+form.key, i), "%s is not "+form.want, quoted(item.text()), text)
			}
		}
	}
}

// checkEnvFile looks at a file before compose-go reads it, and adds its variables to vars. It may use those of known, which win.
func (l *loading) checkEnvFile(item *mark, path string, vars environment, known ...environment) {
	file, required := item, true
	if item.kind == mappingMark {
		file = item.at("path")
		required = item.at("required").text() != "false"
	}
	if file.text() == "" || file.text() == "/dev/null" {
		return
	}
	where := absolute(expandHome(file.text()), item.src.dir)
	if !l.inside(where, file.text(), item, path) {
		return
	}
	optional := ""
	if strings.Contains(path, ".env_file") {
		optional = fmt.Sprintf(", or write {path: %s, required: false}", file.text())
	}
	content, err := readLimited(where)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !required:
	case errors.Is(err, fs.ErrNotExist):
		l.errorMark(item, path, "%s does not exist: create it%s", shorten(where, l.cwd), optional)
	case err != nil:
		l.errorMark(item, path, "%s: %v", shorten(where, l.cwd), err)
	default:
		format := item.at("format").text()
		if format != "" && format != "raw" {
			l.errorMark(item, path, "the format %s is not known: it may be raw", quoted(format))
		} else if err := readableVariables(content, format, vars, known...); err != nil {
			l.errorMark(item, path, "%s cannot be read: %v", shorten(where, l.cwd), maskLine(err))
		}
	}
}

// readableVariables reads an environment file as compose-go will, for its errors, and adds its variables to vars.
func readableVariables(content []byte, format string, vars environment, known ...environment) error {
	all := append(known[:len(known):len(known)], environment{}.under(vars)) // as they are before the file
	lookup := func(name string) (value string, ok bool) {
		for _, env := range all {
			if value, ok = env[name]; ok {
				break
			}
		}
		return value, ok
	}
	if format == "raw" {
		return rawVariables(bytes.NewReader(content), "", vars, lookup)
	}
	ok, err := boundedVariables(content, vars, known...)
	if ok || err != nil {
		return err
	}
	_, err = dotenv.ParseWithLookup(bytes.NewReader(content), lookup)
	return err
}

// expandHome replaces a leading ~ as compose-go does.
func expandHome(path string) string {
	if path == "~" || strings.HasPrefix(path, "~/") {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, strings.TrimPrefix(path, "~"))
		}
	}
	return path
}

// checkSource checks where the content of a secret or config comes from.
func (l *loading) checkSource(m *mark, path, section string) {
	if m.kind != mappingMark {
		return
	}
	ways := []string{"file", "environment"}
	if section == "configs" {
		ways = append(ways, "content")
	}
	var set []string
	for _, w := range ways {
		if m.at(w) != nil {
			set = append(set, w)
		}
	}
	external := m.at("external").text() == "true"
	switch {
	case external && len(set) > 0:
		l.errorMark(m.at(set[0]), JoinPath(path, set[0]), "is set and so is external: leave out one of them")
	case len(set) > 1:
		l.errorMark(m.at(set[1]), JoinPath(path, set[1]), "is set beside %s: leave out one of them", set[0])
	case len(set) == 0 && !external && m.at("driver") == nil:
		l.errorMark(m, path, "has no content: set one of %s", strings.Join(ways, ", "))
	}
	if f := m.at("file"); f.text() != "" {
		l.inside(absolute(expandHome(f.text()), m.src.dir), f.text(), f, path+".file")
	}
}

// checkEnvironment checks that the environment asked for is one.
func (l *loading) checkEnvironment() {
	name := l.opt.Environment
	if name == "" {
		return
	}
	if _, declared := l.project.Environments[name]; declared {
		return
	}
	for _, f := range l.files {
		if strings.HasSuffix(strings.TrimSuffix(f, filepath.Ext(f)), "."+name) {
			return
		}
	}
	l.errorAt(l.first(), 0, 0, JoinPath("x-trellis.environments", name), "there is no environment %s: add %s, or declare it here%s",
		name, shorten(filepath.Join(l.dir, "compose."+name+".yaml"), l.cwd), didYouMean(name, l.root.at("x-trellis", "environments").keys()))
}

// checkVersion says that version has no meaning any more.
func (l *loading) checkVersion() {
	if v := l.root.at("version"); v != nil {
		l.warnAt(v.file(), v.keyLine, v.keyCol, "version", "is obsolete and ignored: remove it")
	}
}

func lowerFirst(err error) string {
	s := err.Error()
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
