//go:build !linux

package holder

import (
	"errors"
	"fmt"
)

func inNamespace(path string, fn func() error) error {
	if path == "" {
		return fn()
	}
	return fmt.Errorf("network namespace %s: %w on this system", path, errors.ErrUnsupported)
}
