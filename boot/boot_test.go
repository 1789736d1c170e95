package boot

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"trellis/errdefs"
)

func TestUnitText(t *testing.T) {
	u := Unit{
		Name: "trellis-shop-1f3a5c.service", Description: "shop, 100% of it",
		Start: []string{"/opt/my tools/trellis", "boot", "start", "--state", `/srv/50% $HOME "q" \b/shop`},
		Stop:  []string{"/opt/my tools/trellis", "boot", "stop"},
		Env:   []string{"PATH=/usr/bin:/opt/100%/bin", "HOME=/root"},
		Needs: []string{"/srv/my shop", `/srv/"odd"`, "/srv/x\n[Service]\nExecStartPre=/tmp/p\n#", "/srv/bell\a"},
	}
	got, err := u.text(false)
	if err != nil {
		t.Fatal(err)
	}
	want := mark + `[Unit]
Description=shop, 100%% of it
Wants=network-online.target
After=network-online.target
RequiresMountsFor="/srv/my shop"

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart="/opt/my tools/trellis" "boot" "start" "--state" "/srv/50%% $$HOME \"q\" \\b/shop"
ExecStop="/opt/my tools/trellis" "boot" "stop"
TimeoutStopSec=5min
OOMPolicy=continue
TasksMax=infinity
Environment="PATH=/usr/bin:/opt/100%%/bin"
Environment="HOME=/root"

[Install]
WantedBy=multi-user.target
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string]Unit{
		"name":     {Name: "../x.service", Start: u.Start, Stop: u.Stop},
		"relative": {Name: "x.service", Start: []string{"trellis"}, Stop: u.Stop},
		"no stop":  {Name: "x.service", Start: u.Start},
		"lines":    {Name: "x.service", Start: u.Start, Stop: u.Stop, Description: "a\nExecStartPre=/bin/false"},
		"zero":     {Name: "x.service", Start: append([]string{"/a"}, "b\x00"), Stop: u.Stop},
	} {
		if _, err := bad.text(false); !errors.Is(err, errdefs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	u.Start = []string{"/opt/it's/trellis"}
	if _, err := u.text(false); !errors.Is(err, errdefs.ErrUnsupported) {
		t.Errorf("a program that systemd cannot run: %v", err)
	}
}

// TestSystemdReadsTheUnit asks systemd itself: it looks for the program where the unit says that it is.
func TestSystemdReadsTheUnit(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not here") // on systems without systemd there is nothing to ask
	}
	dir := filepath.Join(t.TempDir(), "a b%n $c")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "trellis")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	u := Unit{
		Name: "trellis-x-0.service", Description: "x", Start: []string{program, "boot", "start", "--state", dir + "\n%h $x 'd\" \\e"},
		Stop: []string{program, "boot", "stop"}, Env: []string{"PATH=" + dir}, Needs: []string{"/srv/a b%n"},
	}
	verify := func() string {
		text, err := u.text(false)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), u.Name)
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		out, _ := exec.Command("systemd-analyze", "verify", "--man=no", file).CombinedOutput()
		var mine []string
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, u.Name) { // it complains of the machine's other units too
				mine = append(mine, line)
			}
		}
		return strings.Join(mine, "")
	}
	if out := verify(); out != "" {
		t.Errorf("systemd-analyze verify:\n%s", out)
	}
	u.Start[0] = filepath.Join(dir, "nothing")
	if out := verify(); out == "" {
		t.Error("systemd-analyze verify says nothing of a program that is not there: it did not read the unit")
	}
}

// fakeSystemd is a host with a systemctl that notes what it was asked, and knows what is enabled.
func fakeSystemd(t *testing.T, user bool) (h Host, calls func() string) {
	t.Helper()
	root := t.TempDir()
	bin := filepath.Join(root, "bin")
	for _, dir := range []string{bin, filepath.Join(root, "booted")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := `#!/bin/sh
echo "$*" >>` + root + `/calls
[ "$1" = --user ] && shift
case "$1" in
enable) touch ` + root + `/enabled ;;
disable) rm -f ` + root + `/enabled ;;
is-enabled) if [ -e ` + root + `/enabled ]; then echo enabled; else echo disabled; exit 1; fi ;;
is-active) echo active ;;
esac
`
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	h = Host{User: user, Dir: filepath.Join(root, "units"), Booted: filepath.Join(root, "booted")}
	if user {
		h.Linger = filepath.Join(root, "linger")
	}
	return h, func() string {
		b, _ := os.ReadFile(filepath.Join(root, "calls"))
		_ = os.Remove(filepath.Join(root, "calls"))
		return string(b)
	}
}

func TestEnableAndDisable(t *testing.T) {
	ctx := context.Background()
	for _, user := range []bool{false, true} {
		h, calls := fakeSystemd(t, user)
		flag := map[bool]string{true: "--user "}[user]
		u := Unit{Name: "trellis-shop-1.service", Description: "shop", Start: []string{"/t", "start"}, Stop: []string{"/t", "stop"}}
		other := u
		other.Name, other.Description = "trellis-shop-2.service", "another shop"
		if was, err := h.Disable(ctx, u.Name); was || err != nil {
			t.Errorf("disable of nothing: %v %v", was, err)
		}
		for _, u := range []Unit{u, other} {
			if err := h.Enable(ctx, u); err != nil {
				t.Fatal(err)
			}
		}
		want := flag + "daemon-reload\n" + flag + "enable --now trellis-shop-1.service\n" + flag + "daemon-reload\n" + flag + "enable --now trellis-shop-2.service\n"
		if got := calls(); got != want {
			t.Errorf("systemctl was asked:\n%swant:\n%s", got, want)
		}
		if err := h.Enable(ctx, u); err != nil {
			t.Fatal(err)
		}
		if got := calls(); got != flag+"enable --now trellis-shop-1.service\n" {
			t.Errorf("enabling again asks:\n%s", got)
		}
		s, err := h.Look(ctx, u)
		if err != nil || !s.There || !s.Same || !s.Enabled || s.Active != "active" || s.Lingers != !user {
			t.Errorf("state: %+v, %v", s, err)
		}
		u.Start = []string{"/elsewhere/t", "start"}
		if s, err := h.Look(ctx, u); err != nil || s.Same {
			t.Errorf("a unit that would be another now: %+v, %v", s, err)
		}
		calls()
		if was, err := h.Disable(ctx, u.Name); !was || err != nil {
			t.Errorf("disable: %v %v", was, err)
		}
		if got := calls(); got != flag+"disable trellis-shop-1.service\n"+flag+"daemon-reload\n" {
			t.Errorf("disabling asks:\n%s", got)
		}
		left, _ := filepath.Glob(h.Dir + "/*")
		if len(left) != 1 || filepath.Base(left[0]) != other.Name {
			t.Errorf("left are %v", left)
		}
	}
}

func TestOtherFilesAreLeftAlone(t *testing.T) {
	ctx := context.Background()
	h, calls := fakeSystemd(t, false)
	u := Unit{Name: "trellis-shop-1.service", Start: []string{"/t"}, Stop: []string{"/t"}}
	if err := os.MkdirAll(h.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(h.Dir, u.Name)
	if err := os.WriteFile(file, []byte("[Unit]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := h.Enable(ctx, u); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("enable: %v", err)
	}
	if _, err := h.Disable(ctx, u.Name); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("disable: %v", err)
	}
	if b, _ := os.ReadFile(file); string(b) != "[Unit]\n" || calls() != "" {
		t.Error("a file of somebody else was touched")
	}
	h.Booted = filepath.Join(h.Dir, "nothing")
	u.Name = "trellis-other-1.service"
	if err := h.Enable(ctx, u); !errors.Is(err, ErrNoSystemd) {
		t.Errorf("enable without systemd: %v", err)
	}
	if left, _ := filepath.Glob(h.Dir + "/*"); len(left) != 1 {
		t.Errorf("without systemd there are %v", left)
	}
}

func TestCron(t *testing.T) {
	got := Cron([]string{"PATH=/usr/bin:/my bin"}, []string{"/opt/trellis", "boot", "start", "--state", "/srv/it's 50%"})
	want := `@reboot PATH='/usr/bin:/my bin' /opt/trellis boot start --state '/srv/it'\''s 50\%'`
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := Cron(nil, []string{"/opt/trellis", "boot", "start", "--state", "/srv/x\n* * * * * /tmp/p"}); got != "" {
		t.Errorf("%q is more than one line", got)
	}
}
