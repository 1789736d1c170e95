// Package archive is the file that a backup is: a tar stream, compressed with zstd, in which whoever reads it can check
// everything before a byte of it is used.
//
// The first member says what it is (Head), the last one lists every member with its hash (the manifest); a file without
// its last member is torn and refused. Between them lie directories, regular files and symbolic links, depth first and
// within a directory in order of name. A reader holds one path of directories and two running hashes, whatever the
// archive holds: there is no member whose parent is not a directory that the archive has just made, so no link is ever
// followed, and no name comes twice. `tar --zstd -tf` lists it.
package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"path"
	"path/filepath"
	"strings"
	"time"

	"trellis/errdefs"
)

// Format is the newest format that this package writes and reads; older ones are read.
const Format = 1

// Head says what an archive is.
type Head struct {
	Format     int       `json:"format"`
	Trellis    string    `json:"trellis"` // the version that wrote it
	Project    string    `json:"project"`
	WorkingDir string    `json:"working_dir"`
	Host       string    `json:"host"`
	Created    time.Time `json:"created"`
}

// The kinds of a Member.
const (
	Dir  = 'd'
	File = 'f'
	Link = 'l' // a symbolic link; its target is anything
)

// Member is one entry of an archive.
type Member struct {
	Name     string // relative, clean, with slashes
	Kind     byte
	Mode     uint32 // permissions with setuid, setgid and sticky bit, as chmod(2) has them
	UID, GID int
	Modified time.Time
	Size     int64  // of a File
	Target   string // of a Link
}

const (
	headName     = "trellis-backup.json"
	manifestName = "manifest.txt"
	maxHead      = 64 << 10
	maxName      = 4096 // PATH_MAX
	maxDepth     = 512
)

// window is the most of the stream that a reader has to hold.
const window = 4 << 20

// ErrDamaged says that an archive is torn, or not as it was written.
var ErrDamaged = errors.New("the archive is damaged")

// line is the manifest's line for a member.
func (m Member) line(sum []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%x %c %04o %d:%d %d.%09d %d %q", sum, m.Kind, m.Mode, m.UID, m.GID, m.Modified.Unix(), m.Modified.Nanosecond(), m.Size, m.Name)
	if m.Kind == Link {
		fmt.Fprintf(&b, " -> %q", m.Target)
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// tree checks that members come depth first and in order. Its size is that of one path.
type tree struct{ path []level }

// level is a directory whose members are coming; level 0 is the archive itself.
type level struct {
	name string // whole
	last string // name of its last member, "" before the first
}

// enter takes the next member; closed are the directories that are complete now, innermost first.
func (t *tree) enter(m Member) (closed []string, err error) {
	if err := checkName(m.Name); err != nil {
		return nil, err
	}
	if t.path == nil {
		t.path = []level{{}}
	}
	dir, base := path.Split(m.Name)
	dir = strings.TrimSuffix(dir, "/")
	for len(t.path) > 1 && t.path[len(t.path)-1].name != dir {
		closed = append(closed, t.path[len(t.path)-1].name)
		t.path = t.path[:len(t.path)-1]
	}
	top := &t.path[len(t.path)-1]
	if top.name != dir {
		return nil, fmt.Errorf("%w: %q comes without its directory", errdefs.ErrInvalid, m.Name)
	}
	if base <= top.last {
		return nil, fmt.Errorf("%w: %q comes after %q", errdefs.ErrInvalid, m.Name, path.Join(dir, top.last))
	}
	top.last = base
	if m.Kind == Dir {
		if len(t.path) > maxDepth {
			return nil, fmt.Errorf("%w: %.80q lies more than %d directories deep", errdefs.ErrInvalid, m.Name, maxDepth)
		}
		t.path = append(t.path, level{name: m.Name})
	}
	return closed, nil
}

// end returns the directories that are still open, innermost first.
func (t *tree) end() (closed []string) {
	for i := len(t.path) - 1; i > 0; i-- {
		closed = append(closed, t.path[i].name)
	}
	t.path = nil
	return closed
}

func checkName(name string) error {
	if name == "" || name == "." || len(name) > maxName || path.Clean(name) != name || !filepath.IsLocal(name) || strings.ContainsRune(name, 0) {
		return fmt.Errorf("%w: %.80q is not the name of a member", errdefs.ErrInvalid, name)
	}
	return nil
}

func parseHead(b []byte) (Head, error) {
	var h Head
	if err := json.Unmarshal(b, &h); err != nil {
		return h, fmt.Errorf("%w: its head cannot be read: %w", ErrDamaged, err)
	}
	switch {
	case h.Format > Format:
		return h, fmt.Errorf("%w: it has format %d and this Trellis knows %d: it was written by Trellis %s, use that version or a later one",
			errdefs.ErrUnsupported, h.Format, Format, h.Trellis)
	case h.Format < 1:
		return h, fmt.Errorf("%w: its head has no format", ErrDamaged)
	}
	return h, nil
}

// add puts a member's line into a running hash.
func add(sums hash.Hash, m Member, sum []byte) { sums.Write(m.line(sum)) }
