// Package shim is the parent of one process instance. It outlives the program that started it, so that an instance
// goes on, its output is kept and its end is recorded whatever happens to Trellis.
//
// A shim is started as `run DIR`, DIR being the instance directory with a Spec in it. It leads a session of its own and
// is a subreaper, so every process of the instance's tree is its descendant. The program itself is started through a
// second stage of the same binary, `exec`, which makes namespaces and mounts, drops privileges and becomes the program
// by execve: what it does concerns only itself, so nothing has to be undone. Exec and hooks take the same way.
//
// There is no socket. The instance directory is the protocol, and every file in it is replaced by rename:
//
//	lock          flocked while the shim lives; one shim per directory
//	spec.json     what to run (Spec), written before the start
//	running.json  who runs (Running), by the shim
//	exit.json     how it ended (Exit), by the shim
//	stop.json     a wish to stop (Stop), by whoever then sends the shim SIGTERM; where it could not be written, Hurry is
//	              sent at the deadline
//	again.json    the run that another one follows at once if it ends by itself (Again), by whoever supervises
//	log, log.1 …  the output, one JSON object a line, newest in log
//	shim.err      what the shim itself has to say when it fails
//
// Files carry a version. A reader accepts the versions up to its own.
//
// The package imports the standard library and x/sys only.
package shim

// Version is the version of the files in an instance directory.
const Version = 1

// The files of an instance directory.
const (
	LockFile    = "lock"
	SpecFile    = "spec.json"
	RunningFile = "running.json"
	ExitFile    = "exit.json"
	StopFile    = "stop.json"
	AgainFile   = "again.json"
	LogFile     = "log"
	ErrorFile   = "shim.err"
	// SkeletonDir and FilesDir are empty directories that serve as mount points inside the instance's own mount
	// namespace; on the host they stay empty.
	SkeletonDir = "skeleton"
	FilesDir    = "files"
)

// The defaults of Log.
const (
	DefaultLogSize  = 10 << 20
	DefaultLogFiles = 3
)

// DefaultPath is the PATH of a program whose environment has none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
