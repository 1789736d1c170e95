package kubernetes

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"trellis/compose"
	"trellis/errdefs"
	"trellis/state"
)

// A revision is a Secret of the project's namespace: the project as JSON, and the contents of the secrets and configs
// that it refers to. What changes about it afterwards is kept beside the project, which never does.
const (
	keyRevision = "revision" // state.Revision, gzip
	keyContents = "contents" // map of ref to content, gzip
	keyRollouts = "rollouts" // []state.Rollout
	keySettled  = "settled"  // settled

	labelRevision = "trellis.dev/revision-of"
	// keptRevisions are as many as there are to go back to; the last healthy one is always among them.
	keptRevisions = 10
	// maxRevision is what a Secret may hold, less what the API adds to it.
	maxRevision = 1<<20 - 16<<10
	// maxRollouts is what of that rollouts may take at most: all revisions are read again and again.
	maxRollouts = 64 << 10
)

var secrets = corev1.SchemeGroupVersion.WithKind("Secret")

func revisionName(project string, number int64) string {
	return cleaned(fmt.Sprintf("trellis-%s-r%d", project, number), maxName)
}

// settled is how a revision ended.
type settled struct {
	Outcome string    `json:"outcome"`
	At      time.Time `json:"at"`
	After   string    `json:"after,omitempty"` // what was noted under disturbedKey by then
}

// record is a revision as it is kept.
type record struct {
	state.Revision
	rollouts []state.Rollout
	contents map[string][]byte // by ref
	size     int               // what of it never changes, in its Secret

	settledAt    time.Time // zero: not settled
	settledAfter string    // settled.After
	mark         string    // what was noted under disturbedKey when the record was read
}

// history returns the revisions of a project, newest first.
func (c *Client) history(ctx context.Context, project string) ([]record, error) {
	mark, err := c.note(ctx, project, disturbedKey)
	if err != nil {
		return nil, fmt.Errorf("read the revisions of %s: %w", project, err)
	}
	return c.historyAfter(ctx, project, mark)
}

// historyAfter is history where what is noted under disturbedKey was read before.
func (c *Client) historyAfter(ctx context.Context, project, mark string) ([]record, error) {
	r, err := c.resource(secrets)
	if err != nil {
		return nil, err
	}
	list, err := r.List(ctx, metav1.ListOptions{LabelSelector: labelRevision + "=" + labelValue(project)})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the revisions of %s: %w", project, c.explain(err))
	}
	var all []record
	for _, o := range list.Items {
		one, err := recordOf(&o)
		if err != nil {
			return nil, fmt.Errorf("read Secret %s: %w: %w", o.GetName(), errdefs.ErrInvalid, err)
		}
		if one.Project.Name != project { // who wrote it did not note the name yet
			return nil, c.mistaken(one.Project.Name, project)
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b record) int { return cmp.Compare(b.Number, a.Number) })
	for i := range all {
		if i == 0 {
			all[i] = all[i].after(mark)
		} else if all[i].Outcome == state.Pending {
			all[i].Outcome = state.Superseded
			all[i].rollouts = ended(all[i].rollouts, state.Overtaken, "", all[i-1].AppliedAt)
		}
	}
	return all, nil
}

func recordOf(o *unstructured.Unstructured) (one record, err error) {
	data, _, err := unstructured.NestedStringMap(o.Object, "data")
	if err != nil {
		return one, err
	}
	var how settled
	for key, read := range map[string]func([]byte) error{
		keyRevision: func(b []byte) error { return unpack(b, &one.Revision) },
		keyContents: func(b []byte) error { return unpack(b, &one.contents) },
		keyRollouts: func(b []byte) error { return json.Unmarshal(b, &one.rollouts) },
		keySettled:  func(b []byte) error { return json.Unmarshal(b, &how) },
	} {
		b, err := base64.StdEncoding.DecodeString(data[key])
		if err != nil {
			return one, fmt.Errorf("%s: %w", key, err)
		}
		if len(b) == 0 && key != keyRevision {
			continue
		}
		if key == keyRevision || key == keyContents {
			one.size += len(b)
		}
		if err := read(b); err != nil {
			return one, fmt.Errorf("%s: %w", key, err)
		}
	}
	if how.Outcome != "" {
		one.Outcome, one.settledAt, one.settledAfter = how.Outcome, how.At, how.After
		if how.Outcome == state.Healthy {
			one.HealthyAt = &how.At
		}
	}
	return one, nil
}

// append writes rev down as the one after the newest. Somebody else has just done so: ErrConflict.
func (c *Client) append(ctx context.Context, one record) error {
	revision, err := pack(one.Revision)
	if err != nil {
		return err
	}
	contents, err := pack(one.contents)
	if err != nil {
		return err
	}
	if n := len(revision) + len(contents); n > maxRevision {
		return fmt.Errorf("%w: the project with its secrets and configs has %d bytes compressed, a Secret takes %d: mount what is large as a volume",
			errdefs.ErrInvalid, n, maxRevision)
	}
	project := one.Project.Name
	labels := labelsOf(project)
	labels[labelRevision] = labelValue(project)
	o := object(secrets, revisionName(project, one.Number), labels)
	o.Object["type"] = "trellis.dev/revision"
	o.Object["data"] = map[string]any{
		keyRevision: base64.StdEncoding.EncodeToString(revision), keyContents: base64.StdEncoding.EncodeToString(contents),
		keyRollouts: base64.StdEncoding.EncodeToString(mustJSON(one.rollouts)),
	}
	r, err := c.resource(secrets)
	if err != nil {
		return err
	}
	_, err = r.Create(ctx, o, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%w: somebody else has just deployed %s: plan again", errdefs.ErrConflict, project)
	}
	return c.explain(err)
}

// settle writes down how a revision ended, and its rollouts where there are any. One that was healthy before is so since then.
func (c *Client) settle(ctx context.Context, one record, outcome string) error {
	at := time.Now().UTC()
	if outcome == state.Healthy && one.HealthyAt != nil {
		at = *one.HealthyAt
	}
	how, err := json.Marshal(settled{outcome, at, one.mark})
	if err != nil {
		return err
	}
	data := map[string]any{keySettled: how}
	if len(one.rollouts) > 0 {
		data[keyRollouts] = fitting(one.rollouts, min(maxRollouts, 1<<20-1<<10-one.size))
	}
	patch, err := json.Marshal(map[string]any{"data": data})
	if err != nil {
		return err
	}
	r, err := c.resource(secrets)
	if err != nil {
		return err
	}
	_, err = r.Patch(ctx, revisionName(one.Project.Name, one.Number), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	return c.explain(err)
}

// fitting returns rollouts as they are kept, in so many bytes: with fewer of the last lines of what failed, where these are long. That it did
// is what the way back depends on.
func fitting(all []state.Rollout, room int) []byte {
	all = slices.Clone(all)
	for {
		text := mustJSON(all)
		i := slices.IndexFunc(all, func(r state.Rollout) bool { return r.Failure != nil && len(r.Failure.Log) > 0 })
		if len(text) <= room || i < 0 {
			return text
		}
		why := *all[i].Failure
		if n := len(why.Log); n > 1 {
			why.Log = why.Log[(n+1)/2:]
		} else if line := why.Log[0]; len(line) > 1 {
			why.Log = []string{strings.ToValidUTF8(line[:len(line)/2], "")}
		} else {
			why.Log = nil
		}
		all[i].Failure = &why
	}
}

// forgetOld removes the revisions that nobody goes back to any more.
func (c *Client) forgetOld(ctx context.Context, all []record) error {
	r, err := c.resource(secrets)
	if err != nil {
		return err
	}
	healthy := slices.IndexFunc(all, func(r record) bool { return r.Outcome == state.Healthy })
	for i := keptRevisions; i < len(all); i++ {
		if i == healthy {
			continue
		}
		if err := r.Delete(ctx, revisionName(all[i].Project.Name, all[i].Number), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return c.explain(err)
		}
	}
	return nil
}

// refKey returns the key under which the refs of a project are made: who sees a ref cannot test guesses of a short secret
// against it. It is made once, where create says so, and nil where there is none.
func (c *Client) refKey(ctx context.Context, project string, create bool) ([]byte, error) {
	r, err := c.resource(secrets)
	if err != nil {
		return nil, err
	}
	name := cleaned("trellis-"+project+"-key", maxName)
	o, err := r.Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		text, _, _ := unstructured.NestedString(o.Object, "data", "key")
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) != sha256.Size {
			return nil, fmt.Errorf("read Secret %s: %w: it holds no key", name, errdefs.ErrInvalid)
		}
		return key, nil
	}
	if !apierrors.IsNotFound(err) || !create {
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, c.explain(err)
	}
	key := newKey()
	o = object(secrets, name, labelsOf(project))
	o.Object["data"] = map[string]any{"key": base64.StdEncoding.EncodeToString(key)}
	_, err = r.Create(ctx, o, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		return c.refKey(ctx, project, false)
	}
	return key, c.explain(err)
}

func newKey() []byte {
	key := make([]byte, sha256.Size)
	rand.Read(key)
	return key
}

func refOf(key, content []byte) string {
	sum := hmac.New(sha256.New, key)
	sum.Write(content)
	return hex.EncodeToString(sum.Sum(nil))
}

// withRefs returns the project with the Ref of each secret, config and bind mount that has a content set, and the contents
// by ref.
func withRefs(p compose.Project, contents map[string][]byte, key []byte) (compose.Project, map[string][]byte) {
	kept := map[string][]byte{}
	fill := func(kind string, values map[string]compose.FileValue) map[string]compose.FileValue {
		filled := make(map[string]compose.FileValue, len(values))
		for name, v := range values {
			if content, ok := contents[kind+"/"+name]; ok {
				v.Ref = refOf(key, content)
				kept[v.Ref] = content
			}
			v.Content = ""
			filled[name] = v
		}
		return filled
	}
	p.Secrets, p.Configs = fill("secrets", p.Secrets), fill("configs", p.Configs)
	p.Services = maps.Clone(p.Services)
	for name, svc := range p.Services {
		svc.Volumes = slices.Clone(svc.Volumes)
		for i, m := range svc.Volumes {
			if content, ok := contents[folderPrefix+m.Source]; ok && m.Type == compose.MountBind {
				svc.Volumes[i].Ref = refOf(key, content)
				kept[svc.Volumes[i].Ref] = content
			}
		}
		p.Services[name] = svc
	}
	return p, kept
}

// refsOf returns the refs of a project to contents, by the keys that those have.
func refsOf(p compose.Project) map[string]string {
	refs := map[string]string{}
	for kind, values := range map[string]map[string]compose.FileValue{"secrets": p.Secrets, "configs": p.Configs} {
		for name, v := range values {
			refs[kind+"/"+name] = v.Ref
		}
	}
	for _, svc := range p.Services {
		for _, m := range svc.Volumes {
			refs[folderPrefix+m.Source] = cmp.Or(m.Ref, refs[folderPrefix+m.Source])
		}
	}
	maps.DeleteFunc(refs, func(_, ref string) bool { return ref == "" })
	return refs
}

// contentsOf returns the contents by "secrets/NAME", "configs/NAME" and "folders/PATH" of what a revision refers to. One is
// missing: ErrNotFound.
func contentsOf(p compose.Project, kept map[string][]byte) (map[string][]byte, error) {
	out := map[string][]byte{}
	var missing []error
	refs := refsOf(p)
	for _, key := range slices.Sorted(maps.Keys(refs)) {
		content, ok := kept[refs[key]]
		if !ok {
			missing = append(missing, fmt.Errorf("%s: %w: its content is not kept", key, errdefs.ErrNotFound))
		}
		out[key] = content
	}
	return out, errors.Join(missing...)
}

func pack(v any) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return nil, err
	}
	err := w.Close()
	return b.Bytes(), err
}

// maxUnpacked bounds what a revision may become: it stands in a Secret that others may write.
const maxUnpacked = 32 << 20

func unpack(b []byte, v any) error {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return json.NewDecoder(io.LimitReader(r, maxUnpacked)).Decode(v)
}
