package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Spec says what a shim runs. It is complete; whoever writes it has checked it.
type Spec struct {
	Version  int    `json:"version"`
	ID       string `json:"id"`
	Project  string `json:"project"`
	Service  string `json:"service"`
	Slot     int    `json:"slot"`
	Hash     string `json:"hash"`
	Revision int64  `json:"revision"`

	Command    []string `json:"command"`
	Env        []string `json:"env"`
	Dir        string   `json:"dir"`
	User       string   `json:"user,omitempty"`
	GroupAdd   []string `json:"group_add,omitempty"`
	StopSignal string   `json:"stop_signal,omitempty"`

	// Isolate gives the instance its own mount and UTS namespace; Mounts, Files, Hostname, ReadOnly, ShmSize and Mask
	// need it. Netns is the path of the network namespace to join.
	Isolate  bool    `json:"isolate,omitempty"`
	Netns    string  `json:"netns,omitempty"`
	Hostname string  `json:"hostname,omitempty"`
	ReadOnly bool    `json:"read_only,omitempty"`
	ShmSize  int64   `json:"shm_size,omitempty"`
	Mounts   []Mount `json:"mounts,omitempty"`
	Files    []File  `json:"files,omitempty"`
	// Mask are directories that the instance sees empty: the records of other instances.
	Mask []string `json:"mask,omitempty"`

	// Confine drops capabilities as container engines do, changed by CapAdd and CapDrop; Privileged keeps all.
	Confine         bool              `json:"confine,omitempty"`
	Privileged      bool              `json:"privileged,omitempty"`
	NoNewPrivileges bool              `json:"no_new_privileges,omitempty"`
	CapAdd          []string          `json:"cap_add,omitempty"`
	CapDrop         []string          `json:"cap_drop,omitempty"`
	Ulimits         map[string]Ulimit `json:"ulimits,omitempty"`
	Sysctls         map[string]string `json:"sysctls,omitempty"`
	OomScore        int               `json:"oom_score,omitempty"`
	TimerSlack      time.Duration     `json:"timer_slack,omitempty"` // 0: the kernel's 50 µs, whatever the shim's own is
	Cgroups         []Cgroup          `json:"cgroups,omitempty"`

	PostStart []Hook   `json:"post_start,omitempty"`
	PreStop   []Hook   `json:"pre_stop,omitempty"`
	Log       LogLimit `json:"log,omitzero"`

	// Owner is for whoever wrote the Spec; the shim keeps it and never looks.
	Owner json.RawMessage `json:"owner,omitempty"`
}

// The kinds of a Mount.
const (
	Bind   = "bind"   // Source, a host path
	Volume = "volume" // Source, a host directory; a link is refused
	Tmpfs  = "tmpfs"
)

// Mount is one path of the instance.
type Mount struct {
	Kind         string `json:"kind"`
	Source       string `json:"source,omitempty"`
	Target       string `json:"target"`
	ReadOnly     bool   `json:"read_only,omitempty"`
	CreateSource bool   `json:"create_source,omitempty"`
	Subpath      string `json:"subpath,omitempty"`
	Size         int64  `json:"size,omitempty"`
	Mode         uint32 `json:"mode,omitempty"`
}

// File is one file of the instance: the content of Source at the start, on a tmpfs.
type File struct {
	Source string `json:"source"`
	Target string `json:"target"`
	UID    string `json:"uid,omitempty"`
	GID    string `json:"gid,omitempty"`
	Mode   uint32 `json:"mode"`
}

// Ulimit is a soft and a hard resource limit; -1 is unlimited.
type Ulimit struct {
	Soft int64 `json:"soft"`
	Hard int64 `json:"hard"`
}

// Cgroup is one control group that the shim makes, the program lives in, and the shim removes.
type Cgroup struct {
	Dir string `json:"dir"`
	// Set are the files to write, in order; one that cannot be written is an error unless Optional.
	Set []CgroupSetting `json:"set,omitempty"`
	// OOM is the file with a line "oom_kill N", "" without one.
	OOM string `json:"oom,omitempty"`
}

// CgroupSetting is a value for one file of a control group.
type CgroupSetting struct {
	File     string `json:"file"`
	Value    string `json:"value"`
	Optional bool   `json:"optional,omitempty"`
}

// Hook is a command that runs beside the program.
type Hook struct {
	Command []string `json:"command"`
	Env     []string `json:"env,omitempty"`  // added to the instance's
	Dir     string   `json:"dir,omitempty"`  // "" the instance's
	User    string   `json:"user,omitempty"` // "" the instance's
}

// LogLimit bounds the output on disk.
type LogLimit struct {
	MaxSize  int64 `json:"max_size,omitempty"` // bytes per file
	MaxFiles int   `json:"max_files,omitempty"`
}

// Process is one process for as long as the machine runs: a pid alone names another process sooner or later.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks since boot, field 22 of /proc/PID/stat
}

// Running says who runs.
type Running struct {
	Version   int       `json:"version"`
	ID        string    `json:"id"`
	Run       int       `json:"run"` // from 1, counted up by every start of the directory
	Shim      Process   `json:"shim"`
	Program   Process   `json:"program"` // zero until it was started
	BootID    string    `json:"boot_id"`
	StartedAt time.Time `json:"started_at"`
	// Before is how the run before ended, where this one followed it at once. It has none of its own.
	Before *Exit `json:"before,omitempty"`
}

// Exit says how a run ended.
type Exit struct {
	Version   int       `json:"version"`
	ID        string    `json:"id"`
	Run       int       `json:"run"`
	PID       int       `json:"pid"`
	StartTime uint64    `json:"start_time"`
	BootID    string    `json:"boot_id"`
	Code      int       `json:"code"` // exit status, or 128+signal; -1 where it is not known
	Signal    string    `json:"signal,omitempty"`
	OOM       bool      `json:"oom,omitempty"`
	Time      time.Time `json:"time"`
	Asked     bool      `json:"asked,omitempty"`
	Error     string    `json:"error,omitempty"`
	// Before is that of the run's Running: who looks only now has not seen that end.
	Before *Exit `json:"before,omitempty"`
}

// Stop is the wish that run Run ends before Deadline.
type Stop struct {
	Version  int       `json:"version"`
	Run      int       `json:"run"`
	Deadline time.Time `json:"deadline"`
}

// Again allows the shim to begin another run at once when run Run ends by itself, without being told. It holds once: the
// run that follows has another number.
type Again struct {
	Version int  `json:"version"`
	Run     int  `json:"run"`
	Always  bool `json:"always"` // after exit code 0 too
}

// LogLine is one line of the log.
type LogLine struct {
	Time   time.Time `json:"t"`
	Stream string    `json:"s"`
	Text   string    `json:"m"`
}

// ErrVersion says that a file was written by a newer version.
var ErrVersion = errors.New("written by a newer version")

// maxRecord bounds what is read of a record: an environment may be large, a record is never larger than this.
const maxRecord = 16 << 20

// ParseSpec reads a Spec.
func ParseSpec(b []byte) (Spec, error) {
	var s Spec
	err := parse(b, &s, &s.Version)
	if err == nil && (s.ID == "" || len(s.Command) == 0) {
		err = errors.New("no id or no command")
	}
	return s, err
}

// ParseRunning reads a Running.
func ParseRunning(b []byte) (Running, error) {
	var r Running
	err := parse(b, &r, &r.Version)
	if err == nil && (r.Run < 1 || r.Shim.PID < 1) {
		err = errors.New("no run or no shim")
	}
	return r, err
}

// ParseExit reads an Exit.
func ParseExit(b []byte) (Exit, error) {
	var e Exit
	err := parse(b, &e, &e.Version)
	if err == nil && e.Run < 1 {
		err = errors.New("no run")
	}
	return e, err
}

// ParseStop reads a Stop.
func ParseStop(b []byte) (Stop, error) {
	var s Stop
	err := parse(b, &s, &s.Version)
	return s, err
}

// ParseAgain reads an Again.
func ParseAgain(b []byte) (Again, error) {
	var a Again
	err := parse(b, &a, &a.Version)
	return a, err
}

func parse(b []byte, v any, version *int) error {
	if err := json.Unmarshal(b, v); err != nil {
		return err
	}
	if *version > Version {
		return fmt.Errorf("version %d: %w", *version, ErrVersion)
	}
	if *version < 1 {
		return errors.New("no version")
	}
	return nil
}

// ReadSpec, ReadRunning, ReadExit, ReadStop and ReadAgain read a file of an instance directory. A file that is missing is
// fs.ErrNotExist; one that is empty or torn is an error of its own.
func ReadSpec(dir string) (Spec, error)       { return read(dir, SpecFile, ParseSpec) }
func ReadRunning(dir string) (Running, error) { return read(dir, RunningFile, ParseRunning) }
func ReadExit(dir string) (Exit, error)       { return read(dir, ExitFile, ParseExit) }
func ReadStop(dir string) (Stop, error)       { return read(dir, StopFile, ParseStop) }
func ReadAgain(dir string) (Again, error)     { return read(dir, AgainFile, ParseAgain) }

func read[T any](dir, name string, parse func([]byte) (T, error)) (T, error) {
	path := filepath.Join(dir, name)
	var zero T
	info, err := os.Stat(path)
	if err != nil {
		return zero, err
	}
	if info.Size() > maxRecord {
		return zero, fmt.Errorf("read %s: %d bytes are no record", path, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return zero, err
	}
	v, err := parse(b)
	if err != nil {
		return zero, fmt.Errorf("read %s: %w", path, err)
	}
	return v, nil
}

// Write replaces a file of dir by v as JSON and returns when that is on disk.
func Write(dir, name string, v any) error { return write(dir, name, v, true) }

// Publish is Write without waiting for the disk: what it wrote outlives every process, not the machine.
func Publish(dir, name string, v any) error { return write(dir, name, v, false) }

func write(dir, name string, v any, durable bool) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	temp := filepath.Join(dir, "."+name+".tmp")
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := os.Rename(temp, filepath.Join(dir, name)); err != nil || !durable {
		return err
	}
	return syncDir(dir)
}

// persist makes a published file durable. One that a later run has replaced, or that was removed, needs no more.
func persist(dir, name string) error {
	f, err := os.Open(filepath.Join(dir, name))
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	if err := syncDir(dir); !missing(err) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// missing says that a record is not there.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
