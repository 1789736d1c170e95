// Package acmetest is a certificate authority for tests: Pebble, the small ACME server of Let's Encrypt, with a DNS of its
// own in which every name is this machine's.
package acmetest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"golang.org/x/net/dns/dnsmessage"
)

// Server is a running authority.
type Server struct {
	Directory string       // its URL
	Client    *http.Client // that trusts its web server
	Web       []byte       // the certificate of its web server, as PEM
	Orders    atomic.Int64 // new orders so far; Pebble refuses one request in twenty, and a client then asks again

	// Refuse, if it is set, may answer a request in Pebble's place; it says whether it has.
	Refuse func(w http.ResponseWriter, r *http.Request) bool
	// Silent says that the authority does not say when certificates are to be renewed. It is to be set before the first request.
	Silent bool
	manage http.Handler
}

// Missing is the end of names that the DNS does not know.
const Missing = ".missing.example"

// Start starts an authority that comes to these ports of 127.0.0.1, instead of 80 and 443, and issues certificates for
// life. It ends with the test.
func Start(t testing.TB, httpPort, tlsPort int, life time.Duration) *Server {
	t.Helper()
	if err := os.Setenv("PEBBLE_VA_NOSLEEP", "1"); err != nil { // it would wait for some seconds before each look
		t.Fatal(err)
	}
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default", ValidityPeriod: uint64(life / time.Second)}})
	looks := va.New(quiet, httpPort, tlsPort, true, serveDNS(t), store)
	front := wfe.New(quiet, store, looks, authority, []string{"pebble.example"}, true, false, 0, 0)
	s := &Server{manage: front.ManagementHandler()}
	next := front.Handler()
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.Refuse != nil && s.Refuse(w, r) {
			return
		}
		if strings.HasPrefix(r.URL.Path, "/order-plz") {
			w = &counted{w, &s.Orders}
		}
		if s.Silent && r.URL.Path == wfe.DirectoryPath {
			s.silence(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}))
	web.Config.ErrorLog = quiet
	web.StartTLS()
	t.Cleanup(web.Close)
	s.Directory, s.Client = web.URL+wfe.DirectoryPath, web.Client()
	s.Web = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	return s
}

// counted counts an order that was made.
type counted struct {
	http.ResponseWriter
	orders *atomic.Int64
}

func (c *counted) WriteHeader(status int) {
	if status == http.StatusCreated {
		c.orders.Add(1)
	}
	c.ResponseWriter.WriteHeader(status)
}

// silence answers with the directory but for renewalInfo.
func (s *Server) silence(w http.ResponseWriter, r *http.Request, next http.Handler) {
	out := httptest.NewRecorder()
	next.ServeHTTP(out, r)
	var dir map[string]any
	if err := json.Unmarshal(out.Body.Bytes(), &dir); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	delete(dir, "renewalInfo")
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(dir)
}

// Roots returns the root of what the authority issues, as PEM.
func (s *Server) Roots() []byte {
	return s.ask(httptest.NewRequest("GET", wfe.RootCertPath+"0", nil)).Bytes()
}

// SetRenewal has the authority answer with text when it is asked when a certificate, as PEM, is to be renewed.
func (s *Server) SetRenewal(t testing.TB, chain, text string) {
	t.Helper()
	body, err := json.Marshal(map[string]string{"certificate": chain, "ariResponse": text})
	if err != nil {
		t.Fatal(err)
	}
	if out := s.ask(httptest.NewRequest("POST", "/set-renewal-info/", bytes.NewReader(body))); out.Len() > 0 {
		t.Fatalf("set renewal: %s", out)
	}
}

func (s *Server) ask(r *http.Request) *bytes.Buffer {
	w := httptest.NewRecorder()
	r.Header.Set("User-Agent", "test") // which Pebble asks for
	s.manage.ServeHTTP(w, r)
	return w.Body
}

// serveDNS serves the DNS, over TCP as Pebble asks, and returns its address.
func serveDNS(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				for answerOne(conn) == nil {
				}
			}()
		}
	}()
	return l.Addr().String()
}

// answerOne answers one message: two bytes of length come before it (RFC 1035, section 4.2.2).
func answerOne(conn net.Conn) error {
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return err
	}
	var m dnsmessage.Message
	if err := m.Unpack(buf); err != nil || len(m.Questions) != 1 {
		return fmt.Errorf("no question: %w", err)
	}
	b, err := answer(m).Pack()
	if err != nil {
		return err
	}
	_, err = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

func answer(m dnsmessage.Message) *dnsmessage.Message {
	q := m.Questions[0]
	out := &dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionAvailable: true},
		Questions: m.Questions,
	}
	switch {
	case strings.HasSuffix(q.Name.String(), Missing+"."):
		out.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		out.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
		}}
	}
	return out
}
