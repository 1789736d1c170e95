package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"trellis/errdefs"
	"trellis/identity"
)

func (p *program) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make, list and revoke API keys",
		Long: `Key looks after the API keys that a scheme of x-trellis.auth accepts. They are kept
in the file of the scheme's secret, one line each, as a hash: the key itself is
shown once, when it is made. A change is in force after the next 'trellis up'.`,
		Example: `  trellis key create acme --scope orders:read --expires 90d
  trellis key list
  trellis key revoke 3k5x9q2m7abc`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	scheme := cmd.PersistentFlags().String("auth", "", "the scheme of x-trellis.auth that is meant, where the file has several with API keys")
	cmd.AddCommand(p.keyCreateCommand(scheme), p.keyListCommand(scheme), p.keyRevokeCommand(scheme))
	return cmd
}

func (p *program) keyCreateCommand(scheme *string) *cobra.Command {
	var expires span
	var scopes list
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a key for somebody and show it once",
		Long: `Create makes a key, keeps its hash in the file of the scheme's secret, and prints the
key, which nothing can print again. NAME says whose it is: services get it in a
header with every request of the key.`,
		Example: `  trellis key create acme --scope orders:read,orders:write --expires 90d`,
		Args:    arguments(1, 1),
	}
	cmd.Flags().Var(&scopes, "scope", "what the key is for, as routes require it: require: {scope: orders:read} (repeatable)")
	cmd.Flags().Var(&expires, "expires", "how long the key is good for, such as 90d; unset: until it is revoked")
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		k, err := p.keyFile(cmd.Context(), *scheme)
		if err != nil {
			return err
		}
		end := time.Time{}
		if expires > 0 {
			end = p.now().Add(time.Duration(expires)).UTC().Truncate(time.Second)
		}
		key, text, err := identity.NewAPIKey(args[0], scopes, p.now(), end)
		if err != nil {
			return err
		}
		if err := k.write(append(k.lines, key.Line())); err != nil {
			return err
		}
		p.progressf("key %s of %s is kept as a hash in %s; 'trellis up' puts it in force. It is shown only now:", key.ID, key.Name, k.path)
		if format.json() {
			return p.writeJSON(struct {
				identity.APIKey
				Key string `json:"key"`
			}{key, text})
		}
		_, err = fmt.Fprintln(p.stdout, text)
		return err
	}
	return p.project(cmd)
}

func (p *program) keyListCommand(scheme *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the keys of a scheme",
		Long: `List prints whose the keys of a scheme are, what they are for and until when they are
good. The keys themselves are not known to it.`,
		Example: `  trellis key list`,
		Args:    arguments(0, 0),
	}
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		k, err := p.keyFile(cmd.Context(), *scheme)
		if err != nil {
			return err
		}
		if format.json() {
			return p.writeJSON(append([]identity.APIKey{}, k.keys.List...))
		}
		s := p.styleOf(p.stdout)
		t := table{head: []string{"ID", "NAME", "SCOPES", "CREATED", "EXPIRES"}}
		for _, key := range k.keys.List {
			end := "never"
			if !key.Expires.IsZero() {
				end = key.Expires.Format(time.RFC3339)
				if !p.now().Before(key.Expires) {
					end = s.red("expired " + end)
				}
			}
			t.add(key.ID, key.Name, orDash(strings.Join(key.Scopes, ",")), key.Created.Format(time.RFC3339), end)
		}
		return t.write(p.stdout, s)
	}
	return p.project(cmd)
}

func (p *program) keyRevokeCommand(scheme *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "Take a key away from its owner",
		Long: `Revoke takes the key with this ID, as list prints it, out of the file of the scheme's
secret. After the next 'trellis up' a request with it is answered 401.`,
		Example: `  trellis key revoke 3k5x9q2m7abc`,
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := p.keyFile(cmd.Context(), *scheme)
			if err != nil {
				return err
			}
			left := slices.DeleteFunc(slices.Clone(k.lines), func(line string) bool { return strings.HasPrefix(line, args[0]+" ") })
			if len(left) == len(k.lines) {
				return withHint(fmt.Errorf("revoke key %s: %w", args[0], errdefs.ErrNotFound), "'trellis key list' lists the keys")
			}
			if err := k.write(left); err != nil {
				return err
			}
			p.progressf("key %s is gone from %s; it is refused after the next 'trellis up'", args[0], k.path)
			return nil
		},
	}
	return p.project(cmd)
}

// keyFile is the file of a secret that lists API keys.
type keyFile struct {
	path  string
	lines []string
	keys  *identity.APIKeys
}

// keyFile reads the keys of a scheme; "" is the only one that takes API keys.
func (p *program) keyFile(ctx context.Context, scheme string) (*keyFile, error) {
	l, err := p.read(ctx)
	if err != nil {
		return nil, err
	}
	var with []string
	for name, a := range l.project.Trellis.Auth {
		if a.APIKeys != nil && (scheme == "" || scheme == name) {
			with = append(with, name)
		}
	}
	slices.Sort(with)
	switch {
	case len(with) == 0 && scheme != "":
		return nil, fmt.Errorf("API keys: %w: x-trellis.auth has no scheme %s with api_keys", errdefs.ErrNotFound, scheme)
	case len(with) == 0:
		return nil, withHint(fmt.Errorf("API keys: %w: the file has no scheme that takes them", errdefs.ErrNotFound),
			"write x-trellis: {auth: {partner: {api_keys: {secret: partner_keys}}}} and secrets: {partner_keys: {file: partner_keys.txt}}")
	case len(with) > 1:
		return nil, fmt.Errorf("API keys: %w: say which scheme with --auth: %s", errdefs.ErrInvalid, strings.Join(with, ", "))
	}
	name := l.project.Trellis.Auth[with[0]].APIKeys.Secret
	secret := l.project.Secrets[name]
	if secret.File == "" {
		return nil, fmt.Errorf("API keys: %w: secret %s has no file to keep them in", errdefs.ErrUnsupported, name)
	}
	k := &keyFile{path: secret.File}
	b, err := os.ReadFile(k.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read API keys: %w", err)
	}
	if k.keys, err = identity.ParseAPIKeys(string(b)); err != nil {
		return nil, fmt.Errorf("%s: %w", k.path, err)
	}
	if text := strings.TrimRight(string(b), "\n"); text != "" {
		k.lines = strings.Split(text, "\n")
	}
	return k, nil
}

// write replaces the file whole: there is no moment in which a reader finds half of the keys. It stays where a link leads to, with its mode
// and its owner; a new one is for its owner alone.
func (k *keyFile) write(lines []string) error {
	f, err := os.OpenFile(k.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = replaceFile(k.path, []byte(strings.Join(append(lines, ""), "\n")))
	}
	if err != nil {
		return fmt.Errorf("write API keys: %w", err)
	}
	return nil
}
