//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/engine/enginetest"
	"trellis/load"
)

// underLoad sends rate requests a second to url (nine GETs for each POST, connections reused, no retries) while during
// runs, and for a moment before and after it.
func underLoad(t *testing.T, url string, rate float64, during func()) enginetest.Traffic {
	t.Helper()
	return underLoadOf(t, url, rate, enginetest.Mix(), during)
}

// underLoadOf is underLoad with other requests.
func underLoadOf(t *testing.T, url string, rate float64, mix []load.Request, during func()) enginetest.Traffic {
	t.Helper()
	tr := enginetest.Drive(t, load.Config{
		URL: url, Pacer: load.Constant(rate, 5*time.Minute), Connections: 32, Timeout: 15 * time.Second, Mix: mix,
	}, during)
	if tr.Report.Completed < int(rate/4) {
		t.Fatalf("only %d requests were answered: this says nothing", tr.Report.Completed)
	}
	return tr
}

// ledgers are the ledgers of every receiver.
func ledgers(t *testing.T, files string) string {
	t.Helper()
	names, _ := filepath.Glob(files)
	var all strings.Builder
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}
