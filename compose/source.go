package compose

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"
)

// What a project may take. A file that asks for more is refused with the limit in the message; real projects stay far
// below (the largest of 200 public ones that were looked at: 96 KiB, 2,900 nodes, depth 9).
const (
	maxFileSize   = 4 << 20   // bytes of one file, environment files and contents of secrets and configs included
	maxTotalSize  = 32 << 20  // bytes of all Compose files together
	maxFiles      = 256       // Compose files of a project
	maxIncludes   = 1024      // times that a file is included or extended
	maxScalarSize = 1 << 20   // bytes of one value
	maxNodes      = 100_000   // values of one document, aliases counted as often as they are used
	maxBuilt      = 1_000_000 // values of all documents, counted as often as they are included
	maxExtended   = 250_000   // values that services take over by extends, together
	maxDepth      = 64        // mappings and lists within each other
	maxPorts      = 10_000    // ports of one list, ranges taken apart
	maxReplicas   = 10_000    // of one service, as 'trellis scale' has it
	maxExpansion  = 16 << 20  // bytes that variables add to one project
	maxCompared   = 20 << 20  // values that are compared to merge lists, such as 3,000 with 3,000
	maxErrors     = 1000      // that are told of: each is compared with those before
)

// source is one Compose file as it is read from one directory.
type source struct {
	path string // absolute, or "-" for standard input
	dir  string // what its relative paths are relative to
	env  environment

	literal bool // $ is text
}

// readLimited reads a regular file of at most maxFileSize bytes. It never blocks on a device or a pipe.
func readLimited(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, plainPathError(err)
	}
	switch {
	case info.IsDir():
		return nil, errors.New("is a directory, not a file")
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	case info.Size() > maxFileSize:
		return nil, fmt.Errorf("has %d bytes: at most %d are read", info.Size(), maxFileSize)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, plainPathError(err)
	}
	defer f.Close()
	return readAtMost(f)
}

func readAtMost(r io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, maxFileSize+1))
	if err != nil {
		return nil, plainPathError(err)
	}
	if len(content) > maxFileSize {
		return nil, fmt.Errorf("has more than %d bytes", maxFileSize)
	}
	return content, nil
}

// plainPathError leaves out the operation and the path, which the diagnostic names itself.
func plainPathError(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// parseYAML returns the documents of a file. A file that is not YAML gives one diagnostic.
func parseYAML(path string, content []byte) (docs []*yaml.Node, problem *Diagnostic) {
	defer func() {
		if r := recover(); r != nil {
			docs, problem = nil, &Diagnostic{File: path, Message: fmt.Sprintf("cannot be parsed as YAML: %v", r)}
		}
	}()
	if line, col, depth := flowDepth(content); depth > maxDepth {
		return nil, &Diagnostic{File: path, Line: line, Column: col,
			Message: fmt.Sprintf("brackets are nested more than %d deep: take the value apart", maxDepth)}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var doc yaml.Node
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return docs, yamlDiagnostic(path, err)
		}
		docs = append(docs, &doc)
	}
}

// flowDepth looks for runs of opening brackets, which cost the parser quadratic time before it refuses them.
func flowDepth(content []byte) (line, col, depth int) {
	line, col = 1, 0
	run := 0
	for _, c := range content {
		col++
		switch c {
		case '[', '{':
			if run++; run > maxDepth {
				return line, col, run
			}
		case ' ', '\t', '\r':
		case '\n':
			line, col = line+1, 0
		default:
			run = 0
		}
	}
	return 0, 0, 0
}

func yamlDiagnostic(path string, err error) *Diagnostic {
	d := &Diagnostic{File: path, Message: "not valid YAML: " + err.Error()}
	var e *yaml.LoadError
	if errors.As(err, &e) {
		d.Line, d.Column = e.Mark.Line, e.Mark.Column
		message := e.Message
		if e.ContextMsg != "" {
			message = e.ContextMsg + ": " + message
			if strings.Contains(message, "unexpected end") && e.ContextMark.Line > 0 {
				d.Line, d.Column = e.ContextMark.Line, e.ContextMark.Column
			}
		}
		d.Message = "not valid YAML: " + message
		if strings.Contains(message, "cannot start any token") {
			d.Message += ": indent with spaces, and quote values that begin with a special character"
		}
	}
	return d
}

// shorten returns path relative to the working directory where that is shorter.
func shorten(path, cwd string) string {
	if !filepath.IsAbs(path) || cwd == "" {
		return path
	}
	if rel, err := filepath.Rel(cwd, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}
