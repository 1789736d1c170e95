package main

import (
	"testing"

	"trellis/api"
	"trellis/telemetry"
)

// TestASearchForWhatIsNew: no last line of what there is, and all that comes.
func TestASearchForWhatIsNew(t *testing.T) {
	now := fixedNow()
	if f := searchOf(api.LogsRequest{Tail: -1}, telemetry.RecordFilter{Grep: "x"}, now); !f.Since.Equal(now) {
		t.Errorf("--tail 0 looks for what is newer than %s", f.Since)
	}
	if f := searchOf(api.LogsRequest{Tail: 5}, telemetry.RecordFilter{Grep: "x"}, now); !f.Since.IsZero() || f.Limit != 5 {
		t.Errorf("--tail 5 looks for %+v", f)
	}
}
