//go:build !linux

package process

import (
	"context"
	"fmt"
	"io"
	"time"

	"trellis/driver"
	"trellis/errdefs"
)

// Driver is the driver of a system that has not what it needs: it runs nothing and says so.
type Driver struct{ cfg Config }

// New returns a driver over cfg's directories. It starts nothing.
func New(cfg Config) (*Driver, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Driver{cfg: cfg}, nil
}

func refuse(what string, id driver.ID) error {
	return fmt.Errorf("%s %s: %w: processes are run on Linux only; here services run in Docker", what, id, errdefs.ErrUnsupported)
}

// Capabilities says that nothing can be run.
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{Name: "process", Durable: true, Lacks: []string{"processes are run on Linux only; here services run in Docker"}}
}

// Run waits until ctx is done.
func (d *Driver) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Start is refused; so is what needs an instance. What is idempotent finds nothing to do.
func (d *Driver) Start(_ context.Context, spec driver.Spec) error { return refuse("start", spec.ID) }

// Stop has nothing to stop.
func (d *Driver) Stop(context.Context, driver.ID, time.Duration) error { return nil }

// Remove has nothing to remove.
func (d *Driver) Remove(context.Context, driver.ID) error { return nil }

// List returns no instances.
func (d *Driver) List(context.Context, string) ([]driver.Instance, error) {
	return []driver.Instance{}, nil
}

// Watch waits until ctx is done.
func (d *Driver) Watch(ctx context.Context, _ string, _ func(driver.ID)) error { return d.Run(ctx) }

// SetHosts is refused.
func (d *Driver) SetHosts(id driver.ID, _ map[string]string) error {
	return refuse("set the names of", id)
}

// Revive has nothing to revive.
func (d *Driver) Revive(driver.ID, int, driver.Revival) error { return nil }

// Prepare is refused.
func (d *Driver) Prepare(_ context.Context, spec driver.Spec) (string, error) {
	return "", refuse("prepare", spec.ID)
}

// Logs knows no instance.
func (d *Driver) Logs(_ context.Context, id driver.ID, _ driver.LogOptions) (io.ReadCloser, error) {
	return nil, fmt.Errorf("logs of %s: %w: no such instance", id, errdefs.ErrNotFound)
}

// Exec knows no instance.
func (d *Driver) Exec(_ context.Context, id driver.ID, _ driver.Command) (int, error) {
	return -1, fmt.Errorf("exec in %s: %w: no such instance", id, errdefs.ErrNotFound)
}

// Stats knows no instance.
func (d *Driver) Stats(_ context.Context, id driver.ID) (driver.Usage, error) {
	return driver.Usage{}, fmt.Errorf("usage of %s: %w: no such instance", id, errdefs.ErrNotFound)
}

var _ driver.Driver = (*Driver)(nil)
