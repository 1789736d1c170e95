package proxy

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestRefusedCalls: a caller is told in the words of what it speaks that it may not call a service, also over a connection
// that was made when it still might. Those who may and those from outside are served.
func TestRefusedCalls(t *testing.T) {
	t.Parallel()
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "in") })
	echo := rawServer(t, func(c net.Conn) { io.Copy(c, c) })
	r := newRig(t, Config{})
	r.snap.Services = []Service{
		{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}}, {Name: "db", Instances: []Instance{instanceAt("db-1", echo)}},
	}
	listen := func(name, service, caller string) string {
		return r.listen(Listener{Name: name, Protocol: Detect, Service: service, Port: 80, Caller: caller})
	}
	app, db, outside := listen("app", "app", "web"), listen("db", "db", "web"), listen("out", "app", "")
	r.push()
	c := client(t)
	if status, text, _ := get(t, c, "http://"+app+"/"); status != 200 || text != "in" {
		t.Fatalf("before: %d %q", status, text)
	}
	for i := range r.snap.Listeners {
		r.snap.Listeners[i].Refused = []string{"app", "db"}
	}
	r.push()
	for _, one := range []*http.Client{c, client(t), h2client(t)} {
		if status, text, kind := get(t, one, "http://"+app+"/"); status != 403 || kind != kindDenied || !strings.Contains(text, "web may not call app") {
			t.Errorf("%d %s %q", status, kind, text)
		}
	}
	if status, text, _ := get(t, client(t), "http://"+outside+"/"); status != 200 || text != "in" {
		t.Errorf("from outside: %d %q", status, text)
	}
	startup := append(binary.BigEndian.AppendUint32(nil, 8+10), 0, 3, 0, 0)
	startup = append(startup, "user\x00ada\x00\x00"...)
	for _, first := range [][]byte{nil, {0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}} {
		conn, err := net.Dial("tcp", db)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		in := bufio.NewReader(conn)
		if first != nil {
			conn.Write(first)
			if b, err := in.ReadByte(); b != 'N' || err != nil {
				t.Fatalf("asked for TLS: %q %v", b, err)
			}
		}
		conn.Write(startup)
		answer, err := io.ReadAll(in)
		if err != nil || !strings.HasPrefix(string(answer), "E\x00") || !strings.Contains(string(answer), "C28000\x00Mweb may not call db") {
			t.Errorf("PostgreSQL: %q %v", answer, err)
		}
	}
	for _, said := range []string{"", "HELO\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\x00\x00\x00\x08\x00"} {
		conn, err := net.Dial("tcp", db)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, said)
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if got, _ := io.ReadAll(conn); len(got) > 0 {
			t.Errorf("%q was answered %q", said, got)
		}
		conn.Close()
	}
	told, _ := r.proxy.refusals.since(0)
	if len(told) != 2 || told[0].Caller != "web" || told[0].Callee != "app" || told[0].Count != 3 || told[1].Callee != "db" || told[1].Count != 6 {
		t.Errorf("counted: %+v", told)
	}
	for i := range r.snap.Listeners {
		r.snap.Listeners[i].Refused = nil
	}
	r.push()
	if status, _, _ := get(t, c, "http://"+app+"/"); status != 200 {
		t.Errorf("allowed again: %d", status)
	}
}
