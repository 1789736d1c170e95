//go:build e2e

package e2e

import "testing"

// dockerVolumesOfEverySlot: volumes without a name go with the others, those too of instances that were scaled away.
func dockerVolumesOfEverySlot(t *testing.T) {
	name := dockerName()
	p := dockerProject(t, name, map[string]string{"compose.yaml": "name: " + name + `
services:
  web:
    build: .
    volumes: ["data:/data", "/cache"]
    deploy: {replicas: 3}
volumes:
  data:
`})
	p.run("up", "-d")
	p.run("scale", "web=1")
	if left := leftInDocker(t, name); len(left["volume"]) != 4 {
		t.Errorf("volumes %q", left["volume"])
	}
	p.run("down", "--volumes", "--yes")
	if left := leftInDocker(t, name); len(left["volume"])+len(left["container"]) > 0 {
		t.Errorf("left are %q", left)
	}
}
