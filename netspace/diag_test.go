//go:build linux

package netspace

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// sockDiag skips a test where the kernel has no sock_diag.
func sockDiag(t *testing.T) {
	t.Helper()
	if _, err := diagListeners(OwnThread); errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOENT) {
		t.Skipf("the kernel has no sock_diag: %v", err)
	}
}

// inNew calls f on a thread that has a new network namespace.
func inNew(f func() error) error {
	return OnThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, f)
}

// TestSockDiag: it says what /proc says, of this namespace and of another, with more sockets than one message holds.
func TestSockDiag(t *testing.T) {
	sockDiag(t)
	check := func(t *testing.T, who string, want map[int]bool) {
		t.Helper()
		asked, err := diagListeners(who)
		if err != nil {
			t.Fatal(err)
		}
		read, err := procListeners(who)
		if err != nil {
			t.Fatal(err)
		}
		for port, loopback := range want {
			same := func(l Listener) bool { return l.Port == port }
			a, b := slices.IndexFunc(asked, same), slices.IndexFunc(read, same)
			if a < 0 || b < 0 || asked[a] != read[b] || asked[a].Loopback != loopback {
				t.Errorf("port %d: sock_diag %v, /proc %v", port, asked, read)
			}
		}
		if who != OwnThread {
			order := func(a, b Listener) int { return cmp.Compare(a.Inode, b.Inode) }
			slices.SortFunc(asked, order)
			slices.SortFunc(read, order)
			if !slices.Equal(asked, read) {
				t.Errorf("sock_diag %v, /proc %v", asked, read)
			}
		}
	}
	open := func(t *testing.T) map[int]bool {
		t.Helper()
		want := map[int]bool{}
		addresses := []string{"0.0.0.0:0", "127.0.0.1:0", "[::]:0", "[::1]:0"}
		for n := range 400 {
			l, err := net.Listen("tcp", addresses[n%4])
			if err != nil && n%4 >= 2 {
				continue // no IPv6 here
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			want[l.Addr().(*net.TCPAddr).Port] = n%2 == 1
		}
		return want
	}
	t.Run("own", func(t *testing.T) { check(t, OwnThread, open(t)) })
	t.Run("other", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("namespaces need root")
		}
		// The other namespace is that of a thread: it is entered by the thread's number.
		ready, done, ended := make(chan string), make(chan bool), make(chan error, 1)
		go func() {
			ended <- inNew(func() error {
				// ::1 is no address of a namespace whose loopback is down, and a test must not depend on that.
				for _, address := range []string{"0.0.0.0:80", "0.0.0.0:81", "[::]:82"} {
					l, err := net.Listen("tcp", address)
					if err != nil {
						ready <- ""
						return err
					}
					defer l.Close()
				}
				ready <- fmt.Sprintf("%d/task/%d", os.Getpid(), unix.Gettid())
				<-done
				return nil
			})
		}()
		if who := <-ready; who != "" {
			check(t, who, map[int]bool{80: false, 81: false, 82: false})
		}
		close(done)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		if list, err := Listeners("2000000000"); len(list) != 0 || err != nil {
			t.Errorf("of no process: %v, %v", list, err)
		}
	})
}

func FuzzDiag(f *testing.F) {
	f.Add([]byte{})
	f.Add(append([]byte{16, 0, 0, 0, 3, 0, 2, 0}, make([]byte, 12)...))
	message := make([]byte, diagHeader+diagMessageSize)
	message[0], message[4], message[diagHeader], message[diagHeader+1] = byte(len(message)), sockDiagByFamily, unix.AF_INET, tcpListen
	f.Add(message)
	f.Add(append(message, message[:40]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, _, err := parseDiag(b)
		if err != nil && all != nil || len(all) > len(b)/(diagHeader+diagMessageSize) {
			t.Fatalf("%v, %v from %d bytes", all, err, len(b))
		}
	})
}
