package local

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"trellis/compose"
	"trellis/driver"
)

const (
	// goodAfter is how long a run has to be ready until the failures before it are forgotten (Docker's own value).
	goodAfter = 10 * time.Second
	// crashLoopAfter is the number of bad runs in a row from which on a service is called crash-looping, and giveUpAfter
	// the number after which an apply is called failed: about 6 s of back-off.
	crashLoopAfter = 3
	giveUpAfter    = 8
	// servedAfter is how long a run has to be ready to be worth something to its callers.
	servedAfter = time.Second

	backoffBase = 100 * time.Millisecond
	backoffCap  = 60 * time.Second

	defaultGrace = 10 * time.Second // Compose's stop_grace_period
)

const (
	restartNever     = "none"
	restartOnFailure = "on-failure"
	restartAlways    = "any"
)

// restartPolicy says whether and when an exited instance is started again.
type restartPolicy struct {
	condition string
	delay     time.Duration
	max       int           // restarts in a row; 0: no bound
	window    time.Duration // how long a run has to be ready to count as good; 0: goodAfter
}

// restartOf returns the policy of a service. deploy.restart_policy wins over restart, as in Compose. Where the file says
// neither, a service that others reach over the network is kept running, whatever its exit code; any other is a job: it
// is started again after a failure, unless somebody waits for it to complete (see docs/decisions/031).
func restartOf(svc compose.Service, awaited bool) restartPolicy {
	if p := svc.Deploy.RestartPolicy; p != nil {
		policy := restartPolicy{condition: p.Condition, delay: p.Delay.Or(0), window: p.Window.Or(0)}
		if p.MaxAttempts != nil {
			policy.max = *p.MaxAttempts
		}
		if policy.condition == "" {
			policy.condition = restartAlways
		}
		return policy
	}
	name, attempts, _ := strings.Cut(svc.Restart, ":")
	switch name {
	case "no":
		return restartPolicy{condition: restartNever}
	case "always", "unless-stopped":
		return restartPolicy{condition: restartAlways}
	case "on-failure":
		n, _ := strconv.Atoi(attempts) // checked by the loader
		return restartPolicy{condition: restartOnFailure, max: n}
	}
	switch {
	case awaited:
		return restartPolicy{condition: restartNever}
	case len(svc.Ports) > 0 || len(svc.Expose) > 0 || svc.Trellis.Probe != nil || svc.Healthcheck != nil:
		return restartPolicy{condition: restartAlways}
	}
	return restartPolicy{condition: restartOnFailure}
}

// good returns how long a run has to be ready until the failures before it are forgotten.
func (r restartPolicy) good() time.Duration {
	if r.window > 0 {
		return r.window
	}
	return goodAfter
}

// wants says whether an exited instance is to be started again at all.
func (r restartPolicy) wants(inst seen) bool {
	if inst.exit == nil || inst.stoppedOnPurpose() || inst.replace {
		return true
	}
	if r.max > 0 && inst.failures > r.max {
		return false
	}
	switch r.condition {
	case restartNever:
		return false
	case restartOnFailure:
		return inst.exit.Code != 0 || inst.exit.Error != ""
	}
	return true
}

// at returns when an exited instance is to be started again: the first time at once, then after twice as long each
// time, with up to a quarter more so that instances that died together do not come back together.
func (r restartPolicy) at(inst seen) time.Time {
	if inst.exit == nil || inst.stoppedOnPurpose() {
		return time.Time{}
	}
	wait := max(min(backoff(inst.failures), inst.rest()), r.delay)
	wait += jitter(wait, string(inst.id), inst.failures)
	if inst.over.IsZero() {
		return inst.exit.Time.Add(wait)
	}
	// The clock may have been set since, by hours: what counts is how long ago the end was when it was seen, and from there
	// on the time that passes.
	before := inst.over.Sub(inst.exit.Time)
	return inst.over.Add(wait - min(max(before, 0), wait))
}

// rest returns the longest pause that an instance's last run is worth. Who served for a while before it died is not kept
// down for longer than half of that, or as its start took: a program that is killed every few seconds is there for most
// of the time, and one that takes long to start does not start all the time. Nor is a SIGKILL a program's own doing, however
// soon it comes: who kills one replica after the other, and the newest again, is not helped to end all of them.
func (s seen) rest() time.Duration {
	if !s.wasReady {
		return backoffCap
	}
	served, start := s.exit.Time.Sub(s.readySince), s.readySince.Sub(s.started)
	switch {
	case served >= servedAfter:
		return max(served/2, start)
	case s.exit.Signal == "SIGKILL" && !s.exit.OOM:
		return max(servedAfter, start)
	}
	return backoffCap
}

// backoff returns the wait before the restart that follows so many bad runs in a row.
func backoff(failures int) time.Duration {
	if failures <= 1 {
		return 0
	}
	if failures > 12 {
		return backoffCap
	}
	return min(backoffBase<<(failures-2), backoffCap)
}

// jitter returns between 0 and a quarter of wait, always the same for the same instance and failure.
func jitter(wait time.Duration, id string, failures int) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	_, _ = h.Write([]byte{byte(failures)})
	return wait / 4 * time.Duration(h.Sum32()%1024) / 1024
}

// completed says whether an instance ran to its end, and that is all that is wanted of it.
func (s *servicePlan) completed(inst seen) bool {
	return !inst.alive() && inst.exit != nil && inst.exit.Code == 0 && inst.exit.Error == "" && !inst.exit.Asked &&
		s.want.restart.condition != restartAlways
}

// broken says whether an instance failed and is not to be started again.
func (s *servicePlan) broken(inst seen) bool {
	return !inst.alive() && !s.completed(inst) && !s.want.restart.wants(inst)
}

// exitWords says in words how an instance ended.
func exitWords(e *driver.Exit) string {
	switch {
	case e == nil:
		return "it does not run"
	case e.Error != "":
		return e.Error
	case e.OOM:
		return "killed because it used more memory than its limit"
	case e.Signal != "":
		return "killed by " + e.Signal
	}
	return fmt.Sprintf("exited with code %d", e.Code)
}
