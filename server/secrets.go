package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
	"trellis/telemetry/logs"
)

// secrets are the values that are taken out of what is kept. One that was learned stays: an instance may write it, and somebody
// else's answer name it, after the revision that had it is gone.
type secrets struct {
	mu     sync.Mutex
	known  map[int64]bool // revisions
	values map[string]bool
}

// followSecrets keeps the redactor at the secrets of the revisions in use.
func (s *sight) followSecrets(ctx context.Context) error {
	for {
		next := s.changed.next()
		if err := s.learnSecrets(ctx); err != nil {
			return err
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil
		}
	}
}

// have says whether those of a revision are known. Of an instance whose revision nobody knows they are not.
func (s *secrets) have(revision int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[revision]
}

// learnSecrets has the redactor know the secrets of the newest revision, and of those whose instances are there: while one
// takes the other's place both are written by somebody.
func (s *sight) learnSecrets(ctx context.Context) error {
	s.secrets.mu.Lock()
	defer s.secrets.mu.Unlock()
	newest, err := s.of.latest(ctx)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	st, err := s.of.observe(ctx)
	if err != nil {
		return err
	}
	revisions := map[int64]bool{newest.Number: true}
	for _, svc := range st.Services {
		for _, in := range svc.Instances {
			revisions[in.Revision] = true
		}
	}
	delete(revisions, 0) // of an instance whose revision is not known
	var failed error
	before := len(s.secrets.values)
	for number := range revisions {
		if s.secrets.known[number] {
			continue
		}
		rev, err := newest, error(nil)
		if number != newest.Number {
			rev, err = s.of.revision(ctx, number)
		}
		if errors.Is(err, errdefs.ErrNotFound) {
			continue // it is not kept any more
		}
		if err == nil {
			err = s.learn(rev)
		}
		failed = errors.Join(failed, err)
	}
	if len(s.secrets.values) > before {
		s.redactor.Store(logs.NewRedactor(slices.Collect(maps.Keys(s.secrets.values))))
	}
	return failed
}

// learn adds a revision's secrets, and the variables whose name says that they are one. A secret that cannot be read now keeps
// none of the others away, and is looked for again.
func (s *sight) learn(rev state.Revision) (err error) {
	add := func(value string) {
		// The password of a database may be its name: it hides nothing to take that out, and every mention of the service would go.
		name := strings.TrimSpace(value)
		if _, service := rev.Project.Services[name]; !service && name != rev.Project.Name {
			s.secrets.values[value] = true
		}
	}
	for name, v := range rev.Project.Secrets {
		if v.Ref == "" {
			continue
		}
		b, rerr := s.of.content(v.Ref)
		if rerr != nil && !errors.Is(rerr, errdefs.ErrNotFound) {
			err = errors.Join(err, fmt.Errorf("read secret %s: %w", name, rerr))
		}
		add(string(b))
	}
	for _, svc := range rev.Project.Services {
		for _, environment := range environmentsOf(svc) {
			for name, v := range environment {
				if engine.LooksSecret(name, v) {
					add(v)
				}
			}
		}
	}
	s.secrets.known[rev.Number] = err == nil
	return err
}

// environmentsOf are the variables of a service and of its hooks, whose output is kept as the service's is.
func environmentsOf(svc compose.Service) []map[string]string {
	all := []map[string]string{svc.Environment}
	for _, step := range svc.PreStart {
		all = append(all, step.Environment)
	}
	for _, hook := range slices.Concat(svc.PostStart, svc.PreStop) {
		all = append(all, hook.Environment)
	}
	return all
}
