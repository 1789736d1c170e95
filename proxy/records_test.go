package proxy

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// TestRecordsOneByOne: what is read is what came, never beyond the end of a record, however it came and is asked for.
func TestRecordsOneByOne(t *testing.T) {
	var all []byte
	ends := map[int]bool{}
	for i, size := range []int{300, 1, 0, 5, 16384, 4096, 4091, 20} {
		all = append(all, 23, 3, 3, byte(size>>8), byte(size))
		all = append(all, bytes.Repeat([]byte{byte(i)}, size)...)
		ends[len(all)] = true
	}
	for _, sent := range []int{1, 3, 7, 305, 4096, 5000, len(all)} {
		for _, asked := range []int{1, 4, 5, 6, 512, 5000, 20_000} {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			server, err := ln.Accept()
			ln.Close()
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				defer client.Close()
				for rest := all; len(rest) > 0; {
					n := min(sent, len(rest))
					client.Write(rest[:n])
					rest = rest[n:]
				}
			}()
			server.SetDeadline(time.Now().Add(30 * time.Second))
			r := newRecords(server.(*net.TCPConn))
			got, buf := 0, make([]byte, asked)
			for {
				n, err := r.Read(buf)
				if !bytes.Equal(buf[:n], all[got:got+n]) {
					t.Fatalf("%d at once, read by %d: other bytes from %d on", sent, asked, got)
				}
				for i := got + 1; i < got+n; i++ {
					if ends[i] {
						t.Fatalf("%d at once, read by %d: %d to %d is more than a record", sent, asked, got, got+n)
					}
				}
				if got += n; err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if got != len(all) {
				t.Errorf("%d at once, read by %d: %d of %d bytes", sent, asked, got, len(all))
			}
			server.Close()
		}
	}
}
