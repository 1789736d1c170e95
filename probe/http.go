package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	maxAnswer = 64 << 10 // status line, headers and the read part of the body
	bodyWait  = 100 * time.Millisecond
)

// askHTTP writes one GET by hand and reads the answer with net/http's parser: a Transport would cost two goroutines and
// a pool for every probe.
func (s Spec) askHTTP(ctx context.Context, conn net.Conn, address string) (bool, string) {
	target, err := requestURI(s.Path)
	if err != nil {
		return false, fmt.Sprintf("GET %s: %v", s.Path, err)
	}
	if s.TLS {
		secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // readiness is asked, not identity
		if err := secure.HandshakeContext(ctx); err != nil {
			return false, "TLS with " + address + ": " + s.cause(orDone(ctx, err))
		}
		conn = secure
	}
	answer, err := exchange(conn, target, address)
	if err != nil {
		return false, "GET " + target + ": " + s.cause(orDone(ctx, err))
	}
	status := fmt.Sprintf("GET %s: %d %s", target, answer.StatusCode, reason(answer))
	// The status has decided already; a body that never ends must not make the probe last until its timeout. It is read
	// all the same: a server whose client closes before has a failure to log.
	_ = conn.SetReadDeadline(time.Now().Add(bodyWait))
	body, _ := io.ReadAll(io.LimitReader(answer.Body, maxMessage))
	if answer.StatusCode < 300 && answer.StatusCode >= 200 {
		return true, status
	}
	if text := firstLine(string(body)); text != "" {
		status += ": " + text
	}
	return answer.StatusCode >= 300 && answer.StatusCode < 400, status
}

func exchange(conn net.Conn, target, address string) (*http.Response, error) {
	_, err := io.WriteString(conn, "GET "+target+" HTTP/1.1\r\nHost: "+address+
		"\r\nUser-Agent: trellis-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n")
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(io.LimitReader(conn, maxAnswer), 4096)
	for {
		answer, err := http.ReadResponse(r, nil)
		if err != nil {
			return nil, err
		}
		// 100, 102 and 103 come before the answer; 101 is one.
		if answer.StatusCode >= 200 || answer.StatusCode == http.StatusSwitchingProtocols {
			return answer, nil
		}
	}
}

// requestURI is path as it may stand in a request line.
func requestURI(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	u, err := url.Parse("http://probe" + path)
	if err != nil {
		return "", fmt.Errorf("not a path")
	}
	return strings.ReplaceAll(u.RequestURI(), " ", "%20"), nil
}

// reason is the text behind the status code: the server's own, or the standard's.
func reason(answer *http.Response) string {
	_, text, _ := strings.Cut(answer.Status, " ")
	if text = strings.TrimSpace(text); text != "" {
		return text
	}
	if text = http.StatusText(answer.StatusCode); text != "" {
		return text
	}
	return "(no reason given)"
}

// orDone is ctx's error where ctx has ended: the connection was then closed under the reader, and err only says that.
func orDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
