package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"time"
)

// askGRPC calls the health check of another service, and says with which status of HTTP and of gRPC it was answered.
func askGRPC(w http.ResponseWriter, r *http.Request) {
	tr := &http.Transport{DisableKeepAlives: true, Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(r.Context(), "POST", "http://"+r.URL.Query().Get("host")+"/grpc.health.v1.Health/Check", bytes.NewReader(make([]byte, 5)))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	res, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if res.StatusCode != http.StatusOK {
		fmt.Fprintf(w, "HTTP %d %s", res.StatusCode, b)
		return
	}
	fmt.Fprintf(w, "HTTP 200 gRPC %s", res.Trailer.Get("Grpc-Status"))
}

// askPostgres begins a session with a server that speaks PostgreSQL's protocol, and says what its first message is.
func askPostgres(w http.ResponseWriter, r *http.Request) {
	conn, err := net.DialTimeout("tcp", r.URL.Query().Get("at"), 5*time.Second)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	start := append(binary.BigEndian.AppendUint32(make([]byte, 4), 3<<16), "user\x00app\x00\x00"...)
	binary.BigEndian.PutUint32(start, uint32(len(start)))
	if _, err := conn.Write(start); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	kind, text, err := readMessage(conn)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	fmt.Fprintf(w, "%c %s", kind, strings.ReplaceAll(text, "\x00", " "))
}

// readMessage reads one message of PostgreSQL's protocol.
func readMessage(r io.Reader) (kind byte, text string, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, "", err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n < 4 || n > 10000 {
		return 0, "", fmt.Errorf("a message of %d bytes", n)
	}
	b := make([]byte, n-4)
	_, err = io.ReadFull(r, b)
	return head[0], string(b), err
}

// servePostgres lets everybody in.
func servePostgres(port string) {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer conn.Close()
			var head [8]byte
			if _, err := io.ReadFull(conn, head[:]); err != nil || binary.BigEndian.Uint32(head[4:]) != 3<<16 {
				return
			}
			_, _ = conn.Write([]byte{'R', 0, 0, 0, 8, 0, 0, 0, 0}) // AuthenticationOk
			_, _ = io.Copy(io.Discard, conn)
		}()
	}
}
