package docker

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
)

// hubKey is what the docker command files its own registry under.
const hubKey = "https://index.docker.io/v1/"

// dockerConfig is the part of the docker command's config.json that says who one is.
type dockerConfig struct {
	Auths   map[string]dockerAuth `json:"auths"`
	Store   string                `json:"credsStore"`
	Helpers map[string]string     `json:"credHelpers"`
}

// dockerAuth is an entry of it, under the name of a registry.
type dockerAuth struct {
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

// registryAuth returns the header that proves to the registry of an image who asks, as `docker login` has left it; ""
// where nobody has logged in.
func registryAuth(image string) (string, error) {
	key, err := registryKey(image)
	if err != nil {
		return "", err
	}
	config, err := readConfig()
	if err != nil {
		return "", err
	}
	auth, found, err := config.credentials(key)
	if err != nil || !found {
		return "", err
	}
	return authconfig.Encode(auth)
}

// allCredentials returns the credentials of every registry that somebody has logged in to, by its name: what a Dockerfile begins with may
// be anywhere. Those that cannot be had are left out; whoever needs them is told by the registry.
func allCredentials() map[string]registry.AuthConfig {
	config, err := readConfig()
	if err != nil {
		return nil
	}
	all := map[string]registry.AuthConfig{}
	for _, key := range config.registries() {
		if auth, found, err := config.credentials(key); err == nil && found {
			all[key] = auth
		}
	}
	return all
}

// registries are the names under which there may be credentials: of the file itself, of helpers, and of the store for all.
func (c dockerConfig) registries() []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(c.Auths)), maps.Keys(c.Helpers))
	if c.Store != "" {
		var known map[string]string // the user by registry
		if out, err := exec.Command("docker-credential-"+c.Store, "list").Output(); err == nil && json.Unmarshal(out, &known) == nil {
			keys = slices.AppendSeq(keys, maps.Keys(known))
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func registryKey(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", err
	}
	if domain := reference.Domain(named); domain != "docker.io" {
		return domain, nil
	}
	return hubKey, nil
}

func readConfig() (dockerConfig, error) {
	var config dockerConfig
	file := filepath.Join(configDir(), "config.json")
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return config, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &config)
	}
	if err != nil {
		return config, fmt.Errorf("read %s: %w", file, err)
	}
	return config, nil
}

// credentials finds those of a registry: of the helper for it, of the store for all, or of the file itself.
func (c dockerConfig) credentials(key string) (registry.AuthConfig, bool, error) {
	helper := firstOf(c.Helpers[key], c.Store)
	if helper != "" {
		return fromHelper(helper, key)
	}
	name, a, found := c.entry(key)
	if !found {
		return registry.AuthConfig{}, false, nil
	}
	auth := registry.AuthConfig{ServerAddress: key, IdentityToken: a.IdentityToken}
	plain, err := base64.StdEncoding.DecodeString(a.Auth)
	if err != nil {
		return auth, false, fmt.Errorf("read the credentials of %s: %w", name, err)
	}
	auth.Username, auth.Password, _ = strings.Cut(strings.TrimRight(string(plain), "\x00"), ":")
	return auth, auth.Username != "" || auth.IdentityToken != "", nil
}

// entry finds the file's own entry of a registry: the one of that very name, because docker login keeps tokens beside it, under names
// of the same host; else the first one of the host.
func (c dockerConfig) entry(key string) (name string, a dockerAuth, found bool) {
	if a, found = c.Auths[key]; found {
		return key, a, true
	}
	for _, name := range slices.Sorted(maps.Keys(c.Auths)) {
		if hostOf(name) == hostOf(key) {
			return name, c.Auths[name], true
		}
	}
	return "", a, false
}

// hostOf is the registry that an entry is about: some have a scheme and a path.
func hostOf(entry string) string {
	_, after, ok := strings.Cut(entry, "://")
	if !ok {
		after = entry
	}
	host, _, _ := strings.Cut(after, "/")
	return host
}

// tokenUser is the user name under which helpers give a token instead of a password.
const tokenUser = "<token>"

// fromHelper asks a credential helper of the docker command. One that knows nothing says so with an error, which is none.
func fromHelper(helper, key string) (registry.AuthConfig, bool, error) {
	cmd := exec.Command("docker-credential-"+helper, "get")
	cmd.Stdin = strings.NewReader(key)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return registry.AuthConfig{}, false, nil
		}
		return registry.AuthConfig{}, false, fmt.Errorf("ask for the credentials of %s: %w", key, err)
	}
	var got struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		return registry.AuthConfig{}, false, fmt.Errorf("read the credentials of %s: %w", key, err)
	}
	auth := registry.AuthConfig{ServerAddress: key, Username: got.Username, Password: got.Secret}
	if got.Username == tokenUser {
		auth = registry.AuthConfig{ServerAddress: key, IdentityToken: got.Secret}
	}
	return auth, true, nil
}
