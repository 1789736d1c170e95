package database

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func open(t *testing.T, dir string) *DB {
	t.Helper()
	db, err := Open(t.Context(), "", dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestEachStepOfAMigrationRunsOnceHoweverManyOpenAtOnce(t *testing.T) {
	dir := t.TempDir()
	steps := []string{`CREATE TABLE a (n INTEGER); INSERT INTO a VALUES (1)`, `INSERT INTO a VALUES (2)`}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			db, err := Open(context.Background(), "", dir, "test")
			if err == nil {
				err = db.Migrate(context.Background(), "a", steps)
				db.Close()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	db := open(t, dir)
	if err := db.Migrate(t.Context(), "a", append(steps, `INSERT INTO a VALUES (3)`)); err != nil {
		t.Fatal(err)
	}
	if err := db.Migrate(t.Context(), "b", []string{`CREATE TABLE b (n INTEGER)`}); err != nil {
		t.Fatal(err)
	}
	var n, sum int
	if err := db.Read().QueryRow(`SELECT count(*), sum(n) FROM a`).Scan(&n, &sum); err != nil || n != 3 || sum != 6 {
		t.Errorf("%d rows, sum %d, %v", n, sum, err)
	}
}

func TestAMigrationThatFailsLeavesNothing(t *testing.T) {
	db := open(t, t.TempDir())
	if err := db.Migrate(t.Context(), "a", []string{`CREATE TABLE a (n INTEGER)`, `nonsense`}); err == nil {
		t.Fatal("no error")
	}
	if err := db.Migrate(t.Context(), "a", []string{`CREATE TABLE a (n INTEGER)`}); err != nil {
		t.Error(err)
	}
}

func TestAWriteThatFailsIsTakenBack(t *testing.T) {
	db := open(t, t.TempDir())
	if err := db.Migrate(t.Context(), "a", []string{`CREATE TABLE a (n INTEGER)`}); err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	err := db.Write(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.Exec(`INSERT INTO a VALUES ($1)`, 1); err != nil {
			return err
		}
		return no
	})
	if !errors.Is(err, no) {
		t.Fatal(err)
	}
	var n int
	if err := db.Read().QueryRow(`SELECT count(*) FROM a`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows, %v", n, err)
	}
}

func TestReadersCannotWrite(t *testing.T) {
	db := open(t, t.TempDir())
	if _, err := db.Read().Exec(`CREATE TABLE a (n INTEGER)`); err == nil {
		t.Error("no error")
	}
}

func TestLocations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "with space & 100%.db")
	db, err := Open(t.Context(), "sqlite:"+path, "unused", "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	_, err = Open(t.Context(), "postgres://user:hidden@host/db", "unused", "test")
	if err == nil || !strings.Contains(err.Error(), "postgres") || strings.Contains(err.Error(), "hidden") {
		t.Errorf("got %v", err)
	}
}
