// Package identity is the domain of people: their accounts, how they prove who they are, and the signed tokens by which
// every other service knows them without asking.
package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/mail"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"evergreen/database"
	"evergreen/rest"
)

// The lives of what a sign-in gives.
const (
	tokenLife   = 15 * time.Minute
	sessionLife = 30 * 24 * time.Hour
)

// After maxFailures wrong passwords for an address within failureWindow no more are tried until the window is over.
const (
	maxFailures   = 10
	failureWindow = 15 * time.Minute
)

var schema = []string{
	`CREATE TABLE accounts (
		id TEXT PRIMARY KEY, email TEXT NOT NULL UNIQUE, name TEXT NOT NULL, password TEXT NOT NULL,
		created INTEGER NOT NULL);
	CREATE TABLE sessions (
		hash BLOB PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE, expires INTEGER NOT NULL);
	CREATE INDEX sessions_by_expiry ON sessions (expires);
	CREATE TABLE failures (email TEXT PRIMARY KEY, count INTEGER NOT NULL, since INTEGER NOT NULL);
	CREATE TABLE signing_keys (id TEXT PRIMARY KEY, seed BLOB NOT NULL, starts INTEGER NOT NULL, ends INTEGER NOT NULL);`,
}

// Account is one person.
type Account struct {
	ID    string `json:"id"`
	Email string `json:"email"`
	Name  string `json:"name"`
}

// Session is a sign-in: Token is shown to services and lives 15 minutes; Secret is shown to identity alone, for new
// tokens, and lives 30 days.
type Session struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"` // of Token
	Secret  string    `json:"secret,omitempty"`
	Account Account   `json:"account"`
}

// The answers a person may get.
var (
	ErrTaken = &rest.Problem{Status: http.StatusConflict, Code: "email_taken", Field: "email",
		Title: "There is an account with this address already."}
	ErrWrong = &rest.Problem{Status: http.StatusUnauthorized, Code: "wrong_credentials",
		Title: "Address and password do not match."}
	ErrTooMany = &rest.Problem{Status: http.StatusTooManyRequests, Code: "too_many_attempts",
		Title: "Too many wrong passwords. Try again in a quarter of an hour.", RetryAfter: failureWindow}
	ErrNoSession = &rest.Problem{Status: http.StatusUnauthorized, Code: "no_session", Title: "Sign in again."}
	ErrBusy      = &rest.Problem{Status: http.StatusServiceUnavailable, Code: "busy",
		Title: "Many people are signing in. Try again in a moment.", RetryAfter: time.Second}
)

// Config says how a Store works. Its zero value is right for production but for Issuer.
type Config struct {
	Issuer   string // of tokens
	Cost     Cost
	Rotation Rotation
	Now      func() time.Time // nil: time.Now
}

// Store keeps accounts, sessions and signing keys.
type Store struct {
	db       *database.DB
	issuer   string
	hasher   *hasher
	rotation Rotation
	now      func() time.Time
	log      *slog.Logger
	last     atomic.Pointer[signer]
}

// NewStore makes the tables and the first keys.
func NewStore(ctx context.Context, db *database.DB, c Config, log *slog.Logger) (*Store, error) {
	s := &Store{db: db, issuer: c.Issuer, hasher: newHasher(c.Cost), rotation: c.Rotation.normal(), now: c.Now, log: log}
	if s.now == nil {
		s.now = time.Now
	}
	if err := db.Migrate(ctx, "identity", schema); err != nil {
		return nil, err
	}
	return s, s.Rotate(ctx, s.now())
}

// SignUp makes an account and opens a session. ErrTaken if the address has one; a Problem with a Field where something is
// missing.
func (s *Store) SignUp(ctx context.Context, email, name, password string) (Session, error) {
	email, err := address(email)
	if err != nil {
		return Session{}, err
	}
	name = strings.Join(strings.Fields(name), " ")
	switch {
	case name == "" || utf8.RuneCountInString(name) > 80:
		return Session{}, rest.Invalid("name", "A name of at most 80 characters is needed.")
	case utf8.RuneCountInString(password) < 8 || len(password) > 256:
		return Session{}, rest.Invalid("password", "A password of at least 8 characters is needed.")
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return Session{}, err
	}
	a := Account{ID: "acc_" + rand.Text(), Email: email, Name: name}
	return s.open(ctx, a, func(tx *database.Tx) error {
		r, err := tx.Exec(ctx, `INSERT INTO accounts (id, email, name, password, created)
			VALUES ($1, $2, $3, $4, $5) ON CONFLICT (email) DO NOTHING`, a.ID, a.Email, a.Name, hash, s.now().Unix())
		if err != nil {
			return fmt.Errorf("sign up: %w", err)
		}
		if n, err := r.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, ErrTaken)
		}
		return nil
	})
}

func address(s string) (string, error) {
	a, err := mail.ParseAddress(strings.TrimSpace(s))
	if err != nil || a.Name != "" || len(a.Address) > 254 {
		return "", rest.Invalid("email", "An e-mail address is needed.")
	}
	return strings.ToLower(a.Address), nil
}

// SignIn checks a password and opens a session: ErrWrong, or ErrTooMany after too many wrong ones.
func (s *Store) SignIn(ctx context.Context, email, password string) (Session, error) {
	email, err := address(email)
	if err != nil {
		return Session{}, ErrWrong
	}
	if blocked, err := s.blocked(ctx, email); err != nil || blocked {
		return Session{}, errors.Join(err, when(blocked, ErrTooMany))
	}
	a := Account{Email: email}
	hash := s.hasher.decoy
	err = s.db.Read().QueryRow(ctx, `SELECT id, name, password FROM accounts WHERE email = $1`, email).
		Scan(&a.ID, &a.Name, &hash)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return Session{}, fmt.Errorf("sign in: %w", err)
	}
	right, err := s.hasher.verify(ctx, password, hash)
	if err != nil {
		return Session{}, err
	}
	if !right || a.ID == "" {
		return Session{}, errors.Join(ErrWrong, s.failed(ctx, email))
	}
	return s.open(ctx, a, func(tx *database.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM failures WHERE email = $1`, a.Email)
		return err
	})
}

func when(cond bool, p *rest.Problem) error {
	if cond {
		return p
	}
	return nil
}

// open opens a session, in one transaction with before.
func (s *Store) open(ctx context.Context, a Account, before func(*database.Tx) error) (Session, error) {
	secret := rand.Text() + rand.Text()
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		if err := before(tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO sessions (hash, account, expires) VALUES ($1, $2, $3)`,
			digest(secret), a.ID, s.now().Add(sessionLife).Unix())
		return err
	})
	if err != nil {
		return Session{}, fmt.Errorf("open session: %w", err)
	}
	session, err := s.token(ctx, a)
	session.Secret = secret
	return session, err
}

func (s *Store) token(ctx context.Context, a Account) (Session, error) {
	now := s.now()
	key, err := s.signer(ctx, now)
	if err != nil {
		return Session{}, err
	}
	expires := now.Add(tokenLife)
	token, err := sign(Claims{Issuer: s.issuer, Audience: Audience, Subject: a.ID, Name: a.Name, ID: rand.Text(),
		IssuedAt: now.Unix(), Expires: expires.Unix()}, key.id, key.private)
	return Session{Token: token, Expires: expires.UTC().Truncate(time.Second), Account: a}, err
}

// Refresh gives a session a new token: ErrNoSession if it has ended.
func (s *Store) Refresh(ctx context.Context, secret string) (Session, error) {
	var a Account
	err := s.db.Read().QueryRow(ctx, `SELECT a.id, a.email, a.name FROM sessions s
		JOIN accounts a ON a.id = s.account WHERE s.hash = $1 AND s.expires > $2`, digest(secret), s.now().Unix()).
		Scan(&a.ID, &a.Email, &a.Name)
	if errors.Is(err, sql.ErrNoRows) {
		return Session{}, ErrNoSession
	}
	if err != nil {
		return Session{}, fmt.Errorf("refresh session: %w", err)
	}
	return s.token(ctx, a)
}

// SignOut ends a session. One that is unknown has ended already.
func (s *Store) SignOut(ctx context.Context, secret string) error {
	return s.db.Write(ctx, func(tx *database.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM sessions WHERE hash = $1`, digest(secret))
		return err
	})
}

// Account returns the account with the given id, or rest.ErrNotFound.
func (s *Store) Account(ctx context.Context, id string) (Account, error) {
	a := Account{ID: id}
	err := s.db.Read().QueryRow(ctx, `SELECT email, name FROM accounts WHERE id = $1`, id).Scan(&a.Email, &a.Name)
	if errors.Is(err, sql.ErrNoRows) {
		return a, rest.ErrNotFound
	}
	return a, err
}

func (s *Store) blocked(ctx context.Context, email string) (bool, error) {
	var n int
	err := s.db.Read().QueryRow(ctx, `SELECT count FROM failures WHERE email = $1 AND since > $2`, email,
		s.now().Add(-failureWindow).Unix()).Scan(&n)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, fmt.Errorf("sign in: %w", err)
	}
	return n >= maxFailures, nil
}

func (s *Store) failed(ctx context.Context, email string) error {
	return s.db.Write(ctx, func(tx *database.Tx) error {
		now := s.now()
		_, err := tx.Exec(ctx, `INSERT INTO failures (email, count, since) VALUES ($1, 1, $2)
			ON CONFLICT (email) DO UPDATE SET
				count = CASE WHEN failures.since > $3 THEN failures.count + 1 ELSE 1 END,
				since = CASE WHEN failures.since > $3 THEN failures.since ELSE $2 END`,
			email, now.Unix(), now.Add(-failureWindow).Unix())
		return err
	})
}

// forget removes what has expired at now.
func (s *Store) forget(ctx context.Context, now time.Time) error {
	return s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM sessions WHERE expires <= $1`, now.Unix()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM failures WHERE since <= $1`, now.Add(-failureWindow).Unix())
		return err
	})
}

func digest(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}
