package docker

import (
	"fmt"
	"maps"
	"path"
	"strconv"
	"strings"

	"github.com/moby/moby/client"

	"trellis/driver"
	"trellis/errdefs"
	"trellis/lazyregexp"
)

// The labels by which containers are found again.
const (
	labelProject  = "dev.trellis.project"
	labelState    = "dev.trellis.state" // the directory of who made it
	labelRole     = "dev.trellis.role"
	labelID       = "dev.trellis.id"
	labelService  = "dev.trellis.service"
	labelSlot     = "dev.trellis.slot"
	labelHash     = "dev.trellis.hash"
	labelRevision = "dev.trellis.revision"
	labelPorts    = "dev.trellis.ports"
	labelDir      = "dev.trellis.working-dir"
)

// The two containers of an instance.
const (
	roleInstance = "instance"
	roleNetwork  = "network"
)

// The labels that docker compose knows its volumes and networks by. Containers do not carry them: docker compose would
// take them for outdated ones of its own, and replace them.
const (
	composeProject = "com.docker.compose.project"
	composeNetwork = "com.docker.compose.network"
	composeVolume  = "com.docker.compose.volume"
)

// containerName is the name of an instance's own container.
func containerName(id driver.ID) string { return strings.Replace(string(id), "/", "-", 1) }

// networkName is the name of the container that holds an instance's network.
func networkName(id driver.ID) string { return containerName(id) + ".net" }

// mine selects the containers of a project that this driver made.
func (d *Driver) mine(project string) client.Filters {
	return make(client.Filters).Add("label", labelProject+"="+project, labelState+"="+d.cfg.StateDir)
}

// labels are those of one of the containers of spec.
func (d *Driver) labels(spec driver.Spec, role string) map[string]string {
	all := map[string]string{}
	if spec.Container != nil && role == roleInstance {
		maps.Copy(all, spec.Container.Labels)
	}
	ports := make([]string, len(spec.Ports))
	for i, p := range spec.Ports {
		ports[i] = strconv.Itoa(p)
	}
	maps.Copy(all, map[string]string{
		labelProject: spec.Project, labelState: d.cfg.StateDir, labelRole: role, labelID: string(spec.ID), labelService: spec.Service,
		labelSlot: strconv.Itoa(spec.Slot), labelHash: spec.Hash, labelRevision: strconv.FormatInt(spec.Revision, 10),
		labelPorts: strings.Join(ports, ","), labelDir: d.cfg.WorkingDir,
	})
	return all
}

func portsOf(label string) []int {
	var all []int
	for text := range strings.SplitSeq(label, ",") {
		if p, err := strconv.Atoi(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// nameForm is what the engine allows in the name of a container.
var nameForm = lazyregexp.New(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// check refuses a spec that can never work.
func check(spec driver.Spec) error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", errdefs.ErrInvalid, fmt.Sprintf(format, args...))
	}
	project, rest, ok := strings.Cut(string(spec.ID), "/")
	switch {
	case spec.Project == "" || spec.Service == "":
		return invalid("it names no project or no service")
	case !ok || project != spec.Project || rest == "" || strings.Contains(rest, "/") || !nameForm.MatchString(containerName(spec.ID)):
		return invalid("the ID %q is not PROJECT/NAME", spec.ID)
	case spec.Image == "":
		return invalid("it names no image")
	case spec.StopSignal != "" && signalNumber(spec.StopSignal) == 0:
		return invalid("there is no signal %q", spec.StopSignal)
	}
	for _, m := range spec.Mounts {
		if !path.IsAbs(m.Target) {
			return invalid("the path %q of a mount is not absolute", m.Target)
		}
	}
	for _, f := range spec.Files {
		if !path.IsAbs(f.Target) {
			return invalid("the path %q of a secret or config is not absolute", f.Target)
		}
	}
	return nil
}
