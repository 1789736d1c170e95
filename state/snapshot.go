package state

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Snapshot writes a copy of the state file source, as it is at one moment, to the new file target (0600), also while
// another process writes to source. It reads every page: a file that is damaged is an error. target is there: an error.
func Snapshot(ctx context.Context, source, target string) error {
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		if source, err = filepath.Abs(source); err == nil {
			err = vacuumInto(ctx, source, target)
		}
		if err != nil {
			err = errors.Join(err, os.Remove(target))
		}
	}
	if err != nil {
		return fmt.Errorf("copy state %s: %w", source, err)
	}
	return nil
}

// Relocate replaces the folder from by the folder to in every path of every revision, for a project that has moved
// with all it has. The store may not be open anywhere.
func Relocate(ctx context.Context, path, from, to string) error {
	open, err := Open(path)
	if err != nil {
		return err
	}
	s := open.(*store)
	err = s.update(ctx, "relocate", func(tx *sql.Tx) error { return relocateAll(ctx, tx, from, to) })
	return errors.Join(err, s.Close())
}

func relocateAll(ctx context.Context, tx *sql.Tx, from, to string) error {
	var newest int64
	if err := tx.QueryRowContext(ctx, "SELECT coalesce(max(number), 0) FROM revisions").Scan(&newest); err != nil {
		return err
	}
	for n := int64(1); n <= newest; n++ {
		var body string
		if err := tx.QueryRowContext(ctx, "SELECT body FROM revisions WHERE number = ?", n).Scan(&body); err != nil {
			return err
		}
		d := json.NewDecoder(strings.NewReader(body))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			return fmt.Errorf("revision %d: %w", n, err)
		}
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(relocated(v, from, to)); err != nil {
			return fmt.Errorf("revision %d: %w", n, err)
		}
		if _, err := tx.ExecContext(ctx, "UPDATE revisions SET body = ? WHERE number = ?", strings.TrimSpace(b.String()), n); err != nil {
			return err
		}
	}
	return nil
}

// relocated returns v with every text that is the folder from, or a path in it, in the folder to.
func relocated(v any, from, to string) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = relocated(e, from, to)
		}
	case []any:
		for i, e := range v {
			v[i] = relocated(e, from, to)
		}
	case string:
		if rest, ok := strings.CutPrefix(v, from); ok && (rest == "" || rest[0] == '/') {
			return to + rest
		}
	}
	return v
}
