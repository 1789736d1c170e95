package proxy

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// proxiedHeader makes a header of its parts.
func proxiedHeader(command, family byte, rest string) string {
	b := []byte(proxiedSignature + string([]byte{command, family}))
	return string(binary.BigEndian.AppendUint16(b, uint16(len(rest)))) + rest
}

const (
	fromIPv4 = "\xc6\x33\x64\x07\x7f\x00\x00\x01\x30\x39\x00\x50" // 198.51.100.7:12345 to 127.0.0.1:80
	fromIPv6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x30\x39\x00\x50"
)

func value(kind byte, text string) string {
	return string(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(text)))) + text
}

// summed adds a checksum to the values of a header from 198.51.100.7.
func summed(off uint32) string {
	h := proxiedHeader(0x21, proxiedTCP4, fromIPv4+value(0x05, "id")+value(proxiedCRC, "\x00\x00\x00\x00")+value(0x04, ""))
	sum := crc32.Checksum([]byte(h), crc32.MakeTable(crc32.Castagnoli)) + off
	return strings.Replace(h, value(proxiedCRC, "\x00\x00\x00\x00"), value(proxiedCRC, string(binary.BigEndian.AppendUint32(nil, sum))), 1)
}

// proxiedTaken are headers and whose connection they say it is; "": the balancer's own.
func proxiedTaken() map[string]string {
	return map[string]string{
		proxiedHeader(0x21, proxiedTCP4, fromIPv4):                                        "198.51.100.7",
		proxiedHeader(0x21, proxiedTCP6, fromIPv6):                                        "2001:db8::7",
		proxiedHeader(0x21, proxiedTCP4, fromIPv4+value(0x01, "h2")):                      "198.51.100.7",
		proxiedHeader(0x21, proxiedTCP4, fromIPv4+value(0xee, strings.Repeat("x", 4000))): "198.51.100.7",
		proxiedHeader(0x20, proxiedUnspec, ""):                                            "",
		proxiedHeader(0x20, proxiedTCP4, fromIPv4):                                        "",
		proxiedHeader(0x21, proxiedUnspec, ""):                                            "",
		summed(0):                                                                         "198.51.100.7",
		proxiedHeader(0x21, proxiedTCP6, strings.Repeat("\x00", 10)+"\xff\xff\xc6\x33\x64\x07"+fromIPv6[16:]): "198.51.100.7",
	}
}

// proxiedRefused are what a trusted address may send and is not served for.
func proxiedRefused() []string {
	all := []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "PROXY TCP4 198.51.100.7 127.0.0.1 12345 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + strings.Repeat("x", 200),
		summed(1), summed(1 << 31),
	}
	for _, command := range []byte{0x11, 0x31, 0x01, 0x00, 0x22, 0x2f, 0xff} {
		all = append(all, proxiedHeader(command, proxiedTCP4, fromIPv4))
	}
	for _, family := range []byte{0x01, 0x02, 0x10, 0x12, 0x13, 0x20, 0x22, 0x31, 0x32, 0x41, 0xff} {
		all = append(all, proxiedHeader(0x21, family, fromIPv6+strings.Repeat("\x00", 180)))
	}
	for n := range len(fromIPv4) {
		all = append(all, proxiedHeader(0x21, proxiedTCP4, fromIPv4[:n]))
	}
	for n := 0; n < len(fromIPv6); n += 5 {
		all = append(all, proxiedHeader(0x21, proxiedTCP6, fromIPv6[:n]), proxiedHeader(0x20, proxiedTCP6, fromIPv6[:n]))
	}
	for _, values := range []string{"\x01", "\x01\x00", "\x01\x00\x01", "\x01\xff\xff", value(0x01, "h2") + "\x04", value(proxiedCRC, ""), value(proxiedCRC, "abc"), value(proxiedCRC, "abcd"), value(proxiedCRC, "abcde")} {
		all = append(all, proxiedHeader(0x21, proxiedTCP4, fromIPv4+values), proxiedHeader(0x20, proxiedUnspec, values))
	}
	for _, address := range []string{"\x00\x00\x00\x00", "\xe0\x00\x00\x01"} {
		all = append(all, proxiedHeader(0x21, proxiedTCP4, address+fromIPv4[4:]))
	}
	all = append(all, proxiedHeader(0x21, proxiedTCP6, strings.Repeat("\x00", 16)+fromIPv6[16:]),
		proxiedHeader(0x21, proxiedTCP4, fromIPv4+value(0xee, strings.Repeat("x", proxiedMost))))
	for i := range len(proxiedSignature) {
		wrong := []byte(proxiedHeader(0x21, proxiedTCP4, fromIPv4))
		wrong[i] ^= 1
		all = append(all, string(wrong))
	}
	return all
}

// parseWhole reads a header from its first byte to its last.
func parseWhole(b string) (netip.Addr, error) {
	if len(b) < 16 {
		return netip.Addr{}, io.ErrUnexpectedEOF
	}
	fixed := [16]byte([]byte(b))
	n, err := proxiedLength(fixed)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(b) < 16+n {
		return netip.Addr{}, io.ErrUnexpectedEOF
	}
	return parseProxied(fixed, []byte(b[16:16+n]))
}

func TestProxiedHeaders(t *testing.T) {
	for header, want := range proxiedTaken() {
		got, err := parseWhole(header)
		if err != nil || got.IsValid() != (want != "") || want != "" && got.String() != want {
			t.Errorf("%q: %v %v, want %q", header, got, err, want)
		}
	}
	for _, header := range proxiedRefused() {
		if got, err := parseWhole(header); err == nil {
			t.Errorf("%q is taken, as %v", header, got)
		}
	}
}

func FuzzProxied(f *testing.F) {
	for header := range proxiedTaken() {
		f.Add(header)
	}
	for _, header := range proxiedRefused() {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, b string) {
		client, err := parseWhole(b)
		if err != nil {
			return
		}
		if !strings.HasPrefix(b, proxiedSignature) || client.IsValid() && (client.IsUnspecified() || client.IsMulticast() || client.Is4In6()) {
			t.Errorf("%q is taken, as %v", b, client)
		}
	})
}

// forged is a request behind a balancer that says itself who its client is.
const forged = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"

// sayTo sends the parts one after the other, and returns the answer, "closed" if the connection ended without one.
func sayTo(t *testing.T, addr string, parts ...string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	for _, part := range parts {
		if _, err := io.WriteString(conn, part); err != nil {
			break // refused meanwhile
		}
		time.Sleep(time.Millisecond)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer, and still open"
	case err != nil:
		return "closed"
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return fmt.Sprint(res.StatusCode, " ", string(b))
}

// TestBehindABalancer: from the address that is named a header is asked for, and the client is who it says; from others
// nothing is believed.
func TestBehindABalancer(t *testing.T) {
	b := serveFunc(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("X-Forwarded-For")) })
	r := newRig(t, Config{})
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}}}
	r.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	trusting := r.listen(Listener{Name: "gateway", Protocol: HTTP1, Proxied: []string{"127.0.0.1/32", "2001:db8::/64"}})
	port := r.listen(Listener{Name: "port", Protocol: Detect, Service: "app", Port: 80, Proxied: []string{"127.0.0.0/8"}})
	other := r.listen(Listener{Name: "other", Protocol: HTTP1, Proxied: []string{"198.51.100.0/24"}})
	r.push()
	say := func(addr string, parts ...string) string {
		t.Helper()
		return sayTo(t, addr, parts...)
	}
	for header, want := range proxiedTaken() {
		if want == "" {
			want = "127.0.0.1"
		}
		for _, addr := range []string{trusting, port} {
			if got := say(addr, header+forged); got != "200 "+want {
				t.Errorf("%q: %s", header, got)
			}
		}
	}
	header := proxiedHeader(0x21, proxiedTCP4, fromIPv4)
	if got := say(trusting, append(strings.SplitAfter(header, ""), forged)...); got != "200 198.51.100.7" {
		t.Errorf("byte by byte: %s", got)
	}
	for _, wrong := range proxiedRefused() {
		if got := say(trusting, wrong+forged); got != "closed" {
			t.Errorf("%q: %s", wrong, got)
		}
	}
	if got := say(other, forged); got != "200 127.0.0.1" {
		t.Errorf("without a header, from elsewhere: %s", got)
	}
	if got := say(other, header+forged); !strings.HasPrefix(got, "400") && got != "closed" {
		t.Errorf("a header from elsewhere: %s", got)
	}
}

// TestSlowBalancers: who sends no more than a part of the header, or of the request behind it, is waited for no longer than either may
// take.
func TestSlowBalancers(t *testing.T) {
	t.Parallel()
	b := serveFunc(t, func(http.ResponseWriter, *http.Request) {})
	r := newRig(t, Config{})
	r.proxy.front.proxied, r.proxy.front.head = 2*time.Second, 3*time.Second // before the first connection
	r.snap.Services = []Service{{Name: "app", Instances: []Instance{instanceAt("app-1", b.addr)}}}
	r.snap.Routes = []Route{{Service: "app", Port: 80, Decision: Decision{Auth: "none"}}}
	trusting := r.listen(Listener{Name: "gateway", Protocol: HTTP1, Proxied: []string{"127.0.0.1/32"}})
	r.push()
	var wg sync.WaitGroup
	for header := range proxiedTaken() {
		whole := header + forged
		for _, n := range []int{0, 1, 15, 16, len(header) - 1, len(header) + 1, len(whole) - 1} {
			want := "closed"
			switch {
			case n == len(header): // then a request may take its time
				continue
			case n > len(header):
				want = "408 "
			}
			wg.Go(func() {
				if got := sayTo(t, trusting, whole[:n]); !strings.HasPrefix(got, want) {
					t.Errorf("%d bytes of %q: %s", n, whole, got)
				}
			})
		}
	}
	wg.Wait()
}
