package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"trellis/errdefs"
	"trellis/identity"
	"trellis/server"
)

func (p *program) certCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cert",
		Short: "The certificate authorities of this machine and of the project's services",
		Long: `Cert shows the certificate authority that issues the gateway's certificate where the
file names none, and makes it known to the programs of this machine. It is yours
alone: its key never leaves this machine, and may be taken off it.

The services of a project have an authority of their own, which gives each its
SPIFFE identity (x-trellis.tls and x-trellis.identity): services shows what it has
issued, and rotate has a new root take its place.`,
		Example: `  trellis cert trust     make browsers take the gateway's certificate
  trellis cert show      the root certificate, for other machines and for curl --cacert
  trellis cert untrust
  trellis cert services  who has which identity until when
  trellis cert rotate`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.certShowCommand(), p.certTrustCommand(true), p.certTrustCommand(false), p.certServicesCommand(), p.certRotateCommand())
	return cmd
}

func (p *program) certShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the root certificate",
		Long: `Show prints the certificate of the authority in PEM, and on standard error until when
it is good, its fingerprint, and where it is kept.`,
		Example: `  trellis cert show >root.crt`,
		Args:    arguments(0, 0),
	}
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		dir, a, err := p.authority(cmd.Context())
		if err != nil {
			return err
		}
		root := a.RootCertificate()
		sum := sha256.Sum256(root.Raw)
		if format.json() {
			return p.writeJSON(map[string]string{
				"subject": root.Subject.CommonName, "file": filepath.Join(dir, "root.crt"), "sha256": hex.EncodeToString(sum[:]),
				"expires": root.NotAfter.Format(time.RFC3339), "pem": string(a.Root()),
			})
		}
		p.progressf("%s, until %s, SHA-256 %x; kept in %s", root.Subject.CommonName, root.NotAfter.Format(time.DateOnly), sum, dir)
		_, err = p.stdout.Write(a.Root())
		return err
	}
	return cmd
}

func (p *program) certTrustCommand(trust bool) *cobra.Command {
	use, short, long := "trust", "Have this machine's programs take certificates of the authority",
		`Trust puts the root certificate where the programs of this machine look for those that
they trust, which needs root.`
	if !trust {
		use, short, long = "untrust", "Take the authority away from what this machine trusts",
			`Untrust takes away what trust put there, which needs root. The authority itself stays.`
	}
	return &cobra.Command{
		Use:     use,
		Short:   short,
		Long:    long,
		Example: "  trellis cert " + use,
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, a, err := p.authority(cmd.Context())
			if err != nil {
				return err
			}
			store, err := trustStore(dir)
			if err != nil {
				return err
			}
			if err := store.set(cmd.Context(), a, trust); err != nil {
				return err
			}
			done := map[bool]string{true: "is trusted by", false: "is no longer trusted by"}[trust]
			p.progressf("%s %s %s", a.RootCertificate().Subject.CommonName, done, store.what)
			return nil
		},
	}
}

// authority opens the authority, made when it is new.
func (p *program) authority(ctx context.Context) (dir string, a *identity.Authority, err error) {
	if dir, err = server.AuthorityDir(); err != nil {
		return "", nil, err
	}
	a, err = identity.OpenAuthority(ctx, dir, p.now())
	return dir, a, err
}

// trusting is a place where this machine keeps what it trusts.
type trusting struct {
	what   string
	anchor string     // the file that the root becomes; "": add and remove know
	update [][]string // commands after the file has changed
	add    []string
	remove []string
}

// trustStore finds this machine's: that of Debian, of Fedora and its kin, of Arch, or of macOS.
func trustStore(dir string) (trusting, error) {
	root := filepath.Join(dir, "root.crt")
	if runtime.GOOS == "darwin" {
		return trusting{
			what:   "the system keychain",
			add:    []string{"security", "add-trusted-cert", "-d", "-r", "trustRoot", "-k", "/Library/Keychains/System.keychain", root},
			remove: []string{"security", "remove-trusted-cert", "-d", root},
		}, nil
	}
	for _, s := range []trusting{
		{what: "the programs of this machine that use its certificate store", anchor: "/usr/local/share/ca-certificates/trellis-local-ca.crt", update: [][]string{{"update-ca-certificates", "--fresh"}}},
		{what: "the programs of this machine that use its certificate store", anchor: "/etc/pki/ca-trust/source/anchors/trellis-local-ca.pem", update: [][]string{{"update-ca-trust", "extract"}}},
		{what: "the programs of this machine that use its certificate store", anchor: "/etc/ca-certificates/trust-source/anchors/trellis-local-ca.crt", update: [][]string{{"trust", "extract-compat"}}},
	} {
		if _, err := exec.LookPath(s.update[0][0]); err == nil && exists(filepath.Dir(s.anchor)) {
			return s, nil
		}
	}
	return trusting{}, withHint(fmt.Errorf("find this machine's certificate store: %w", errdefs.ErrUnsupported),
		"import %s where your browser keeps authorities", root)
}

// set adds the root, or takes it away.
func (s trusting) set(ctx context.Context, a *identity.Authority, trust bool) error {
	commands := s.update
	switch {
	case s.anchor == "" && trust:
		commands = [][]string{s.add}
	case s.anchor == "":
		commands = [][]string{s.remove}
	case trust:
		if err := os.WriteFile(s.anchor, a.Root(), 0o644); err != nil {
			return withHint(fmt.Errorf("trust the authority: %w", err), "it takes root: sudo trellis cert trust")
		}
	default:
		if err := os.Remove(s.anchor); err != nil && !os.IsNotExist(err) {
			return withHint(fmt.Errorf("untrust the authority: %w", err), "it takes root: sudo trellis cert untrust")
		}
	}
	for _, args := range commands {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
