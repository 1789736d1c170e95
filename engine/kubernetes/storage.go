package kubernetes

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	units "github.com/docker/go-units"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
	"trellis/engine"
)

// volumeRoot is the folder of a claimed volume that is mounted: at the top there may be lost+found, which programs that want
// an empty folder do not expect.
const volumeRoot = "volume"

// volumeSize is the size of a volume that nothing gives another.
const volumeSize = 1 << 30

// mounted is what a pod mounts.
type mounted struct {
	volumes []corev1.Volume
	mounts  []corev1.VolumeMount
	claims  []corev1.PersistentVolumeClaim // of each pod its own
	shared  []string                       // keys of the volumes that more pods than one write
}

// mounts renders everything that a service mounts, and the objects behind it.
func (r *renderer) mounts(svc compose.Service, k kind) mounted {
	m := &mounted{}
	for i, v := range svc.Volumes {
		at := at(svc, "volumes") + index(i)
		switch v.Type {
		case compose.MountVolume:
			r.volumeMount(svc, v, at, k, m)
		case compose.MountBind:
			r.bindMount(svc, v, at, m)
		case compose.MountTmpfs:
			r.memory(m, fmt.Sprintf("tmpfs-%d", i), v.Target, v.TmpfsSize, v.ReadOnly)
			if v.TmpfsMode != 0 {
				r.note(at+".tmpfs.mode", "has no effect: a folder in memory can be written by everyone")
			}
		default:
			r.note(at, "has no effect: a cluster mounts no %s", v.Type)
		}
	}
	for i, text := range svc.Tmpfs {
		target, size, readOnly := tmpfs(text)
		r.memory(m, fmt.Sprintf("tmp-%d", i), target, size, readOnly)
	}
	if svc.ShmSize > 0 {
		r.memory(m, "shm", "/dev/shm", svc.ShmSize, false)
	}
	r.files(svc, m)
	seen := map[string]bool{}
	m.mounts = slices.DeleteFunc(m.mounts, func(v corev1.VolumeMount) bool {
		again := seen[path.Clean(v.MountPath)]
		seen[path.Clean(v.MountPath)] = true
		return again // the first one holds, and a cluster refuses two
	})
	m.volumes = slices.DeleteFunc(m.volumes, func(v corev1.Volume) bool {
		return !slices.ContainsFunc(m.mounts, func(o corev1.VolumeMount) bool { return o.Name == v.Name })
	})
	slices.Sort(m.shared)
	m.shared = slices.Compact(m.shared)
	return *m
}

// tmpfs reads "path[:size=64m,mode=1777,ro]".
func tmpfs(text string) (target string, size int64, readOnly bool) {
	target, options, _ := strings.Cut(text, ":")
	for _, option := range strings.Split(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "size":
			size, _ = units.RAMInBytes(value)
		case "ro":
			readOnly = true
		}
	}
	return target, max(size, 0), readOnly
}

// memory mounts a folder in memory.
func (r *renderer) memory(m *mounted, name, target string, size int64, readOnly bool) {
	source := &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}
	if size > 0 {
		source.SizeLimit = resource.NewQuantity(size, resource.BinarySI)
	}
	m.volumes = append(m.volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: source}})
	m.mounts = append(m.mounts, corev1.VolumeMount{Name: name, MountPath: target, ReadOnly: readOnly})
}

// volumeMount mounts a volume: one of the project's by its claim, one without a name by a claim that each pod has itself.
func (r *renderer) volumeMount(svc compose.Service, v compose.Mount, at string, k kind, m *mounted) {
	mount := corev1.VolumeMount{MountPath: v.Target, ReadOnly: v.ReadOnly, SubPath: v.Subpath}
	if !filepath.IsLocal(cmp.Or(v.Subpath, ".")) {
		mount.SubPath = ""
		r.note(at+".volume.subpath", "has no effect: it leads out of the volume")
	}
	if v.Source == "" {
		mount.Name = "data-" + short(v.Target)
		if k == statefulSet {
			mount.SubPath = path.Join(volumeRoot, mount.SubPath)
		}
		m.mounts = append(m.mounts, mount)
		if k == statefulSet {
			m.claims = append(m.claims, *r.claim(metav1.ObjectMeta{Name: mount.Name, Labels: r.labels(svc)}, corev1.ReadWriteOnce))
			return
		}
		m.volumes = append(m.volumes, corev1.Volume{Name: mount.Name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		r.note(at, "is changed: its data is that of the pod, and goes with it: give the volume a name to keep it")
		return
	}
	mount.Name = "volume-" + short(v.Source)
	if source, readOnly, _ := driven(r.p.Volumes[v.Source].DriverOpts); readOnly && source.NFS == nil {
		mount.ReadOnly = true // of the kinds of volume only NFS says so itself
	}
	if source := r.projectVolume(v.Source); source.PersistentVolumeClaim != nil && !r.p.Volumes[v.Source].External {
		mount.SubPath = path.Join(volumeRoot, mount.SubPath)
	}
	m.mounts = append(m.mounts, mount)
	if !slices.ContainsFunc(m.volumes, func(o corev1.Volume) bool { return o.Name == mount.Name }) {
		m.volumes = append(m.volumes, corev1.Volume{Name: mount.Name, VolumeSource: r.projectVolume(v.Source)})
	}
	if r.users[v.Source] > 1 && m.volumes[len(m.volumes)-1].PersistentVolumeClaim != nil {
		m.shared = append(m.shared, v.Source)
	}
}

// projectVolume is a volume of the project: what its driver mounts, or its claim.
func (r *renderer) projectVolume(key string) corev1.VolumeSource {
	v := r.p.Volumes[key]
	if source, _, ok := driven(v.DriverOpts); ok {
		if lost := undriven(v.DriverOpts["o"]); len(lost) > 0 {
			r.note(compose.JoinPath("volumes", key)+".driver_opts.o", "is changed: a pod mounts it as its node does, without %s", strings.Join(lost, ", "))
		}
		return source
	}
	if v.External {
		return claimed(externalVolume(v, key), false)
	}
	name := r.volumeName(key)
	if !r.rendered["volumes/"+name] {
		r.rendered["volumes/"+name] = true
		meta := r.meta(compose.Service{}, name)
		meta.Annotations = r.annotated(nil, v.Labels, compose.JoinPath("volumes", key)+".labels")
		r.add(r.claim(meta, corev1.ReadWriteOnce))
		path := compose.JoinPath("volumes", key)
		size := r.opt.VolumeSize
		if size == 0 {
			size = volumeSize
			r.note(path, "is changed: the cluster is asked for %s, and the volume is empty at first, whatever the image has there", units.BytesSize(float64(size)))
		}
		if r.users[key] > 1 {
			r.note(path, "is changed: pods that share it are on one node, because most volumes of a cluster can be mounted by one only")
		}
		if len(v.DriverOpts) > 0 || v.Driver != "" && v.Driver != "local" {
			r.note(path+".driver", "has no effect: the cluster's own storage class makes the volume")
		}
	}
	return claimed(name, false)
}

// externalVolume is the name of the claim for a volume that is somebody else's.
func externalVolume(v compose.Volume, key string) string {
	return cleaned(cmp.Or(v.Name, key), maxName)
}

// volumeName is that of the claim for a volume of the project; two keys never share one.
func (r *renderer) volumeName(key string) string {
	if name := cleaned(key, maxName); name == key || !r.hasVolume(name) {
		return name
	}
	return cleaned(key, maxName-11) + "-" + short(key)
}

// hasVolume says whether another key of the project is, or becomes, this name.
func (r *renderer) hasVolume(name string) bool {
	n := 0
	for key := range r.p.Volumes {
		if key == name {
			return true
		}
		if cleaned(key, maxName) == name {
			n++
		}
	}
	return n > 1
}

func claimed(name string, readOnly bool) corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name, ReadOnly: readOnly}}
}

// claim asks the cluster for storage.
func (r *renderer) claim(meta metav1.ObjectMeta, mode corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	size := r.opt.VolumeSize
	if size == 0 {
		size = volumeSize
	}
	c := &corev1.PersistentVolumeClaim{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}, ObjectMeta: meta,
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{mode},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(size, resource.BinarySI)}},
		},
	}
	if r.opt.StorageClass != "" {
		c.Spec.StorageClassName = &r.opt.StorageClass
	}
	return c
}

// undriven are the options of a mount that a pod cannot ask for.
func undriven(options string) (all []string) {
	for _, option := range strings.Split(options, ",") {
		if key, _, _ := strings.Cut(option, "="); !slices.Contains([]string{"", "addr", "size", "bind", "ro", "rw"}, key) {
			all = append(all, option)
		}
	}
	return all
}

// driven reads the options of the driver local where they mount what a pod can mount itself: NFS, memory, a folder of the
// node. readOnly says that nobody may write there.
func driven(opts map[string]string) (source corev1.VolumeSource, readOnly, ok bool) {
	options := map[string]string{}
	for _, option := range strings.Split(opts["o"], ",") {
		key, value, _ := strings.Cut(option, "=")
		options[key] = value
	}
	_, bind := options["bind"]
	_, readOnly = options["ro"]
	switch kind := opts["type"]; {
	case (kind == "nfs" || kind == "nfs4") && options["addr"] != "" && strings.HasPrefix(strings.TrimPrefix(opts["device"], ":"), "/"):
		return corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: options["addr"], Path: strings.TrimPrefix(opts["device"], ":"), ReadOnly: readOnly}}, readOnly, true
	case kind == "tmpfs":
		source := &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}
		if size, err := units.RAMInBytes(options["size"]); err == nil && size > 0 {
			source.SizeLimit = resource.NewQuantity(size, resource.BinarySI)
		}
		return corev1.VolumeSource{EmptyDir: source}, readOnly, true
	case kind == "none" && bind && path.IsAbs(opts["device"]):
		return corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path.Clean(opts["device"])}}, readOnly, true
	}
	return corev1.VolumeSource{}, false, false
}

// files mounts the secrets and configs of a service, each as one file.
func (r *renderer) files(svc compose.Service, m *mounted) {
	for i, use := range svc.Secrets {
		value, path := r.p.Secrets[use.Source], at(svc, "secrets")+index(i)
		content, has := r.opt.Contents["secrets/"+use.Source]
		name, key := SecretObject(r.p, use.Source)
		if has {
			name = r.secret(compose.Service{}, cleaned(use.Source, maxName), map[string][]byte{key: content}, value.Labels, compose.JoinPath("secrets", use.Source))
		} else {
			r.note(path, "is changed: its content is not here: the namespace has to have a Secret %s with the key %s", name, key)
		}
		source := corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, DefaultMode: mode(use, 0o444)}}
		m.file("secret-"+short(use.Source, fmt.Sprint(*mode(use, 0o444))), engine.SecretTarget(use), key, source)
		r.checkOwner(use, path)
	}
	for i, use := range svc.Configs {
		value, path := r.p.Configs[use.Source], at(svc, "configs")+index(i)
		content, has := r.opt.Contents["configs/"+use.Source]
		name, key := cleaned(cmp.Or(value.Name, use.Source), maxName), dataKey(use.Source)
		if has {
			name = r.configMap(compose.Service{}, cleaned(use.Source, maxName), map[string][]byte{key: content}, value.Labels, compose.JoinPath("configs", use.Source))
		} else {
			r.note(path, "is changed: its content is not here: the namespace has to have a ConfigMap %s with the key %s", name, key)
		}
		source := corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}, DefaultMode: mode(use, 0o444)}}
		m.file("config-"+short(use.Source, fmt.Sprint(*mode(use, 0o444))), engine.ConfigTarget(use), key, source)
		r.checkOwner(use, path)
	}
}

// SecretObject returns the Secret, and the key in it, at which a secret is that somebody else gives: one of which the content
// is not here.
func SecretObject(project compose.Project, name string) (object, key string) {
	return cleaned(cmp.Or(project.Secrets[name].Name, name), maxName), dataKey(name)
}

// mode is that of a file: everyone in the pod may read it where the file does not say otherwise, for nobody can own it.
func mode(use compose.FileMount, otherwise int32) *int32 {
	if use.Mode != nil {
		return pointer(int32(*use.Mode & 0o777))
	}
	return &otherwise
}

func (r *renderer) checkOwner(use compose.FileMount, path string) {
	for _, owner := range [][2]string{{".uid", use.UID}, {".gid", use.GID}} {
		if owner[1] != "" && owner[1] != "0" {
			r.note(path+owner[0], "has no effect: files of a cluster are root's; set mode so that the program may read it")
		}
	}
}

// file mounts one key of a Secret or ConfigMap at a path.
func (m *mounted) file(name, target, key string, source corev1.VolumeSource) {
	if !slices.ContainsFunc(m.volumes, func(v corev1.Volume) bool { return v.Name == name }) {
		m.volumes = append(m.volumes, corev1.Volume{Name: name, VolumeSource: source})
	}
	m.mounts = append(m.mounts, corev1.VolumeMount{Name: name, MountPath: target, SubPath: key, ReadOnly: true})
}

// dataKey is a name as the key of a Secret or ConfigMap.
func dataKey(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
			return c
		}
		return '_'
	}, strings.TrimLeft(name, "."))
}

// secret renders a Secret whose name is that of its content, and returns the name.
func (r *renderer) secret(svc compose.Service, name string, data map[string][]byte, labels map[string]string, path string) string {
	name = hashed(name, data)
	if !r.rendered["secrets/"+name] {
		r.rendered["secrets/"+name] = true
		r.fits(path, data)
		s := &corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: r.meta(svc, name),
			Type: corev1.SecretTypeOpaque, Immutable: pointer(true), Data: data,
		}
		s.Annotations = r.annotated(s.Annotations, labels, path+".labels")
		r.add(s)
	}
	return name
}

// configMap renders a ConfigMap whose name is that of its content, and returns the name.
func (r *renderer) configMap(svc compose.Service, name string, data map[string][]byte, labels map[string]string, path string) string {
	name = hashed(name, data)
	if r.rendered["configs/"+name] {
		return name
	}
	r.rendered["configs/"+name] = true
	r.fits(path, data)
	c := &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: r.meta(svc, name), Immutable: pointer(true),
	}
	c.Annotations = r.annotated(c.Annotations, labels, path+".labels")
	for key, content := range data {
		if isText(content) {
			c.Data = with(c.Data, key, string(content))
			continue
		}
		if c.BinaryData == nil {
			c.BinaryData = map[string][]byte{}
		}
		c.BinaryData[key] = content
	}
	r.add(c)
	return name
}

// fits refuses what a cluster cannot keep in one object.
func (r *renderer) fits(path string, data map[string][]byte) {
	size := 0
	for _, content := range data {
		size += len(content)
	}
	if size > maxContent {
		r.refuse(path, fmt.Sprintf("%d bytes are more than the %d that a cluster keeps in one object: mount what is large as a volume, or put it into the image", size, maxContent))
	}
}

// hashed adds to a name what its content is, so that a change is another object and a rollback finds the old one.
func hashed(name string, data map[string][]byte) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(data)) {
		all = append(all, key, string(data[key]))
	}
	return name + "-" + short(all...)
}
