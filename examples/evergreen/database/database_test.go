package database_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"evergreen/database"
	"evergreen/database/databasetest"
)

func TestMain(m *testing.M) { os.Exit(databasetest.Main(m)) }

const numbers = `CREATE TABLE a (n INTEGER UNIQUE)`

func withNumbers(t *testing.T) *database.DB {
	t.Helper()
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), "a", []string{numbers}); err != nil {
		t.Fatal(err)
	}
	return db
}

func add(ctx context.Context, db *database.DB, n int, fail error) error {
	return db.Write(ctx, func(tx *database.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO a VALUES ($1)`, n)
		return errors.Join(err, fail)
	})
}

func rows(t *testing.T, db *database.DB) (n, sum int) {
	t.Helper()
	if err := db.Read().QueryRow(t.Context(), `SELECT count(*), coalesce(sum(n), 0) FROM a`).Scan(&n, &sum); err != nil {
		t.Fatal(err)
	}
	return n, sum
}

func TestEachStepOfAMigrationRunsOnceHoweverManyOpenAtOnce(t *testing.T) {
	location := databasetest.Location(t)
	steps := []string{numbers + `; INSERT INTO a VALUES (1)`, `INSERT INTO a VALUES (2)`}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			db, err := database.Open(context.Background(), location, "", "test")
			if err == nil {
				err = errors.Join(db.Migrate(context.Background(), "a", steps), db.Close())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	db := databasetest.At(t, location)
	if err := db.Migrate(t.Context(), "a", append(steps, `INSERT INTO a VALUES (3)`)); err != nil {
		t.Fatal(err)
	}
	if err := db.Migrate(t.Context(), "b", []string{`CREATE TABLE b (n INTEGER)`}); err != nil {
		t.Fatal(err)
	}
	if n, sum := rows(t, db); n != 3 || sum != 6 {
		t.Errorf("%d rows, sum %d", n, sum)
	}
}

func TestAMigrationThatFailsLeavesNothing(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), "a", []string{numbers, `nonsense`}); err == nil {
		t.Fatal("no error")
	}
	if err := db.Migrate(t.Context(), "a", []string{numbers}); err != nil {
		t.Error(err)
	}
}

func TestAWriteThatFailsIsTakenBackAndTakesNoOtherWithIt(t *testing.T) {
	db := withNumbers(t)
	no := errors.New("no")
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			fail := no
			if n%2 == 0 {
				fail = nil
			}
			if err := add(context.Background(), db, n, fail); !errors.Is(err, fail) {
				t.Errorf("%d: %v", n, err)
			}
		})
	}
	all.Wait()
	if n, sum := rows(t, db); n != 100 || sum != 9900 {
		t.Errorf("%d rows, sum %d", n, sum)
	}
	if err := add(t.Context(), db, 2, nil); err == nil {
		t.Error("a number twice")
	}
	if err := add(t.Context(), db, 1, nil); err != nil {
		t.Error(err)
	}
}

func TestAWriteWhoseCallerIsGoneTakesNoOtherWithIt(t *testing.T) {
	db := withNumbers(t)
	var all sync.WaitGroup
	for n := range 100 {
		all.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			err := db.Write(ctx, func(tx *database.Tx) error {
				if n%2 == 1 {
					cancel()
				}
				_, err := tx.Exec(ctx, `INSERT INTO a VALUES ($1)`, n)
				return err
			})
			if n%2 == 0 && err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for n := 0; n < 100; n += 2 {
		if err := add(t.Context(), db, n, nil); err == nil {
			t.Errorf("%d was lost", n)
		}
	}
}

func TestAPanicIsItsCallersAndNobodyElses(t *testing.T) {
	db := withNumbers(t)
	func() {
		defer func() {
			if got := fmt.Sprint(recover()); got != "no" {
				t.Errorf("got %s", got)
			}
		}()
		_ = db.Write(t.Context(), func(tx *database.Tx) error {
			if _, err := tx.Exec(t.Context(), `INSERT INTO a VALUES (1)`); err != nil {
				t.Error(err)
			}
			panic("no")
		})
	}()
	if n, _ := rows(t, db); n != 0 {
		t.Errorf("%d rows", n)
	}
	if err := add(t.Context(), db, 1, nil); err != nil {
		t.Error(err)
	}
}

func TestWritesOfSeveralProcessesQueue(t *testing.T) {
	location := databasetest.Location(t)
	var all sync.WaitGroup
	stores := []*database.DB{databasetest.At(t, location), databasetest.At(t, location)}
	if err := stores[0].Migrate(t.Context(), "a", []string{`CREATE TABLE a (n INTEGER); INSERT INTO a VALUES (0)`}); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		all.Go(func() {
			err := stores[i%2].Write(context.Background(), func(tx *database.Tx) error {
				var n int
				if err := tx.QueryRow(context.Background(), `SELECT n FROM a`).Scan(&n); err != nil {
					return err
				}
				_, err := tx.Exec(context.Background(), `UPDATE a SET n = $1`, n+1)
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if _, sum := rows(t, stores[0]); sum != 100 {
		t.Errorf("%d of 100 were counted", sum)
	}
}

func TestASeedGoesOnWhereItStoppedHoweverManySowIt(t *testing.T) {
	location := databasetest.Location(t)
	stores := []*database.DB{databasetest.At(t, location), databasetest.At(t, location)}
	if err := stores[0].Migrate(t.Context(), "a", []string{numbers + `; INSERT INTO a VALUES (0)`}); err != nil {
		t.Fatal(err)
	}
	const all, part = 95, 10
	standing := func(tx *database.Tx) (n int, err error) {
		err = tx.QueryRow(context.Background(), `SELECT count(*) FROM a`).Scan(&n)
		return n, err
	}
	insert := func(tx *database.Tx, i int) error {
		_, err := tx.Exec(context.Background(), `INSERT INTO a VALUES ($1)`, i)
		return err
	}
	no := errors.New("no")
	err := stores[0].Seed(t.Context(), "numbers", all, part, standing, func(tx *database.Tx, i int) error {
		if i == 35 {
			return no
		}
		return insert(tx, i)
	})
	if n, sum := rows(t, stores[0]); !errors.Is(err, no) || n != 31 || sum != 465 {
		t.Fatalf("%d rows, sum %d, %v: want 0 to 30", n, sum, err)
	}
	var sowing sync.WaitGroup
	for _, db := range stores {
		sowing.Go(func() {
			if err := db.Seed(context.Background(), "numbers", all, part, standing, insert); err != nil {
				t.Error(err)
			}
		})
	}
	sowing.Wait()
	if n, sum := rows(t, stores[0]); n != all || sum != all*(all-1)/2 {
		t.Errorf("%d rows, sum %d", n, sum)
	}
	if err := stores[1].Seed(t.Context(), "numbers", all, part, standing, insert); err != nil {
		t.Errorf("sown already: %v", err)
	}
}

func TestAClosedDatabaseSaysSo(t *testing.T) {
	db, err := database.Open(t.Context(), databasetest.Location(t), "", "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := add(t.Context(), db, 1, nil); err == nil {
		t.Error("no error")
	}
}

func TestLocations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "with space & 100%.db")
	db, err := database.Open(t.Context(), "sqlite:"+path, "unused", "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Read().Query(t.Context(), `CREATE TABLE a (n INTEGER)`); err == nil {
		t.Error("a reader wrote")
	}
	if err := errors.Join(db.Ready(t.Context()), db.Close()); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"mysql://user:hidden@host/db", "postgres://user:hidden@127.0.0.1:1/db?connect_timeout=1"} {
		_, err = database.Open(t.Context(), bad, "unused", "test")
		if err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	db := databasetest.Open(b)
	if err := db.Migrate(b.Context(), "a", []string{`CREATE TABLE a (n INTEGER)`}); err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := add(b.Context(), db, 1, nil); err != nil {
				b.Error(err)
			}
		}
	})
}
