package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"trellis/errdefs"
)

// architectureOf returns what a program is made for by Go's names, which are those of images too; "" for what has none.
func architectureOf(f *elf.File) string {
	little := f.Data == elf.ELFDATA2LSB
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64"
	case elf.EM_AARCH64:
		return "arm64"
	case elf.EM_386:
		return "386"
	case elf.EM_ARM:
		return "arm"
	case elf.EM_RISCV:
		return "riscv64"
	case elf.EM_S390:
		return "s390x"
	case elf.EM_LOONGARCH:
		return "loong64"
	case elf.EM_PPC64:
		if little {
			return "ppc64le"
		}
		return "ppc64"
	}
	return ""
}

// architecture returns what a program is made for, as images name it. It is none of Linux, or needs other files to run:
// ErrUnsupported. The error goes on after the program's name.
func architecture(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 128)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", err
	}
	head = head[:n]
	if line, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		return "", fmt.Errorf("is a script for %s: %w in an image that is made of artifacts alone; name a base that has it", bytes.TrimSpace(line), errdefs.ErrUnsupported)
	}
	if !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return "", fmt.Errorf("is no program of Linux: %w in a cluster; build it for Linux (of Go: GOOS=linux CGO_ENABLED=0)", errdefs.ErrUnsupported)
	}
	program, err := elf.NewFile(f)
	if err != nil {
		return "", fmt.Errorf("cannot be read as a program: %w: %w", errdefs.ErrInvalid, err)
	}
	needs, err := needed(program)
	if err != nil {
		return "", fmt.Errorf("cannot be read as a program: %w: %w", errdefs.ErrInvalid, err)
	}
	if len(needs) > 0 {
		return "", fmt.Errorf("is linked dynamically and needs %s: %w in an image that is made of artifacts alone; link it statically (of Go: CGO_ENABLED=0), or name a base that has them",
			strings.Join(needs, ", "), errdefs.ErrUnsupported)
	}
	arch := architectureOf(program)
	if arch == "" {
		return "", fmt.Errorf("is made for %s: %w", program.Machine, errdefs.ErrUnsupported)
	}
	return arch, nil
}

// processor returns what a file is made for, "" where it is no program of Linux.
func processor(file string) string {
	program, err := elf.Open(file)
	if err != nil {
		return ""
	}
	defer program.Close()
	return architectureOf(program)
}

// needed returns the interpreter and the shared libraries that a program does not run without.
func needed(program *elf.File) ([]string, error) {
	var all []string
	for _, part := range program.Progs {
		if part.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(io.LimitReader(part.Open(), 4096))
		if err != nil {
			return nil, err
		}
		all = append(all, string(bytes.TrimRight(name, "\x00")))
	}
	libraries, err := program.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	return append(all, libraries...), nil
}
