//go:build conformance

package proxy

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// TestBehindTheGateway is not a test but the server that Connect's conformance runner asks for: its own reference server
// with a gateway in front. It reads what is wanted from standard input, and writes where it listens to standard output. The
// reference server is the program that CONFORMANCE_SERVER names; TLS ends at the gateway.
func TestBehindTheGateway(t *testing.T) {
	server := os.Getenv("CONFORMANCE_SERVER")
	if server == "" {
		t.Fatal("CONFORMANCE_SERVER is not set: make conformance runs this")
	}
	want := readMessage(t, os.Stdin)
	cmd := exec.Command(server)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, out := pipes(t, cmd)
	secure := want.number(4) != 0
	writeMessage(t, in, want.without(4, 5, 7))
	at := readMessage(t, out)
	instance := net.JoinHostPort(at.text(1), strconv.FormatUint(at.number(2), 10))

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	l := Listener{Name: "gateway", Protocol: HTTP1}
	var certificate string
	if secure {
		creds := message(want.text(7))
		dir := t.TempDir()
		pair := Certificate{Chain: filepath.Join(dir, "chain"), Key: filepath.Join(dir, "key")}
		certificate = creds.text(1)
		if os.WriteFile(pair.Chain, []byte(certificate), 0o600) != nil || os.WriteFile(pair.Key, []byte(creds.text(2)), 0o600) != nil {
			t.Fatal("no certificate")
		}
		l.TLS, l.Certificates = true, []Certificate{pair}
	}
	service := Service{Name: "app", Instances: []Instance{instanceAt("app-1", instance)}}
	if want.number(2) == 2 {
		service.HTTP2 = []int{80}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	feed := fixedFeed{Update{Sockets: map[string]*os.File{"gateway": f}, Snapshot: &Snapshot{
		Project: "conformance", Epoch: 1, Version: 1, Listeners: []Listener{l}, Services: []Service{service},
		Routes: []Route{{Path: "/*", Service: "app", Port: 80, Decision: Decision{Auth: "none"}}},
	}}}
	go New(Config{Feed: feed}).Run(ctx)
	port := ln.Addr().(*net.TCPAddr).Port
	var answer message
	answer = protowire.AppendString(protowire.AppendTag(answer, 1, protowire.BytesType), "127.0.0.1")
	answer = protowire.AppendVarint(protowire.AppendTag(answer, 2, protowire.VarintType), uint64(port))
	answer = protowire.AppendString(protowire.AppendTag(answer, 3, protowire.BytesType), certificate)
	writeMessage(t, os.Stdout, answer)
	<-ctx.Done()
	cmd.Process.Kill()
	os.Exit(0) // nothing of a test's own words on standard output
}

// TestGRPCInterop: gRPC's interoperability cases, of its own client and server, through the gateway. INTEROP names the folder
// of the two.
func TestGRPCInterop(t *testing.T) {
	dir := os.Getenv("INTEROP")
	if dir == "" {
		t.Fatal("INTEROP is not set: make conformance runs this")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	instance := free.Addr().String()
	_, port, _ := net.SplitHostPort(instance)
	free.Close()
	server := exec.Command(filepath.Join(dir, "server"), "--port", port)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { server.Process.Kill(); server.Wait() }()
	eventually(t, "the server listens", func() bool {
		c, err := net.Dial("tcp", instance)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	r := newRig(t, Config{})
	host, port, _ := net.SplitHostPort(r.gateway(instanceAt("app-1", instance)))
	for _, one := range []string{
		"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream", "timeout_on_sleeping_server",
		"cancel_after_begin", "cancel_after_first_response", "status_code_and_message", "special_status_message", "custom_metadata",
		"unimplemented_method", "unimplemented_service",
	} {
		t.Run(one, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, filepath.Join(dir, "client"), "--server_host", host, "--server_port", port, "--test_case", one).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// message is an encoded protocol buffer of connectrpc.conformance.v1: ServerCompatRequest has http_version 2, use_tls 4,
// client_tls_cert 5 and server_creds 7 (cert 1, key 2), ServerCompatResponse host 1, port 2 and pem_cert 3.
type message []byte

func readMessage(t *testing.T, r io.Reader) message {
	t.Helper()
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		t.Fatal(err)
	}
	m := make(message, binary.BigEndian.Uint32(length[:]))
	if _, err := io.ReadFull(r, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func writeMessage(t *testing.T, w io.Writer, m message) {
	t.Helper()
	if _, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(m))), m...)); err != nil {
		t.Fatal(err)
	}
}

// each calls f for every field of m, with its value and with the field as it stands there.
func (m message) each(f func(n protowire.Number, number uint64, text string, whole message)) {
	for b := m; len(b) > 0; {
		n, kind, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			return
		}
		size := protowire.ConsumeFieldValue(n, kind, b[tag:])
		if size < 0 {
			return
		}
		number, _ := protowire.ConsumeVarint(b[tag:])
		text, _ := protowire.ConsumeString(b[tag:])
		f(n, number, text, b[:tag+size])
		b = b[tag+size:]
	}
}

func (m message) number(want protowire.Number) (v uint64) {
	m.each(func(n protowire.Number, number uint64, _ string, _ message) {
		if n == want {
			v = number
		}
	})
	return v
}

func (m message) text(want protowire.Number) (v string) {
	m.each(func(n protowire.Number, _ uint64, text string, _ message) {
		if n == want {
			v = text
		}
	})
	return v
}

func (m message) without(numbers ...protowire.Number) (rest message) {
	m.each(func(n protowire.Number, _ uint64, _ string, whole message) {
		for _, one := range numbers {
			if n == one {
				return
			}
		}
		rest = append(rest, whole...)
	})
	return rest
}
