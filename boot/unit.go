package boot

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"trellis/errdefs"
)

// Unit is a program to run when the machine starts, and one to run when it stops.
type Unit struct {
	Name        string // "trellis-shop-1f3a5c.service"
	Description string
	// Start and Stop are command lines; the programs are absolute paths. Start returns when what it has started runs by
	// itself.
	Start, Stop []string
	Env         []string // "KEY=value"
	// Needs are absolute paths that have to be mounted. One that systemd cannot be told is left out.
	Needs []string
}

// mark is the first line of every unit file of this package.
const mark = "# Written by `trellis boot enable`; `trellis boot disable` removes it.\n"

// text returns the unit file.
//
// What Start leaves running belongs to the unit, so nothing but an end of the unit may stop it: one program that is out
// of memory must not (OOMPolicy), and there is no bound on tasks. The oldest systemd that it is for is 239.
func (u Unit) text(user bool) ([]byte, error) {
	if err := u.validate(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(mark)
	fmt.Fprintf(&b, "[Unit]\nDescription=%s\n", specifiers(u.Description))
	target := "default.target"
	if !user {
		target = "multi-user.target"
		b.WriteString("Wants=network-online.target\nAfter=network-online.target\n")
	}
	for _, path := range u.Needs {
		if !strings.ContainsAny(path, `"'\`) && !strings.ContainsFunc(path, unicode.IsControl) { // systemd has no way to write these here
			fmt.Fprintf(&b, "RequiresMountsFor=\"%s\"\n", specifiers(path))
		}
	}
	b.WriteString("\n[Service]\nType=oneshot\nRemainAfterExit=yes\n")
	fmt.Fprintf(&b, "ExecStart=%s\nExecStop=%s\n", commandLine(u.Start), commandLine(u.Stop))
	b.WriteString("TimeoutStopSec=5min\nOOMPolicy=continue\nTasksMax=infinity\n")
	for _, kv := range u.Env {
		fmt.Fprintf(&b, "Environment=%s\n", quote(kv))
	}
	fmt.Fprintf(&b, "\n[Install]\nWantedBy=%s\n", target)
	return b.Bytes(), nil
}

func (u Unit) validate() error {
	if filepath.Base(u.Name) != u.Name || !strings.HasSuffix(u.Name, ".service") {
		return fmt.Errorf("%w: %q is not the name of a service unit", errdefs.ErrInvalid, u.Name)
	}
	for _, line := range [][]string{u.Start, u.Stop} {
		if len(line) == 0 || !filepath.IsAbs(line[0]) {
			return fmt.Errorf("%w: a command needs the absolute path of its program", errdefs.ErrInvalid)
		}
		if strings.ContainsAny(line[0], "\"'\\*?[") || strings.ContainsFunc(line[0], unicode.IsControl) { // string_is_safe in its source
			return fmt.Errorf("%w: systemd runs no program at %q: move it, or link to it from another place", errdefs.ErrUnsupported, line[0])
		}
	}
	for _, text := range append(append(append([]string{u.Description}, u.Start...), u.Stop...), u.Env...) {
		if strings.ContainsRune(text, 0) {
			return fmt.Errorf("%w: %q has a zero byte in it", errdefs.ErrInvalid, text)
		}
	}
	if strings.ContainsAny(u.Description, "\n\r") {
		return fmt.Errorf("%w: the description %q is not one line", errdefs.ErrInvalid, u.Description)
	}
	return nil
}

// commandLine writes a command as ExecStart has it (systemd.service(5)). In arguments $ begins a variable and is written
// twice; in the path of the program it is not replaced.
func commandLine(args []string) string {
	words := make([]string, len(args))
	for i, arg := range args {
		if i > 0 {
			arg = strings.ReplaceAll(arg, "$", "$$")
		}
		words[i] = quote(arg)
	}
	return strings.Join(words, " ")
}

// quote writes text as one word, with C's escapes.
func quote(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return specifiers(b.String())
}

// specifiers writes text so that systemd replaces nothing in it: % begins a specifier.
func specifiers(text string) string { return strings.ReplaceAll(text, "%", "%%") }

// Cron returns the line of a crontab that runs command when the machine starts; "" where one line cannot say it.
func Cron(env, command []string) string {
	if strings.ContainsFunc(strings.Join(append(slices.Clone(env), command...), ""), unicode.IsControl) {
		return ""
	}
	words := []string{"@reboot"}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		words = append(words, name+"="+shellWord(value))
	}
	for _, arg := range command {
		words = append(words, shellWord(arg))
	}
	// In a crontab % ends the line, quoted or not.
	return strings.ReplaceAll(strings.Join(words, " "), "%", `\%`)
}

// shellWord quotes text for a shell where it has to be.
func shellWord(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-:=@+,", r)
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !plain(r) }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
