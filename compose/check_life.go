package compose

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

func parseAmount(s string) (float64, error) {
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		return f, nil
	}
	n, err := units.RAMInBytes(s)
	return float64(n), err
}

var restartForm = regexp.MustCompile(`^(no|always|unless-stopped|on-failure(:\d{1,9})?)$`)

// signals are the names that stop_signal may have, without SIG.
const signals = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN " +
	"TTOU URG XCPU XFSZ VTALRM PROF WINCH IO POLL PWR SYS"

// checkLife checks how a service starts, is watched and ends.
func (l *loading) checkLife(s Service, at string) {
	if s.Restart != "" && !restartForm.MatchString(s.Restart) {
		l.errorPath(at+".restart", "%s is not known%s", quoted(s.Restart), didYouMean(s.Restart, []string{"no", "always", "unless-stopped", "on-failure"}))
	}
	if s.StopSignal != "" && !isSignal(s.StopSignal) {
		l.errorPath(at+".stop_signal", "%s is not a signal: write a name such as SIGTERM, or a number", quoted(s.StopSignal))
	}
	l.checkNotNegative(s.StopGracePeriod, at+".stop_grace_period")
	if h := s.Healthcheck; h != nil {
		l.checkHealthcheck(h, at+".healthcheck")
	}
	if g := s.Logging; g != nil {
		if n, err := strconv.Atoi(g.Options["max-file"]); g.Options["max-file"] != "" && (err != nil || n < 1) {
			l.errorPath(at+".logging.options.max-file", "%s is not a number of files of at least 1", quoted(g.Options["max-file"]))
		}
		if n, err := units.RAMInBytes(g.Options["max-size"]); g.Options["max-size"] != "" && (err != nil || n < 1) {
			l.errorPath(at+".logging.options.max-size", "%s is not a size: write a number with a unit, such as 10m", quoted(g.Options["max-size"]))
		}
	}
	for i, h := range s.PostStart {
		l.checkHook(h, indexPath(at+".post_start", i))
	}
	for i, h := range s.PreStop {
		l.checkHook(h, indexPath(at+".pre_stop", i))
	}
	if d := s.Develop; d != nil {
		for i, w := range d.Watch {
			if w.Target == "" && w.Action != "rebuild" && w.Action != "restart" {
				l.errorPath(indexPath(at+".develop.watch", i), "needs a target for the action %s", w.Action)
			}
		}
	}
	l.checkUpdate(s.Deploy.UpdateConfig, at+".deploy.update_config", []string{OnFailurePause, OnFailureContinue, OnFailureRollback})
	l.checkUpdate(s.Deploy.RollbackConfig, at+".deploy.rollback_config", []string{OnFailurePause, OnFailureContinue})
	if m := s.Deploy.Mode; m != "" && !slices.Contains([]string{"replicated", "global", "replicated-job", "global-job"}, m) {
		l.errorPath(at+".deploy.mode", "%s is not known%s", quoted(m), didYouMean(m, []string{"replicated", "global"}))
	}
	if r := s.Deploy.RestartPolicy; r != nil {
		l.checkNotNegative(r.Delay, at+".deploy.restart_policy.delay")
		l.checkNotNegative(r.Window, at+".deploy.restart_policy.window")
	}
	if r := s.Deploy.RestartPolicy; r != nil && r.Condition != "" && !slices.Contains([]string{"none", "on-failure", "any"}, r.Condition) {
		l.errorPath(at+".deploy.restart_policy.condition", "%s is not known%s", quoted(r.Condition), didYouMean(r.Condition, []string{"none", "on-failure", "any"}))
	}
}

// checkUpdate checks an update_config or a rollback_config.
func (l *loading) checkUpdate(u *UpdateConfig, at string, actions []string) {
	if u == nil {
		return
	}
	if u.Order != "" && u.Order != StartFirst && u.Order != StopFirst {
		l.errorPath(at+".order", "%s is not known%s", quoted(u.Order), didYouMean(u.Order, []string{StartFirst, StopFirst}))
	}
	if u.FailureAction != "" && !slices.Contains(actions, u.FailureAction) {
		l.errorPath(at+".failure_action", "%s is not known%s", quoted(u.FailureAction), didYouMean(u.FailureAction, actions))
	}
	l.checkNotNegative(u.Delay, at+".delay")
	l.checkNotNegative(u.Monitor, at+".monitor")
	if u.MaxFailureRatio < 0 || u.MaxFailureRatio > 1 {
		l.errorPath(at+".max_failure_ratio", "is %g: it must be from 0 to 1", u.MaxFailureRatio)
	}
}

// checkNotNegative checks a duration: one below zero is over before it has begun.
func (l *loading) checkNotNegative(d *Duration, at string) {
	if d != nil && *d < 0 {
		l.errorPath(at, "is %s: it cannot be negative", d)
	}
}

func isSignal(s string) bool {
	if n, err := strconv.Atoi(s); err == nil {
		return n >= 1 && n <= 64
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if strings.HasPrefix(name, "RTMIN") || strings.HasPrefix(name, "RTMAX") {
		return true
	}
	return among(signals, name)
}

func (l *loading) checkHealthcheck(h *Healthcheck, at string) {
	if len(h.Test) > 0 {
		switch kind := h.Test[0]; kind {
		case "NONE":
			if len(h.Test) > 1 {
				l.errorPath(at+".test", "has arguments after NONE: remove them")
			}
		case "CMD", "CMD-SHELL":
			if len(h.Test) < 2 || strings.TrimSpace(h.Test[1]) == "" {
				l.errorPath(at+".test", "has no command after %s", kind)
			}
			if kind == "CMD-SHELL" && len(h.Test) > 2 {
				l.errorPath(at+".test", "has %d arguments after CMD-SHELL, which takes one command line: write it as one, or use CMD", len(h.Test)-1)
			}
		default:
			l.errorPath(at+".test", "starts with %s: a list starts with CMD, CMD-SHELL or NONE", quoted(kind))
		}
	}
	if h.Disable && len(h.Test) > 0 && h.Test[0] != "NONE" {
		l.warnPath(at+".disable", "switches off the test that stands beside it")
	}
	for key, d := range map[string]*Duration{"interval": h.Interval, "timeout": h.Timeout, "start_interval": h.StartInterval} {
		if d != nil && *d < 0 {
			l.errorPath(at+"."+key, "is negative")
		}
		if d != nil && *d > 0 && *d < 1e6 {
			l.errorPath(at+"."+key, "is %s: it must be at least 1ms", d)
		}
	}
}

func (l *loading) checkHook(h Hook, at string) {
	if len(h.Command) == 0 {
		l.errorPath(at, "has no command")
	}
}
