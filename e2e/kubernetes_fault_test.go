//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// killed starts a command of trellis, which is killed after a while, or ends before. ended waits for that.
func (p *project) killed(after time.Duration, args ...string) (ended func()) {
	p.t.Helper()
	cmd := exec.Command(p.trellis, slices.Concat(p.flags, args)...)
	cmd.Dir, cmd.Env = p.dir, p.env
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	return func() {
		_ = cmd.Wait()
		timer.Stop()
	}
}

// TestKubernetesAppliesKilled: of two applies at once, of different files, each is killed at a random point, while the control plane in the
// cluster carries on what they have begun. The next apply makes that good: what its file has is there as it says, and nothing else of the
// project's is.
func TestKubernetesAppliesKilled(t *testing.T) {
	c := reachCluster(t)
	c.dataPlane()
	t.Parallel()
	const name = "e2e-killed"
	points := 8
	if long(t) {
		points = 30
	}
	p := c.project(name)
	// Two files that differ in everything that an apply does: objects come, go, and change.
	file := func(odd bool) string {
		var b strings.Builder
		fmt.Fprintf(&b, "name: %s\nservices:\n", name)
		for i := range 6 {
			own, replicas := fmt.Sprintf("own%d-%t", i, odd), 0
			if i == 0 {
				replicas = 1
			}
			if i < 2 {
				own = fmt.Sprintf("both%d", i)
			}
			fmt.Fprintf(&b, "  %s: {image: %q, environment: {PORT: '8080', ODD: '%t'}, expose: ['8080'], configs: [motd], volumes: ['data:/data'],\n"+
				"    deploy: {replicas: %d}}\n", own, c.image, odd, replicas)
		}
		fmt.Fprintf(&b, "configs: {motd: {content: 'odd %t'}}\nvolumes: {data: {}}\n", odd)
		return b.String()
	}
	p.write("compose.yaml", file(false))
	p.run("up", "--yes", "--timeout", "120s") // with what it has of Trellis' own
	const latest = 45 * time.Second           // when one is killed: more would wait for what has ended
	whole := latest
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	objects := func() string {
		return c.kubectl("", "get", "deployments,statefulsets,services,configmaps,secrets,serviceaccounts", "-n", name, "-l", "app.kubernetes.io/part-of="+name, "-o", "name")
	}
	var sets [2]string
	for point := range points + 2 {
		odd := point%2 == 1
		p.write("compose.yaml", file(odd))
		if point >= 2 {
			p.write("other.yaml", file(!odd))
			after := func() time.Duration { return time.Duration(random.Int64N(int64(whole))) }
			one, other := p.killed(after(), "up", "--yes"), p.killed(after(), "-f", "other.yaml", "up", "--yes")
			one()
			other()
		}
		begin := time.Now()
		p.run("up", "--yes", "--timeout", "120s")
		if point == 1 { // the first that changes something alone
			whole = min(time.Since(begin), latest)
			t.Logf("an apply takes %v; seed %d", whole.Round(time.Millisecond), seed)
		}
		if out := p.run("plan"); !strings.Contains(out, "up to date") {
			t.Fatalf("point %d: what is there is not what was applied:\n%s", point, out)
		}
		now := withoutHistory(objects())
		if point < 2 {
			sets[point] = now
		} else if now != sets[point%2] {
			t.Fatalf("point %d: there are\n%s\nwant\n%s", point, now, sets[point%2])
		}
	}
	if sets[0] == sets[1] {
		t.Error("both files make the same objects: this says nothing")
	}
}

var revisionName = regexp.MustCompile(`^secret/trellis-.*-r[0-9]+$`)

// withoutHistory takes the revisions out of a list of objects: they grow with each apply.
func withoutHistory(objects string) string {
	return strings.Join(slices.DeleteFunc(strings.Fields(objects), revisionName.MatchString), "\n")
}

// TestKubernetesServerTrouble: whatever the API server is in the middle of, what it refuses is told in a sentence, and the same
// command later carries on.
func TestKubernetesServerTrouble(t *testing.T) {
	c := reachCluster(t)
	const name = "e2e-server"
	p := c.project(name)
	file := func(version string) string { return c.shop(name, ", VERSION: "+version, "") }
	p.write("compose.yaml", file("v1"))
	p.run("up", "--yes", "--timeout", "90s")

	// A webhook that nobody serves refuses what is applied.
	c.kubectl(fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: %[1]s}
webhooks:
- name: policy.example.org
  admissionReviewVersions: [v1]
  sideEffects: None
  timeoutSeconds: 2
  clientConfig: {url: "https://127.0.0.1:1/"}
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}
  rules: [{apiGroups: [apps], apiVersions: [v1], operations: [UPDATE], resources: [deployments]}]
`, name), "apply", "-f", "-")
	t.Cleanup(func() { c.kubectl("", "delete", "validatingwebhookconfiguration", name, "--ignore-not-found") })
	p.write("compose.yaml", file("v2"))
	out, err := p.try("up", "--yes", "--timeout", "60s")
	if err == nil || !strings.Contains(out, "a webhook of the cluster cannot be asked") || !strings.Contains(out, "policy.example.org") {
		t.Errorf("a webhook that is not there: %v\n%s", err, out)
	}
	c.kubectl("", "delete", "validatingwebhookconfiguration", name)
	p.run("up", "--yes", "--timeout", "90s")

	// The server says nothing for a while in the middle of an apply.
	p.write("compose.yaml", file("v3"))
	done := make(chan error, 1)
	go func() {
		_, err := p.try("up", "--yes", "--timeout", "90s")
		done <- err
	}()
	time.Sleep(700 * time.Millisecond)
	c.inside("kill -STOP $(pgrep -x kube-apiserver); sleep 5; kill -CONT $(pgrep -x kube-apiserver)")
	if err := <-done; err != nil {
		t.Logf("the apply in which the server stood still ended with %v", err)
	}
	p.run("up", "--yes", "--timeout", "90s")
	if out := p.run("plan"); !strings.Contains(out, "up to date") {
		t.Errorf("after a server that stood still:\n%s", out)
	}

	// It is gone and comes back.
	c.inside("kill -STOP $(pgrep -x kube-apiserver)")
	begin := time.Now()
	out, err = p.try("ps")
	took := time.Since(begin)
	c.inside("kill -CONT $(pgrep -x kube-apiserver)")
	if err == nil || !strings.Contains(out, "no answer from the API server") || took > time.Minute {
		t.Errorf("ps of a server that does not answer, after %v: %v\n%s", took, err, out)
	}

	// The namespace is on its way out, and something holds it.
	c.kubectl(fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, namespace: %s, finalizers: [example.org/hold]}\n", name), "apply", "-f", "-")
	c.kubectl("", "delete", "namespace", name, "--wait=false")
	for _, version := range []string{"v3", "v4"} {
		p.write("compose.yaml", file(version))
		out, err = p.try("up", "--yes", "--timeout", "60s")
		if err == nil || !strings.Contains(out, "namespace "+name+" is being deleted") {
			t.Errorf("%s in a namespace that is being deleted: %v\n%s", version, err, out)
		}
	}
	c.kubectl("", "patch", "configmap", "held", "-n", name, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	c.kubectl("", "wait", "--for=delete", "namespace/"+name, "--timeout=90s")
	p.run("up", "--yes", "--timeout", "90s")
}

// TestKubernetesPreStartFails: a version whose pre_start fails replaces nothing, its end and its last words are told, and the same file
// once more runs it once more.
func TestKubernetesPreStartFails(t *testing.T) {
	c := reachCluster(t)
	t.Parallel()
	const name = "e2e-prepared"
	p, ledger := c.project(name), c.nodeFolder("e2e-prepared")
	file := func(version string) string {
		return fmt.Sprintf(`name: %s
services:
  web:
    image: %s
    environment: {PORT: "8080", VERSION: %s}
    expose: ["8080"]
    volumes: ["%s:/ledger"]
    pre_start: [{command: [/bin/sh, -c, 'echo looks for %[3]s; [ -e /ledger/%[3]s ] || { echo there is no table; exit 3; }']}]
    x-trellis: {probe: {http: /healthz}}
`, name, c.image, version, ledger)
	}
	c.inside("touch " + ledger + "/v1")
	p.write("compose.yaml", file("v1"))
	p.run("up", "--yes", "--timeout", "90s")
	before := c.pods(name, "web")
	p.write("compose.yaml", file("v2"))
	out, err := p.try("up", "--yes", "--timeout", "90s")
	if err == nil || !strings.Contains(out, "its pre_start failed: exit code 3") || !strings.Contains(out, "there is no table") {
		t.Errorf("a pre_start that fails: %v\n%s", err, out)
	}
	if now := c.pods(name, "web"); now != before {
		t.Errorf("it replaced pods: %s, then %s", before, now)
	}
	c.inside("touch " + ledger + "/v2")
	p.run("up", "--yes", "--timeout", "90s")
	if now := c.pods(name, "web"); now == before {
		t.Error("the same file once more started nothing")
	}
}
