package load_test

import (
	"errors"
	"strings"
	"testing"

	"trellis/errdefs"
	"trellis/load"
)

func TestObjectives(t *testing.T) {
	rate, longest := 99.5, 250.0
	report := load.Report{Sent: 990, Missed: 10, Completed: 985, Failed: 5, Rate: &rate, Latency: load.Latency{Max: &longest}, Errors: map[load.Kind]int{load.Reset: 5},
		Steps: []load.Step{{Name: "pay", Sent: 7, Failed: 3, Latency: load.Latency{Max: &longest}}}}
	for text, want := range map[string]string{
		"max<250ms":                            "missed max<250ms: 250 ms",
		"max<=250ms":                           "held max<=250ms: 250 ms",
		"p99<1s":                               "missed p99<1s: not measured",
		"failed=0":                             "missed failed=0: 15",
		"failed < 2%":                          "held failed<2%: 1.500%",
		"lost<=1.5%":                           "held lost<=1.5%: 1.500%",
		"missed==10":                           "held missed==10: 10",
		"rate>=100/s":                          "missed rate>=100/s: 99.5/s",
		"rate>99":                              "held rate>99: 99.5/s",
		"completed>98%":                        "held completed>98%: 98.500%",
		"visits.failed=0":                      "missed visits.failed=0: not measured",
		"failed[pay]=0":                        "missed failed[pay]=0: 3",
		"max [pay] < 1s":                       "held max [pay]<1s: 250 ms",
		"failed[a<=b]=0":                       "missed failed[a<=b]=0: not measured",
		"failed[GET /a?ids=1,2]=0,max[pay]<1s": "missed failed[GET /a?ids=1,2]=0: not measured, held max[pay]<1s: 250 ms",
		"max>1ms,missed<=10":                   "held max>1ms: 250 ms, held missed<=10: 10",
	} {
		objectives, err := load.ParseObjectives(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got := ""
		for _, o := range objectives {
			v := o.Judge(report)
			if got != "" {
				got += ", "
			}
			got += map[bool]string{true: "held ", false: "missed "}[v.Held] + v.String()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{"", "p99", "p99<", "p99<250", "p101<1s", "p0<1s", "failed<x", "failed<-1", "fialed=0", "=0", "failed<>0", "failed=0,", "rate>Inf", "p99<1s=2", "lost[pay]=0", "failed[]", "failed[=0", "failed[]=0"} {
		if _, err := load.ParseObjectives(text); !errors.Is(err, errdefs.ErrInvalid) {
			t.Errorf("%q: error %v, want an invalid one", text, err)
		}
	}
}

func TestObjectivesOfAScenario(t *testing.T) {
	s := scenario(t, "steps: [{path: /, name: sign in}]")
	for text, want := range map[string]string{
		"p99[sign in]<1s": "", "visits.failed=0": "", "failed=0": "",
		"p99[signin]<1s": `the scenario has no step "signin"; did you mean sign in?`,
	} {
		objectives, err := load.ParseObjectives(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := objectives[0].Of(s); err == nil != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		if err := objectives[0].Of(nil); (err == nil) != (text == "failed=0") {
			t.Errorf("%s without a scenario: %v", text, err)
		}
	}
}

func FuzzParseObjectives(f *testing.F) {
	f.Add("p99<250ms,failed=0")
	f.Add("lost<=0.1%, visits.failed==0,rate>1/s")
	f.Fuzz(func(t *testing.T, s string) {
		objectives, err := load.ParseObjectives(s)
		if err != nil && !errors.Is(err, errdefs.ErrInvalid) {
			t.Fatal(err)
		}
		for _, o := range objectives {
			_ = o.Judge(load.Report{}).String()
		}
	})
}
