// Command backend serves the titles of articles that it keeps in PostgreSQL.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	_ "github.com/lib/pq"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	password, err := os.ReadFile("/run/secrets/db-password")
	if err != nil {
		return err
	}
	address := url.URL{Scheme: "postgres", Host: "db:5432", Path: "/articles", RawQuery: "sslmode=disable&connect_timeout=3",
		User: url.UserPassword("postgres", strings.TrimSpace(string(password)))}
	db, err := sql.Open("postgres", address.String())
	if err != nil {
		return err
	}
	defer db.Close()
	if err := prepare(ctx, db); err != nil {
		return fmt.Errorf("prepare the database: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { list(w, r, db) })
	mux.HandleFunc("POST /articles", func(w http.ResponseWriter, r *http.Request) { add(w, r, db) })
	server := &http.Server{Addr: ":8000", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	log.Print("listening on 8000")
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return err
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func prepare(ctx context.Context, db *sql.DB) error {
	var err error
	for range 60 {
		if err = db.PingContext(ctx); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
	if err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS article (id SERIAL PRIMARY KEY, title TEXT UNIQUE NOT NULL)`); err != nil {
		return err
	}
	for n := 1; n <= 5; n++ {
		if _, err := db.ExecContext(ctx, `INSERT INTO article (title) VALUES ($1) ON CONFLICT DO NOTHING`,
			fmt.Sprintf("Article number %d", n)); err != nil {
			return err
		}
	}
	return nil
}

func list(w http.ResponseWriter, r *http.Request, db *sql.DB) {
	rows, err := db.QueryContext(r.Context(), `SELECT title FROM article ORDER BY id`)
	if err != nil {
		fail(w, err)
		return
	}
	defer rows.Close()
	titles := []string{}
	for rows.Next() {
		var title string
		if err := rows.Scan(&title); err != nil {
			fail(w, err)
			return
		}
		titles = append(titles, title)
	}
	if err := rows.Err(); err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(titles)
}

// add keeps the title that the body holds, once.
func add(w http.ResponseWriter, r *http.Request, db *sql.DB) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<10)
	title := strings.TrimSpace(r.FormValue("title"))
	if title == "" {
		http.Error(w, "title is missing", http.StatusBadRequest)
		return
	}
	if _, err := db.ExecContext(r.Context(), `INSERT INTO article (title) VALUES ($1) ON CONFLICT DO NOTHING`, title); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func fail(w http.ResponseWriter, err error) {
	log.Print(err)
	http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
}
