// Package databasetest opens databases for tests, and has every test of a package run on each kind there is: first on
// SQLite, then, where PostgreSQL is installed or TEST_DATABASE_URL names one, once more on that.
package databasetest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"evergreen/database"
)

// server is the variable that tells the second run of a test binary where its PostgreSQL is.
const server = "EVERGREEN_TEST_POSTGRES"

// Main runs the tests of a package on every kind of database and returns the exit code for TestMain.
func Main(m *testing.M) int {
	code := m.Run()
	if code != 0 || os.Getenv(server) != "" || narrowed() {
		return code
	}
	location, stop, err := postgres()
	if err != nil {
		fmt.Println("not run on PostgreSQL:", err)
		if errors.Is(err, errMissing) {
			return code
		}
		return 1
	}
	defer stop()
	fmt.Println("the same tests on PostgreSQL:")
	var args []string
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.testlogfile") && !strings.HasPrefix(a, "-test.coverprofile") {
			args = append(args, a)
		}
	}
	again := exec.Command(os.Args[0], args...)
	again.Env = append(os.Environ(), server+"="+location)
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	if err := again.Run(); err != nil {
		return 1
	}
	return 0
}

// narrowed reports whether this run is not about tests.
func narrowed() bool {
	for _, a := range os.Args[1:] {
		for _, no := range []string{"-test.fuzz=", "-test.list=", "-test.fuzzworker", "-test.bench="} {
			if strings.HasPrefix(a, no) {
				return true
			}
		}
	}
	return false
}

// Location returns a new empty database, as DATABASE_URL would name it. Opened several times it is the same one.
func Location(t testing.TB) string {
	t.Helper()
	base := os.Getenv(server)
	if base == "" {
		return "sqlite:" + filepath.Join(t.TempDir(), "test.db")
	}
	name := "test_" + strings.ToLower(rand.Text()[:12])
	db, err := sql.Open("pgx", base)
	if err == nil {
		_, err = db.Exec(`CREATE SCHEMA ` + name)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := db.Exec(`DROP SCHEMA ` + name + ` CASCADE`); err != nil {
			t.Error(err)
		}
		db.Close()
	})
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return u.String()
}

// Open opens a new empty database until the test ends.
func Open(t testing.TB) *database.DB {
	t.Helper()
	return At(t, Location(t))
}

// At opens the database of location until the test ends.
func At(t testing.TB, location string) *database.DB {
	t.Helper()
	db, err := database.Open(context.Background(), location, "", "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

var errMissing = errors.New("it is not installed here (Debian: postgresql), and TEST_DATABASE_URL is not set")

// Seeks fails where SQLite would look through all of a table, or of an index, to answer query: what it costs would then grow
// with all that was ever written. The planner of PostgreSQL goes by what is in the tables; it is not asked.
func Seeks(t testing.TB, db *database.DB, query string, args ...any) {
	t.Helper()
	if db.Dialect() != database.SQLite {
		return
	}
	rows, err := db.Read().Query(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(step, "SCAN") {
			t.Errorf("%s: %s", query, step)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

// postgres returns a PostgreSQL that is there, or starts one in a folder of its own on a socket in it.
func postgres() (location string, stop func(), err error) {
	if location = os.Getenv("TEST_DATABASE_URL"); location != "" {
		return location, func() {}, nil
	}
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		return "", nil, errMissing
	}
	bin := bins[len(bins)-1]
	dir, err := os.MkdirTemp("/tmp", "evergreen-pg-") // the path of a socket is short
	if err != nil {
		return "", nil, err
	}
	c := &cluster{bin: bin, dir: dir}
	if err := c.start(); err != nil {
		c.stop()
		return "", nil, fmt.Errorf("start PostgreSQL in %s: %w", dir, err)
	}
	return "postgres:///postgres?user=postgres&host=" + url.QueryEscape(dir), c.stop, nil
}

type cluster struct {
	bin, dir string
	server   *exec.Cmd
	as       *syscall.Credential
}

func (c *cluster) start() error {
	if os.Getuid() == 0 { // PostgreSQL refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			return err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(c.dir, uid, gid); err != nil {
			return err
		}
		c.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(c.dir, "data")
	if out, err := c.command("initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	c.server = c.command("postgres", "-D", data, "-k", c.dir, "-c", "listen_addresses=", "-c", "fsync=off",
		"-c", "max_connections=300", "-c", "log_min_messages=fatal")
	if err := c.server.Start(); err != nil {
		return err
	}
	return c.ready()
}

func (c *cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	cmd.SysProcAttr = dies(c.as)
	return cmd
}

func (c *cluster) ready() error {
	db, err := sql.Open("pgx", "postgres:///postgres?user=postgres&host="+url.QueryEscape(c.dir))
	if err != nil {
		return err
	}
	defer db.Close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if err = db.Ping(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (c *cluster) stop() {
	if c.server != nil && c.server.Process != nil {
		_ = c.server.Process.Signal(syscall.SIGINT) // fast shutdown
		_ = c.server.Wait()
	}
	_ = os.RemoveAll(c.dir)
}
