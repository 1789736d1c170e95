package kubernetes

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"

	"trellis/compose"
	"trellis/errdefs"
)

// maxContent is what a Secret or ConfigMap may hold, in bytes; Kubernetes' own limit.
const maxContent = 1 << 20

// Folder is what a bind mount of the project holds.
type Folder struct {
	// File says that it is one file, whose content is under "".
	File bool `json:"file,omitempty"`
	// Files are its files by path within it. nil: there are too many of them, or what is no file.
	Files map[string]File `json:"files"`
}

// File is one file of a Folder.
type File struct {
	Content    []byte `json:"content"`
	Executable bool   `json:"executable,omitempty"`
}

// ReadFolders reads what the bind mounts of a project hold, as far as a cluster can take it along. What does not exist is
// not in the result. The error names what could not be read.
func ReadFolders(p compose.Project) (map[string]Folder, error) {
	out := map[string]Folder{}
	for _, name := range p.ServiceNames() {
		for _, m := range p.Services[name].Volumes {
			if _, read := out[m.Source]; read || m.Type != compose.MountBind || !within(p.WorkingDir, m.Source) || isCode(p.Services[name], m) {
				continue
			}
			f, err := readFolder(m.Source)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			out[m.Source] = f
		}
	}
	return out, nil
}

func readFolder(root string) (Folder, error) {
	info, err := os.Stat(root)
	if err != nil {
		return Folder{}, err
	}
	if !info.IsDir() {
		if !info.Mode().IsRegular() || info.Size() > maxContent {
			return Folder{File: true}, nil
		}
		content, err := os.ReadFile(root)
		return Folder{File: true, Files: map[string]File{"": {content, info.Mode()&0o111 != 0}}}, err
	}
	if root, err = filepath.EvalSymlinks(root); err != nil { // which a walk does not follow
		return Folder{}, err
	}
	files, size := map[string]File{}, int64(0)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if size += info.Size(); size > maxContent || !info.Mode().IsRegular() || len(files) > 1000 {
			files = nil
			return fs.SkipAll
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		files[filepath.ToSlash(rel)] = File{content, info.Mode()&0o111 != 0}
		return err
	})
	if errors.Is(err, fs.ErrPermission) {
		return Folder{}, nil // data of a program that runs as somebody else
	}
	return Folder{Files: files}, err
}

// folderPrefix begins the key of a folder among the contents that go along with a project, as "secrets/" does.
const folderPrefix = "folders/"

// FolderContents are folders as Keep takes them beside the contents of secrets and configs.
func FolderContents(folders map[string]Folder) map[string][]byte {
	out := map[string][]byte{}
	for path, f := range folders {
		out[folderPrefix+path] = mustJSON(f)
	}
	return out
}

// foldersOf takes the folders out of contents.
func foldersOf(contents map[string][]byte) (map[string]Folder, error) {
	out := map[string]Folder{}
	for key, content := range contents {
		path, ok := strings.CutPrefix(key, folderPrefix)
		if !ok {
			continue
		}
		var f Folder
		if err := json.Unmarshal(content, &f); err != nil {
			return nil, fmt.Errorf("read what %s holds: %w: %w", path, errdefs.ErrInvalid, err)
		}
		out[path] = f
	}
	return out, nil
}

// within says whether a path is dir or below it.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && dir != "" && filepath.IsLocal(rel)
}

// isCode says whether a bind mount is the code that the service's image is built of, which the image has.
func isCode(svc compose.Service, m compose.Mount) bool {
	return svc.Build != nil && !m.ReadOnly && (within(svc.Build.Context, m.Source) || within(m.Source, svc.Build.Context))
}

// bindMount mounts a file or folder of this machine as a cluster can have it: what belongs to the project goes along, what
// is the machine's own is each node's.
func (r *renderer) bindMount(svc compose.Service, v compose.Mount, at string, m *mounted) {
	mount := corev1.VolumeMount{MountPath: v.Target, ReadOnly: v.ReadOnly, Name: "bind-" + short(v.Target)}
	folder, exists := r.opt.Folders[v.Source]
	switch {
	case isCode(svc, v):
		r.note(at, "has no effect: the image has the code that it is built of")
		return
	case !within(r.p.WorkingDir, v.Source):
		if !path.IsAbs(v.Source) || slices.Contains(strings.Split(v.Source, "/"), "..") {
			r.note(at, "has no effect: %s is a path of this machine's user", v.Source)
			return
		}
		r.note(at, "is changed: it is %s of each node, whatever that has there", v.Source)
		m.volumes = append(m.volumes, corev1.Volume{Name: mount.Name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path.Clean(v.Source)}}})
		m.mounts = append(m.mounts, mount)
		return
	case exists && folder.File && folder.Files == nil, exists && v.ReadOnly && folder.Files == nil:
		r.note(at, "has no effect: it is more than the 1 MiB that can go along: copy it into the image")
		return
	case exists && len(folder.Files) > 0:
		mount.ReadOnly = true
		if !v.ReadOnly {
			r.note(at, "is changed: what it holds now goes along, and cannot be written: add :ro, or use a volume")
		}
		r.folder(svc, v, folder, mount, m)
		return
	case v.ReadOnly:
		r.note(at, "has no effect: there is nothing at %s", v.Source)
		return
	}
	name := cleaned(r.names.of[svc.Name]+"-"+filepath.Base(v.Source), maxName-11) + "-" + short(r.relative(v.Source))
	if !r.rendered["volumes/"+name] {
		r.rendered["volumes/"+name] = true
		r.add(r.claim(r.meta(svc, name), corev1.ReadWriteOnce))
	}
	r.note(at, "is changed: the cluster gives it a volume of its own, %s, which is empty at first", name)
	m.volumes = append(m.volumes, corev1.Volume{Name: mount.Name, VolumeSource: claimed(name, false)})
	mount.SubPath = volumeRoot
	m.mounts = append(m.mounts, mount)
	if r.podsOf(svc) > 1 {
		m.shared = append(m.shared, v.Source)
	}
}

// claims says whether a bind mount becomes a volume of the cluster: a folder of the project that nothing goes along of.
func (r *renderer) claims(svc compose.Service, m compose.Mount) bool {
	f, exists := r.opt.Folders[m.Source]
	return m.Type == compose.MountBind && !m.ReadOnly && within(r.p.WorkingDir, m.Source) && !isCode(svc, m) && (!exists || !f.File && len(f.Files) == 0)
}

// relative is a path as the project has it, so that another checkout gives the same names.
func (r *renderer) relative(path string) string {
	rel, err := filepath.Rel(r.p.WorkingDir, path)
	if err != nil {
		return path
	}
	return filepath.ToSlash(rel)
}

// folder mounts the files of a folder, or one file, from a ConfigMap.
func (r *renderer) folder(svc compose.Service, v compose.Mount, f Folder, mount corev1.VolumeMount, m *mounted) {
	data := map[string][]byte{}
	source := &corev1.ConfigMapVolumeSource{DefaultMode: pointer(int32(0o444))}
	for _, name := range slices.Sorted(maps.Keys(f.Files)) {
		key := dataKey(strings.ReplaceAll(name, "/", "__"))
		if f.File {
			key = dataKey(filepath.Base(v.Source))
			mount.SubPath = key
		}
		if _, taken := data[key]; taken || key == "" || len(key) > 200 {
			key = "file-" + short(name)
		}
		data[key] = f.Files[name].Content
		item := corev1.KeyToPath{Key: key, Path: cmp.Or(name, key)}
		if f.Files[name].Executable {
			item.Mode = pointer(int32(0o555))
		}
		source.Items = append(source.Items, item)
	}
	source.Name = r.configMap(svc, cleaned(r.names.of[svc.Name]+"-"+filepath.Base(v.Source), maxName), data, nil, "")
	m.volumes = append(m.volumes, corev1.Volume{Name: mount.Name, VolumeSource: corev1.VolumeSource{ConfigMap: source}})
	m.mounts = append(m.mounts, mount)
}

func isText(content []byte) bool { return utf8.Valid(content) && !slices.Contains(content, 0) }
