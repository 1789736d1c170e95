package metrics

import (
	"log/slog"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// experimental are those of Prometheus' files that are about what it has switched off unless it is asked for: names that
// are dropped late, and start times.
func experimental(name string) bool {
	return slices.Contains([]string{"histograms.test", "name_label_dropping.test", "native_histograms.test", "start_timestamps.test"}, path.Base(name))
}

// some is a test that runs some of its subtests.
type some struct {
	*testing.T
	wanted func(name string) bool
	ran    int
}

func (s *some) Run(name string, f func(*testing.T)) bool {
	if !s.wanted(name) {
		return true
	}
	s.ran++
	return s.T.Run(name, f)
}

// TestPrometheusOwnTests runs the files that Prometheus keeps for whoever implements PromQL, with the options of this
// package's engine and store. Blocks are of a day, as these files take it; their experimental syntax is read.
func TestPrometheusOwnTests(t *testing.T) {
	ran := runOwn(t, func(name string) bool { return !experimental(name) }, func(*promql.EngineOpts, *tsdb.Options) {})
	ran += runOwn(t, experimental, func(e *promql.EngineOpts, s *tsdb.Options) {
		e.EnableDelayedNameRemoval, e.UseStartTimestamps = true, true
		s.EnableSTStorage, s.FloatChunkEncoding, s.EnableHistogramSTEncoding = true, chunkenc.EncXOR2, true
	})
	if ran < 22 {
		t.Errorf("%d files were run: this says nothing", ran)
	}
}

func runOwn(t *testing.T, wanted func(string) bool, also func(*promql.EngineOpts, *tsdb.Options)) int {
	log := slog.New(slog.DiscardHandler)
	of := engineOptions(log, parser.NewParser(promqltest.TestParserOpts))
	also(&of, &tsdb.Options{})
	engine := promql.NewEngine(of)
	t.Cleanup(func() { _ = engine.Close() })
	tests := &some{T: t, wanted: wanted}
	promqltest.RunBuiltinTestsWithStorage(tests, engine, func(t testing.TB) storage.Storage {
		opts := New(Config{Log: log}).options()
		opts.MinBlockDuration, opts.MaxBlockDuration = (24 * time.Hour).Milliseconds(), (24 * time.Hour).Milliseconds()
		also(&of, opts)
		db, err := tsdb.Open(t.TempDir(), log, nil, opts, nil)
		if err != nil {
			t.Fatal(err)
		}
		return db
	})
	return tests.ran
}
