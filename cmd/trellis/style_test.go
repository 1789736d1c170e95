package main

import (
	"strings"
	"testing"
	"unicode"

	"trellis/api"
	"trellis/telemetry"
)

// hostile is what somebody may have a program write: a title, a screen without what was on it, a colour, and a line over the one before.
const hostile = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m\x1b\x1b[2J[1A\rover\x9b1A"

func TestATerminalCarriesNothingOut(t *testing.T) {
	if got := harmless(hostile); got != "redover\ufffd1A" && strings.ContainsFunc(got, unicode.IsControl) {
		t.Errorf("harmless: %q", got)
	}
	got := coloured(hostile)
	if !strings.HasPrefix(got, "\x1b[31mred\x1b[0m") || !strings.HasSuffix(got, "\x1b[0m") {
		t.Errorf("coloured: %q", got)
	}
	if rest := colours.ReplaceAllString(got, ""); strings.ContainsFunc(rest, unicode.IsControl) {
		t.Errorf("coloured leaves %q", rest)
	}
	if got := coloured("a\tb"); got != "a\tb" {
		t.Errorf("a plain line became %q", got)
	}
}

// TestWhatComesFromOutsideIsText: the path of a request, what a program says of itself and what it wrote are anybody's.
func TestWhatComesFromOutsideIsText(t *testing.T) {
	p := &program{now: fixedNow}
	at := fixedNow()
	span := telemetry.Span{ID: telemetry.SpanID{1}, Service: "web" + hostile, Name: "GET /", Start: at, Status: telemetry.StatusError, Message: hostile,
		Attributes: map[string]any{telemetry.PathAttribute: "/" + hostile, "http.response.status_code": hostile}}
	record := telemetry.Record{Time: at, Service: "web", Body: "one\ntwo" + hostile}
	var out strings.Builder
	if err := p.writeTrace(&out, style{}, api.Trace{Spans: []telemetry.Span{span}, Records: []telemetry.Record{record}}); err != nil {
		t.Fatal(err)
	}
	p.stdout = &out
	if err := p.writeTraces([]telemetry.TraceSummary{{Start: at, Service: hostile, Root: "GET " + hostile}}); err != nil {
		t.Fatal(err)
	}
	if text := strings.ReplaceAll(out.String(), "\n", ""); strings.ContainsFunc(text, unicode.IsControl) || !strings.Contains(out.String(), "one\ntwo") {
		t.Errorf("%q", out.String())
	}
}
