package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"trellis/errdefs"
	"trellis/identity"
)

// issued is one line of cert services.
type issued struct {
	ID      string    `json:"id"`
	Expires time.Time `json:"expires"`
	Files   string    `json:"files"`
}

// issuingRoot is one root in the JSON of cert services.
type issuingRoot struct {
	Number        int        `json:"number"`
	Made          time.Time  `json:"made"`
	Expires       time.Time  `json:"expires"`
	IssuerExpires time.Time  `json:"issuer_expires"`
	Issues        bool       `json:"issues"`
	HasKey        bool       `json:"has_key"`
	Until         *time.Time `json:"until"`
	Folder        string     `json:"folder"`
}

func (p *program) certServicesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "services",
		Short: "Show the identities of the project's services",
		Long: `Services lists the certificates that the project's services show each other, until
when they are good, and the roots that are trusted. A certificate is good for a day
and is replaced when two thirds of that are over.

The key of a root (root.key in its folder) is needed only for the next issuer or
root, once in months: it may be kept elsewhere.`,
		Example: `  trellis cert services`,
		Args:    arguments(0, 0),
	}
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := p.applied(cmd.Context())
		if err != nil {
			return err
		}
		domain, err := identity.ReadDomain(l.IdentityAuthority(), l.Project)
		if errors.Is(err, errdefs.ErrNotFound) {
			return withHint(fmt.Errorf("show the identities of %s: %w: no service has one", l.Project, errdefs.ErrNotFound), "write tls: mutual or identity: true to x-trellis of a service")
		}
		if err != nil {
			return err
		}
		all, err := issuedIn(l.Identities())
		if err != nil {
			return err
		}
		roots := domain.Roots(p.now())
		if format.json() {
			return p.writeJSON(struct {
				Services []issued      `json:"services"`
				Roots    []issuingRoot `json:"roots"`
			}{all, issuingRoots(roots)})
		}
		return p.writeIdentities(all, roots)
	}
	return p.project(cmd)
}

func issuingRoots(roots []identity.RootInfo) []issuingRoot {
	all := []issuingRoot{}
	for _, r := range roots {
		one := issuingRoot{
			Number: r.Number, Made: r.Made, Expires: r.Expires, IssuerExpires: r.Issuer, Issues: r.Issues, HasKey: r.HasKey, Folder: r.Folder,
		}
		if !r.Until.IsZero() {
			one.Until = &r.Until
		}
		all = append(all, one)
	}
	return all
}

func (p *program) writeIdentities(all []issued, roots []identity.RootInfo) error {
	s := p.styleOf(p.stdout)
	t := table{head: []string{"IDENTITY", "EXPIRES"}}
	for _, one := range all {
		end := one.Expires.Format(time.RFC3339)
		if !p.now().Before(one.Expires) {
			end = s.red("expired " + end)
		}
		t.add(one.ID, end)
	}
	if err := t.write(p.stdout, s); err != nil {
		return err
	}
	fmt.Fprintln(p.stdout)
	t = table{head: []string{"ROOT", "EXPIRES", "ISSUER EXPIRES", "STATE", "KEY", "FOLDER"}}
	for _, r := range roots {
		state, key := "trusted", "here"
		switch {
		case r.Issues && r.Until.IsZero():
			state = "issues"
		case r.Issues:
			state = "issues; removed " + r.Until.Format(time.RFC3339)
		case !r.Until.IsZero():
			state = "trusted; removed " + r.Until.Format(time.RFC3339)
		default:
			state = "trusted; issues from " + r.Made.Add(identity.Overlap).Format(time.RFC3339)
		}
		if !r.HasKey {
			key = "elsewhere"
		}
		t.add(strconv.Itoa(r.Number), r.Expires.Format(time.DateOnly), r.Issuer.Format(time.DateOnly), state, key, r.Folder)
	}
	return t.write(p.stdout, s)
}

// issuedIn reads the certificates below a folder, in order of path.
func issuedIn(dir string) ([]issued, error) {
	all := []issued{}
	folders, err := fs.Glob(os.DirFS(dir), "service/*") // dir's own name may look like a pattern
	if err != nil {
		return nil, err
	}
	for _, folder := range append(folders, "gateway") {
		folder = filepath.Join(dir, folder)
		files, err := identity.ReadFiles(folder)
		if errors.Is(err, errdefs.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(files.Chain)
		if block == nil {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || len(c.URIs) != 1 {
			continue
		}
		all = append(all, issued{ID: c.URIs[0].String(), Expires: c.NotAfter, Files: folder})
	}
	return all, nil
}

func (p *program) certRotateCommand() *cobra.Command {
	var now, issuer bool
	var rootKey string
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Have a new root take over from the one of the project's services",
		Long: `Rotate makes a new root for the identities of the project's services. It is trusted
beside the old one first, issues after eight hours, and a day later the old one is
removed: no connection is dropped, as long as programs that read their files
themselves do so within eight hours of a change, as they have to anyway.

With --now the old root is trusted no more within seconds, for when its key is known
to somebody: programs that have not read their new files by then are refused.
With --issuer the root stays, and signs a new issuer.`,
		Example: `  trellis cert rotate
  trellis cert rotate --now
  trellis cert rotate --issuer --root-key /media/usb/root.key`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if now && issuer || rootKey != "" && !issuer {
				return usageError{"--now is for a new root, --root-key for --issuer", cmd.CommandPath()}
			}
			l, err := p.applied(cmd.Context())
			if err != nil {
				return err
			}
			if _, err := identity.ReadDomain(l.IdentityAuthority(), l.Project); err != nil {
				return err
			}
			if !issuer {
				if err := identity.Rotate(l.IdentityAuthority(), l.Project, p.now(), now); err != nil {
					return err
				}
				p.progressf("%s has a new root, which its services get within seconds; 'trellis cert services' shows it", l.Project)
				return nil
			}
			var key []byte
			if rootKey != "" {
				if key, err = os.ReadFile(rootKey); err != nil {
					return fmt.Errorf("read the root's key: %w", err)
				}
			}
			if err := identity.RenewIssuer(l.IdentityAuthority(), l.Project, key, p.now()); err != nil {
				return err
			}
			p.progressf("%s has a new issuer, which its services get certificates of within seconds", l.Project)
			return nil
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "trust the old root no more")
	cmd.Flags().BoolVar(&issuer, "issuer", false, "make a new issuer, and keep the root")
	cmd.Flags().StringVar(&rootKey, "root-key", "", "the file of the root's key, where it is kept elsewhere; it is read and not kept")
	return p.project(cmd)
}
