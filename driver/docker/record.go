package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"trellis/driver"
)

// record is what the engine cannot keep of an instance. Losing it loses no instance.
type record struct {
	Container string        `json:"container"` // that it is about
	Restarts  int           `json:"restarts,omitempty"`
	Counted   time.Time     `json:"counted,omitzero"` // end of the run whose restart is counted last
	Revision  int64         `json:"revision,omitempty"`
	Asked     time.Time     `json:"asked,omitzero"` // when Stop was called
	Trouble   string        `json:"trouble,omitempty"`
	PostStart []driver.Hook `json:"post_start,omitempty"`
	PreStop   []driver.Hook `json:"pre_stop,omitempty"`
}

// The directory of records is there from before the first container until after the last: where it is not, the engine is
// not asked for any, so that a project of processes needs none.

func (d *Driver) recordDir() string { return filepath.Join(d.cfg.StateDir, "containers") }

// used says whether there may be containers of this driver.
func (d *Driver) used() bool {
	_, err := os.Stat(d.recordDir())
	return err == nil
}

// use makes it known that there are going to be some.
func (d *Driver) use() error {
	if d.used() {
		return nil
	}
	if err := os.MkdirAll(d.recordDir(), 0o700); err != nil {
		return fmt.Errorf("keep records of containers: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.first)
	d.first = make(chan struct{})
	return nil
}

// unused makes it known that there are none any more. A start that is under way meanwhile has its record, or makes the
// directory again.
func (d *Driver) unused() {
	_ = os.Remove(d.recordDir()) // refused while there are records
}

func (d *Driver) recordFile(id driver.ID) string {
	return filepath.Join(d.recordDir(), containerName(id)+".json")
}

// record returns what is known of a container: what is kept, or could not be. One of another container of that name does
// not count.
func (d *Driver) record(id driver.ID, container string) record {
	d.mu.Lock()
	known, ok := d.unwritten[id]
	d.mu.Unlock()
	if ok && known.Container == container {
		return known
	}
	var r record
	b, err := os.ReadFile(d.recordFile(id))
	if err != nil || json.Unmarshal(b, &r) != nil || r.Container != container {
		return record{Container: container}
	}
	return r
}

// keep writes a record, durably.
func (d *Driver) keep(id driver.ID, r record) error {
	file := d.recordFile(id)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(b)
	if err == nil {
		err = temp.Sync()
	}
	if cerr := temp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	d.written(id)
	return nil
}

// written drops what could not be written of an instance.
func (d *Driver) written(id driver.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.unwritten, id)
}

func (d *Driver) forget(id driver.ID) error {
	d.written(id)
	if err := os.Remove(d.recordFile(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(d.filesDir(id))
}
