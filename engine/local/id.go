package local

import (
	"fmt"
	"strconv"
	"strings"

	"trellis/driver"
	"trellis/engine"
)

// hashLength is how much of a hash stands in an ID.
const hashLength = 8

// instanceID names an instance: "<project>/<service>-<slot>-<hash>".
func instanceID(project, service string, slot int, hash string) driver.ID {
	return driver.ID(fmt.Sprintf("%s/%s-%d-%s", project, service, slot, hash))
}

// hookID names the one-off instance of a pre_start hook; slot 0 stands for the service as a whole.
func hookID(project, service string, slot, index int, hash string) driver.ID {
	return driver.ID(fmt.Sprintf("%s/%s-%d-pre%d-%s", project, service, slot, index, hash))
}

// hookIndex returns the index of the hook that an instance of a service and slot is, false where it is none.
func hookIndex(id driver.ID, project, service string, slot int) (int, bool) {
	rest, ok := strings.CutPrefix(string(id), fmt.Sprintf("%s/%s-%d-pre", project, service, slot))
	if !ok {
		return 0, false
	}
	digits, _, ok := strings.Cut(rest, "-")
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n >= 0
}

// hookKey names a hook in what is remembered of those that succeeded.
func hookKey(service string, slot, index int) string {
	return fmt.Sprintf("%s/%d/%d", service, slot, index)
}

// short returns the instance's name within its project.
func short(project string, id driver.ID) engine.InstanceID {
	return engine.InstanceID(strings.TrimPrefix(string(id), project+"/"))
}

// full is short's inverse.
func full(project string, id engine.InstanceID) driver.ID {
	return driver.ID(project + "/" + string(id))
}
