package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"
)

// Cost is what checking one password takes. The zero value is the smallest that OWASP recommends for argon2id: 19 MiB,
// two passes, one lane (Password Storage Cheat Sheet).
type Cost struct {
	Memory uint32 // KiB
	Passes uint32
	// Parallel bounds how many passwords are hashed at once, and with it memory; 0 is 4.
	Parallel int
}

// hasher hashes passwords. Each hash carries its own parameters, so that Cost can change at any time.
type hasher struct {
	cost  Cost
	slots chan struct{}
	decoy string // the hash of no password: unknown accounts cost the same time
}

const (
	saltLen = 16
	hashLen = 32
)

func newHasher(cost Cost) *hasher {
	if cost.Memory == 0 {
		cost.Memory = 19 << 10
	}
	if cost.Passes == 0 {
		cost.Passes = 2
	}
	if cost.Parallel == 0 {
		cost.Parallel = 4
	}
	h := &hasher{cost: cost, slots: make(chan struct{}, cost.Parallel)}
	h.decoy = h.encode(rand.Text())
	return h
}

func (h *hasher) acquire(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ErrBusy
	}
}

// hash returns password's hash in PHC form, or ErrBusy if ctx ends before there is room for the work.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	if err := h.acquire(ctx); err != nil {
		return "", err
	}
	defer func() { <-h.slots }()
	return h.encode(password), nil
}

func (h *hasher) encode(password string) string {
	salt := make([]byte, saltLen)
	rand.Read(salt)
	key := argon2.IDKey([]byte(password), salt, h.cost.Passes, h.cost.Memory, 1, hashLen)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, h.cost.Memory, h.cost.Passes,
		b64.EncodeToString(salt), b64.EncodeToString(key))
}

// verify reports whether password belongs to encoded. It takes as long for a wrong one.
func (h *hasher) verify(ctx context.Context, password, encoded string) (bool, error) {
	p, err := parsePHC(encoded)
	if err != nil {
		return false, err
	}
	if err := h.acquire(ctx); err != nil {
		return false, err
	}
	defer func() { <-h.slots }()
	key := argon2.IDKey([]byte(password), p.salt, p.passes, p.memory, p.lanes, uint32(len(p.key)))
	return subtle.ConstantTimeCompare(key, p.key) == 1, nil
}

type phc struct {
	memory, passes uint32
	lanes          uint8
	salt, key      []byte
}

var errHash = errors.New("malformed password hash")

func parsePHC(s string) (phc, error) {
	var p phc
	var version int
	var rest string
	if _, err := fmt.Sscanf(s, "$argon2id$v=%d$m=%d,t=%d,p=%d$%s", &version, &p.memory, &p.passes, &p.lanes, &rest); err != nil {
		return p, errHash
	}
	for i := range len(rest) {
		if rest[i] != '$' {
			continue
		}
		var err1, err2 error
		p.salt, err1 = base64.RawStdEncoding.DecodeString(rest[:i])
		p.key, err2 = base64.RawStdEncoding.DecodeString(rest[i+1:])
		bounded := p.memory >= 8 && p.memory <= 1<<20 && p.passes >= 1 && p.passes <= 64 && p.lanes >= 1
		if errors.Join(err1, err2) != nil || version != argon2.Version || !bounded || len(p.salt) < 8 ||
			len(p.key) < 16 || len(p.key) > 64 {
			return p, errHash
		}
		return p, nil
	}
	return p, errHash
}
