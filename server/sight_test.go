package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
	"trellis/telemetry"
)

// TestPausesFallBack: the pauses before a part of telemetry runs again grow while it fails, and no failure of long ago prolongs them.
func TestPausesFallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		runs := []time.Duration{0, 0, 0, 0, 0, 0, 0, 0, time.Hour, 0, 0}
		var pauses []time.Duration
		ended := time.Now()
		(&sight{log: slog.New(slog.DiscardHandler)}).again(ctx, "part", func(context.Context) error {
			pauses = append(pauses, time.Since(ended))
			if len(runs) == 0 {
				cancel()
				return nil
			}
			time.Sleep(runs[0])
			runs, ended = runs[1:], time.Now()
			return errors.New("no disk")
		})
		const s = time.Second
		if want := []time.Duration{0, s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s, s, 2 * s, 4 * s}; !slices.Equal(pauses, want) {
			t.Errorf("%v, want %v", pauses, want)
		}
	})
}

// rotated is a project whose secrets are others in its second revision, which has not taken all instances' place.
type rotated struct{ subject }

func (rotated) observe(context.Context) (engine.State, error) {
	return engine.State{Services: []engine.Service{{Name: "web", Instances: []engine.Instance{{ID: "web-1", Revision: 1}, {ID: "web-2", Revision: 2}}}}}, nil
}

func (r rotated) latest(ctx context.Context) (state.Revision, error) { return r.revision(ctx, 2) }

func (rotated) revision(_ context.Context, number int64) (state.Revision, error) {
	if number < 1 || number > 2 {
		return state.Revision{}, errdefs.ErrNotFound
	}
	environment := map[string]string{}
	for _, name := range []string{"DB_PASS", "MYSQL_PWD", "SENTRY_DSN", "AWS_CREDENTIALS", "SIGNING_KEY", "API_TOKEN", "TOKEN_FILE", "COLOR"} {
		environment[name] = fmt.Sprintf("%s-of-%d", strings.ToLower(name), number)
	}
	return state.Revision{Number: number, Project: compose.Project{
		Secrets:  map[string]compose.FileValue{"key": {Ref: fmt.Sprintf("secret-of-%d", number)}},
		Services: map[string]compose.Service{"web": {Name: "web", Environment: environment}},
	}}, nil
}

func (rotated) content(ref string) ([]byte, error) { return []byte(ref), nil }

// TestNoRevisionsSecretIsKept: while the instances of two revisions run the secrets of both are taken out.
func TestNoRevisionsSecretIsKept(t *testing.T) {
	s := newSight(watching{subject: rotated{}, project: "shop", dir: t.TempDir(), changed: &broadcast{}}, slog.New(slog.DiscardHandler))
	before := s.redactor.Load()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = s.followSecrets(ctx) })
	defer func() { cancel(); running.Wait() }()
	for deadline := time.Now().Add(30 * time.Second); s.redactor.Load() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no secret was looked for")
		}
	}
	for number := 1; number <= 2; number++ {
		for name, secret := range map[string]bool{
			"secret": true, "db_pass": true, "mysql_pwd": true, "sentry_dsn": true, "aws_credentials": true, "signing_key": true,
			"api_token": true, "token_file": false, "color": false,
		} {
			value := fmt.Sprintf("%s-of-%d", name, number)
			records := []telemetry.Record{{Time: time.Now(), Service: "web", Body: "it is " + value}}
			s.AddRecords(records)
			if got := records[0].Body != "it is "+value; got != secret {
				t.Errorf("%s was taken out: %t, want %t: %s", value, got, secret, records[0].Body)
			}
		}
	}
}

// composed is a project of one revision.
type composed struct {
	subject
	project compose.Project
}

func (composed) observe(context.Context) (engine.State, error) { return engine.State{}, nil }
func (composed) content(ref string) ([]byte, error)            { return []byte(ref), nil }
func (c composed) latest(context.Context) (state.Revision, error) {
	return state.Revision{Number: 1, Project: c.project}, nil
}

// TestWhatIsTakenOut: a hook's secrets too, whose output is kept as well; and no name of the file itself, though it is somebody's password:
// it would hide nothing, and every mention of the service would go.
func TestWhatIsTakenOut(t *testing.T) {
	secret := func(value string) compose.Hook {
		return compose.Hook{Environment: map[string]string{"ADMIN_PASSWORD": value}}
	}
	s := newSight(watching{subject: composed{project: compose.Project{
		Name:    "evergreen",
		Secrets: map[string]compose.FileValue{"project": {Ref: "evergreen\n"}},
		Services: map[string]compose.Service{
			"postgres": {Environment: map[string]string{"POSTGRES_PASSWORD": "postgres"}},
			"web": {
				Environment: map[string]string{"KEY_PREFIX": "catalog", "DB_PASSWORD": "hunter2"}, PreStart: []compose.PreStart{{Hook: secret("before-it")}},
				PostStart: []compose.Hook{secret("after-it")}, PreStop: []compose.Hook{secret("at-the-end")},
			},
			"catalog": {},
		},
	}}, project: "evergreen", dir: t.TempDir(), changed: &broadcast{}}, slog.New(slog.DiscardHandler))
	if err := s.learnSecrets(t.Context()); err != nil {
		t.Fatal(err)
	}
	const said = "evergreen: catalog reads postgresql://postgres:5432"
	record := []telemetry.Record{{Body: said + ", hunter2 before-it after-it at-the-end", Attributes: map[string]any{"server.address": "postgres"}}}
	s.cleanRecords(record)
	if want := said + strings.Repeat(" [redacted]", 4); strings.ReplaceAll(record[0].Body, ",", "") != want {
		t.Errorf("kept is %q, want %q", record[0].Body, want)
	}
	if to := record[0].Attributes["server.address"]; to != "postgres" {
		t.Errorf("called was %q", to)
	}
}
