//go:build linux

package netspace

import (
	"slices"
	"strings"
	"testing"
)

const procTCP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0000000000000000 100 0 0 10 0
   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0000000000000000 100 0 0 10 0
   2: 0100007F:A000 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0000000000000000 100 0 0 10 0
`

const procTCP6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 103 1
   1: 00000000000000000000000001000000:0051 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 104 1
   2: 0000000000000000FFFF00000100007F:0052 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 105 1
`

func TestParseListeners(t *testing.T) {
	four, err := parseListeners(strings.NewReader(procTCP))
	if err != nil {
		t.Fatal(err)
	}
	six, err := parseListeners(strings.NewReader(procTCP6))
	if err != nil {
		t.Fatal(err)
	}
	want := []Listener{{8080, true, 100}, {80, false, 101}, {443, false, 103}, {81, true, 104}, {82, true, 105}}
	if got := append(four, six...); !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got := Ports(want); !slices.Equal(got, []int{80, 443}) {
		t.Errorf("ports %v", got)
	}
}

func FuzzListeners(f *testing.F) {
	f.Add(procTCP)
	f.Add(procTCP6)
	f.Fuzz(func(t *testing.T, text string) {
		all, _ := parseListeners(strings.NewReader(text))
		for _, l := range all {
			if l.Port < 0 || l.Port > 65535 {
				t.Fatalf("%+v", l)
			}
		}
	})
}
