package identity

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"trellis/errdefs"
	"trellis/lazyregexp"
)

// A key is "trk_ID_SECRET": the prefix makes one found that was published by mistake, the id finds its line, and the
// secret has 256 bits, so that a plain SHA-256 of it can't be searched. A list of keys is text with a line for each:
//
//	ID HASH NAME SCOPES CREATED EXPIRES
//
// with "-" for no scopes and for no end; times are RFC 3339; "#" begins a comment line.
const keyPrefix = "trk_"

var (
	keyID    = lazyregexp.New(`^[a-z0-9]{8,32}$`)
	keyWords = lazyregexp.New(`^[A-Za-z0-9._:/@+-]{1,128}$`)
)

// APIKey is a key as it is kept.
type APIKey struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"` // whose it is
	Scopes  []string  `json:"scopes"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
	hash    [sha256.Size]byte
}

// NewAPIKey makes a key. text is shown to its owner and kept nowhere. An impossible name or scope: ErrInvalid.
func NewAPIKey(name string, scopes []string, created, expires time.Time) (key APIKey, text string, err error) {
	for _, word := range append([]string{name}, scopes...) {
		if !keyWords.MatchString(word) {
			return key, "", fmt.Errorf("make an API key: %w: %q: letters, digits and . _ : / @ + - only", errdefs.ErrInvalid, word)
		}
	}
	id := strings.ToLower(rand.Text()[:12])
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	text = keyPrefix + id + "_" + hex.EncodeToString(secret)
	return APIKey{
		ID: id, Name: name, Scopes: scopes, Created: created.UTC().Truncate(time.Second), Expires: expires, hash: sha256.Sum256([]byte(text)),
	}, text, nil
}

// Line returns the key as a line of a list, without its line feed.
func (k APIKey) Line() string {
	scopes, expires := "-", "-"
	if len(k.Scopes) > 0 {
		scopes = strings.Join(k.Scopes, ",")
	}
	if !k.Expires.IsZero() {
		expires = k.Expires.UTC().Format(time.RFC3339)
	}
	return strings.Join([]string{k.ID, hex.EncodeToString(k.hash[:]), k.Name, scopes, k.Created.Format(time.RFC3339), expires}, " ")
}

// APIKeys is a list of keys.
type APIKeys struct {
	List []APIKey
	byID map[string]*APIKey
}

// ParseAPIKeys reads a list. One line that can't be read makes all of it invalid: a key that was to be revoked could
// stand in it.
func ParseAPIKeys(list string) (*APIKeys, error) {
	keys := &APIKeys{byID: map[string]*APIKey{}}
	s := bufio.NewScanner(strings.NewReader(list))
	for n := 1; s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		k, err := parseKey(line)
		if err != nil { // the line itself is not told: it may be a key in clear
			return nil, fmt.Errorf("read API keys: %w: line %d: %w; 'trellis key create' writes such lines", errdefs.ErrInvalid, n, err)
		}
		if slices.ContainsFunc(keys.List, func(o APIKey) bool { return o.ID == k.ID }) {
			return nil, fmt.Errorf("read API keys: %w: line %d: the id stands twice", errdefs.ErrInvalid, n)
		}
		keys.List = append(keys.List, k)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read API keys: %w: %w", errdefs.ErrInvalid, err)
	}
	for i := range keys.List {
		keys.byID[keys.List[i].ID] = &keys.List[i]
	}
	return keys, nil
}

func parseKey(line string) (APIKey, error) {
	f := strings.Fields(line)
	if len(f) != 6 {
		return APIKey{}, fmt.Errorf("%d fields, not 6", len(f))
	}
	k := APIKey{ID: f[0], Name: f[2]}
	hash, err := hex.DecodeString(f[1])
	if err != nil || len(hash) != sha256.Size || !keyID.MatchString(k.ID) || !keyWords.MatchString(k.Name) {
		return APIKey{}, fmt.Errorf("no id, hash and name")
	}
	copy(k.hash[:], hash)
	if f[3] != "-" {
		k.Scopes = strings.Split(f[3], ",")
		for _, s := range k.Scopes {
			if !keyWords.MatchString(s) {
				return APIKey{}, fmt.Errorf("a scope is not one")
			}
		}
	}
	if k.Created, err = time.Parse(time.RFC3339, f[4]); err != nil {
		return APIKey{}, fmt.Errorf("no time of creation")
	}
	if f[5] != "-" {
		if k.Expires, err = time.Parse(time.RFC3339, f[5]); err != nil {
			return APIKey{}, fmt.Errorf("no time of expiry")
		}
	}
	return k, nil
}

// Verify returns whose key a text is; ErrRefused where it is none, or has expired.
func (k *APIKeys) Verify(text string, now time.Time) (*Caller, error) {
	rest, ok := strings.CutPrefix(text, keyPrefix)
	id, _, _ := strings.Cut(rest, "_")
	if !ok || len(text) > 256 {
		return nil, fmt.Errorf("%w: not an API key", ErrRefused)
	}
	hash := sha256.Sum256([]byte(text))
	key := k.byID[id]
	if key == nil || subtle.ConstantTimeCompare(hash[:], key.hash[:]) != 1 {
		return nil, fmt.Errorf("%w: unknown API key", ErrRefused)
	}
	if !key.Expires.IsZero() && !now.Before(key.Expires) {
		return nil, fmt.Errorf("%w: API key %s has expired", ErrRefused, key.ID)
	}
	return NewCaller(key.Name, key.Expires, map[string]any{"scope": strings.Join(key.Scopes, " "), "key": key.ID}), nil
}
