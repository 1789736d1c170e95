// Command worker takes votes from Redis and keeps each voter's last one in PostgreSQL. A vote leaves Redis only after it
// has been kept: it waits in a second list meanwhile, from which a worker that starts takes what another left behind.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	_ "github.com/lib/pq"
)

const database = "postgres://postgres:postgres@db:5432/postgres?sslmode=disable&connect_timeout=3"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	db, err := sql.Open("postgres", database)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	for ctx.Err() == nil {
		if err := work(ctx, db); err != nil && ctx.Err() == nil {
			log.Print(err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	log.Print("stopping")
}

// work counts votes until something fails or ctx ends.
func work(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS votes (id VARCHAR(255) PRIMARY KEY, vote VARCHAR(255) NOT NULL)`); err != nil {
		return fmt.Errorf("prepare the database: %w", err)
	}
	conn, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", "redis:6379")
	if err != nil {
		return fmt.Errorf("connect to redis: %w", err)
	}
	defer conn.Close()
	forget := context.AfterFunc(ctx, func() { conn.Close() })
	defer forget()
	r := &redis{conn: conn, in: bufio.NewReader(conn)}
	log.Print("counting votes")
	for {
		text, ok, err := r.text("LINDEX", "votes:taken", "0")
		if err != nil {
			return err
		}
		if !ok {
			text, ok, err = r.text("BLMOVE", "votes", "votes:taken", "LEFT", "RIGHT", "1")
		}
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := keep(ctx, db, text); err != nil {
			return err
		}
		if _, _, err := r.text("LPOP", "votes:taken"); err != nil {
			return err
		}
	}
}

func keep(ctx context.Context, db *sql.DB, text string) error {
	var vote struct {
		Voter string `json:"voter_id"`
		Vote  string `json:"vote"`
	}
	if err := json.Unmarshal([]byte(text), &vote); err != nil || vote.Voter == "" {
		log.Printf("left out a malformed vote: %q", text)
		return nil
	}
	_, err := db.ExecContext(ctx, `INSERT INTO votes (id, vote) VALUES ($1, $2)
		ON CONFLICT (id) DO UPDATE SET vote = excluded.vote`, vote.Voter, vote.Vote)
	if err != nil {
		return fmt.Errorf("keep a vote: %w", err)
	}
	return nil
}

// redis speaks as much of RESP2 as this program needs, one request at a time.
type redis struct {
	conn net.Conn
	in   *bufio.Reader
}

// text sends a command and returns its answer; ok is false where there is none.
func (r *redis) text(words ...string) (answer string, ok bool, err error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	r.conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(r.conn, b.String()); err != nil {
		return "", false, fmt.Errorf("redis %s: %w", words[0], err)
	}
	line, err := r.in.ReadString('\n')
	if err != nil {
		return "", false, fmt.Errorf("redis %s: %w", words[0], err)
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return "", false, errors.New("redis: empty answer")
	}
	switch line[0] {
	case '-':
		return "", false, fmt.Errorf("redis %s: %s", words[0], line[1:])
	case '+', ':':
		return line[1:], true, nil
	case '*': // only the null array is an answer here
		return "", false, nil
	case '$':
		return r.bulk(words[0], line[1:])
	}
	return "", false, fmt.Errorf("redis %s: unknown answer %q", words[0], line)
}

func (r *redis) bulk(command, size string) (string, bool, error) {
	n, err := strconv.Atoi(size)
	if err != nil || n > 1<<20 {
		return "", false, fmt.Errorf("redis %s: length %q", command, size)
	}
	if n < 0 {
		return "", false, nil
	}
	data := make([]byte, n+2)
	if _, err := io.ReadFull(r.in, data); err != nil {
		return "", false, fmt.Errorf("redis %s: %w", command, err)
	}
	return string(data[:n]), true, nil
}
