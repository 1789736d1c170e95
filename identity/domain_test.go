package identity_test

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"trellis/errdefs"
	"trellis/identity"
)

const day = 24 * time.Hour

func openDomain(t *testing.T, dir string, now time.Time) *identity.Domain {
	t.Helper()
	d, err := identity.OpenDomain(dir, "shop", now)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func issue(t *testing.T, d *identity.Domain, path string, now time.Time) identity.Files {
	t.Helper()
	f, err := d.Issue(path, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func parse(t *testing.T, f identity.Files, now time.Time) *identity.SVID {
	t.Helper()
	s, err := identity.ParseSVID(f, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// meet has a client with one identity call a server with another, at a time; nil says that both believe.
func meet(t *testing.T, client, server *identity.SVID, expect string, now time.Time) error {
	t.Helper()
	at := func() time.Time { return now }
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	served := make(chan error, 1)
	conn := tls.Server(b, server.Server(at, nil))
	go func() {
		err := conn.Handshake()
		if err != nil {
			b.Close()
		}
		served <- err
	}()
	err := tls.Client(a, client.Client(expect, at)).Handshake()
	if err != nil {
		a.Close()
	}
	return errors.Join(err, <-served)
}

func TestDomain(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "authority"), time.Now()
	d := openDomain(t, dir, now)
	web := issue(t, d, "/service/web", now)
	db := parse(t, issue(t, openDomain(t, dir, now), "/service/db", now), now)
	caller := parse(t, web, now)
	if caller.ID != "spiffe://shop/service/web" || caller.Expires.Sub(now) != day {
		if d := caller.Expires.Sub(now) - day; d < -time.Second || d > 0 {
			t.Errorf("%s until %s", caller.ID, caller.Expires)
		}
	}
	if err := meet(t, caller, db, "spiffe://shop/service/db", now); err != nil {
		t.Errorf("two of one domain: %v", err)
	}
	for name, id := range map[string]string{"another service": "spiffe://shop/service/other", "another domain": "spiffe://else/service/db", "no ID": ""} {
		if err := meet(t, caller, db, id, now); !errors.Is(err, identity.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other, err := identity.OpenDomain(filepath.Join(t.TempDir(), "other"), "shop", now)
	if err != nil {
		t.Fatal(err)
	}
	if err := meet(t, caller, parse(t, issue(t, other, "/service/db", now), now), "spiffe://shop/service/db", now); err == nil {
		t.Error("another authority of the same name is believed")
	}
	if d.Due(web, "/service/web", nil, now.Add(15*time.Hour)) || !d.Due(web, "/service/web", nil, now.Add(17*time.Hour)) || !d.Due(web, "/service/db", nil, now) || !d.Due(web, "/service/web", []string{"web"}, now) || !d.Due(identity.Files{}, "/service/web", nil, now) {
		t.Error("due at the wrong time, or for the wrong one")
	}
	if _, err := d.Issue("/service/../gateway", nil, now); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("a path with dots: %v", err)
	}
}

// TestSkewedClock: five minutes are forgiven, no more, in both directions.
func TestSkewedClock(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "authority"), time.Now()
	d := openDomain(t, dir, now)
	web, db := parse(t, issue(t, d, "/service/web", now), now), parse(t, issue(t, d, "/service/db", now), now)
	for _, c := range []struct {
		skew time.Duration
		good bool
	}{{0, true}, {-4 * time.Minute, true}, {-6 * time.Minute, false}, {23 * time.Hour, true}, {25 * time.Hour, false}} {
		err := meet(t, web, db, "spiffe://shop/service/db", now.Add(c.skew))
		if (err == nil) != c.good {
			t.Errorf("a clock off by %s: %v", c.skew, err)
		}
	}
}

// TestAClockThatWasAhead: an issuer that a clock a year ahead has made keeps nobody from a certificate when the clock is right
// again, and one that is behind has no root made.
func TestAClockThatWasAhead(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "authority"), time.Now()
	first := openDomain(t, dir, now)
	openDomain(t, dir, now.Add(366*day))
	d := openDomain(t, dir, now.Add(time.Hour))
	web := issue(t, d, "/service/web", now.Add(time.Hour))
	parse(t, web, now.Add(time.Hour))
	if !d.Due(issue(t, first, "/service/web", now), "/service/web", nil, now.Add(time.Hour)) {
		t.Error("what the issuer before has issued is not replaced")
	}
	if _, err := identity.OpenDomain(dir, "shop", now.Add(-20*365*day)); err != nil {
		t.Errorf("by a clock that is behind: %v", err)
	}
	if roots := openDomain(t, dir, now.Add(time.Hour)).Roots(now.Add(time.Hour)); len(roots) != 1 {
		t.Errorf("%d roots", len(roots))
	}
	parse(t, issue(t, openDomain(t, dir, now.Add(time.Hour)), "/service/web", now.Add(time.Hour)), now.Add(time.Hour))
}

// TestAFirstRootOfAClockThatWasAhead: which of two clocks is right nothing can tell, so no root is made in its place unasked; what is
// said has one made that serves at once.
func TestAFirstRootOfAClockThatWasAhead(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "authority"), time.Now()
	openDomain(t, dir, now.Add(4*365*day))
	d := openDomain(t, dir, now)
	if _, err := d.Issue("/service/web", nil, now); !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "`trellis cert rotate --now`") {
		t.Errorf("by the right clock: %v", err)
	}
	if err := identity.Rotate(dir, "shop", now, true); err != nil {
		t.Fatal(err)
	}
	d = openDomain(t, dir, now)
	parse(t, issue(t, d, "/service/web", now), now)
	if roots := d.Roots(now); len(roots) != 1 || roots[0].Number != 2 {
		t.Errorf("roots: %+v", roots)
	}
}

// TestADayAsleep: whoever wakes after a day has expired, and is believed again as soon as it is issued anew.
func TestADayAsleep(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "authority"), time.Now()
	d := openDomain(t, dir, now)
	web, db := issue(t, d, "/service/web", now), issue(t, d, "/service/db", now)
	later := now.Add(25 * time.Hour)
	if err := meet(t, parse(t, web, now), parse(t, db, now), "spiffe://shop/service/db", later); err == nil {
		t.Error("a certificate of yesterday is believed")
	}
	d = openDomain(t, dir, later)
	for path, f := range map[string]*identity.Files{"/service/web": &web, "/service/db": &db} {
		if !d.Due(*f, path, nil, later) {
			t.Errorf("%s is not due", path)
		}
		*f = issue(t, d, path, later)
	}
	if err := meet(t, parse(t, web, later), parse(t, db, later), "spiffe://shop/service/db", later); err != nil {
		t.Error(err)
	}
}

// TestRotate follows a root from its making to its end: at every moment everybody believes everybody, whether they have
// read the files of that moment or those of seven hours ago.
func TestRotate(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "authority"), time.Now()
	paths := map[string]identity.Files{"/service/web": {}, "/service/db": {}}
	type moment struct {
		at    time.Time
		files map[string]identity.Files
	}
	var past []moment
	rotated, removed := false, false
	for at := now; at.Before(now.Add(4 * day)); at = at.Add(time.Hour) {
		if !rotated && at.Sub(now) > day {
			if err := identity.Rotate(dir, "shop", at, false); err != nil {
				t.Fatal(err)
			}
			if err := identity.Rotate(dir, "shop", at, false); !errors.Is(err, errdefs.ErrConflict) {
				t.Errorf("rotated twice: %v", err)
			}
			rotated = true
		}
		d := openDomain(t, dir, at)
		this := moment{at, map[string]identity.Files{}}
		for path, f := range paths {
			if d.Due(f, path, nil, at) {
				f = issue(t, d, path, at)
			} else if d.Stale(f) {
				f.Bundle = d.Bundle()
			}
			paths[path], this.files[path] = f, f
		}
		past = append(past, this)
		for _, m := range past {
			if old := at.Sub(m.at); old >= identity.Overlap || old > 0 && old < identity.Overlap-time.Hour {
				continue // in between it is as at one of the ends
			}
			web, db := parse(t, m.files["/service/web"], at), parse(t, this.files["/service/db"], at)
			if err := meet(t, web, db, "spiffe://shop/service/db", at); err != nil {
				t.Fatalf("files of %s and of %s after the start: %v", m.at.Sub(now), at.Sub(now), err)
			}
		}
		past = past[max(0, len(past)-8):]
		if rotated && len(d.Roots(at)) == 1 {
			removed = true
		}
	}
	if roots := openDomain(t, dir, now.Add(4*day)).Roots(now.Add(4 * day)); !removed || len(roots) != 1 || roots[0].Number != 2 || !roots[0].Issues {
		t.Errorf("roots at the end: %+v", roots)
	}
}

func TestRotateAtOnce(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "authority"), time.Now()
	before := issue(t, openDomain(t, dir, now), "/service/web", now)
	if err := identity.Rotate(dir, "shop", now, true); err != nil {
		t.Fatal(err)
	}
	d := openDomain(t, dir, now)
	if err := identity.Rotate(dir, "shop", now, false); err != nil { // one is on its way
		t.Fatal(err)
	}
	if err := identity.Rotate(dir, "shop", now, true); err != nil {
		t.Fatal(err)
	}
	if roots := d.Roots(now); len(roots) != 1 {
		t.Fatalf("%+v", roots)
	}
	d = openDomain(t, dir, now)
	if !d.Due(before, "/service/web", nil, now) || !d.Stale(before) || len(d.Roots(now)) != 1 {
		t.Fatalf("the old root stays: %+v", d.Roots(now))
	}
	db := parse(t, issue(t, d, "/service/db", now), now)
	if err := meet(t, parse(t, before, now), db, "spiffe://shop/service/db", now); !errors.Is(err, identity.ErrRefused) {
		t.Errorf("a certificate of the old root: %v", err)
	}
}

// TestReadWhileARootIsRemoved: whoever reads meanwhile, as 'trellis cert' does, finds no root that is half there; one whose removal
// broke off is removed later.
func TestReadWhileARootIsRemoved(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "authority"), time.Now()
	openDomain(t, dir, now)
	if err := os.Mkdir(filepath.Join(dir, ".gone-0"), 0o700); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := identity.ReadDomain(dir, "shop"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 12 {
		if err := identity.Rotate(dir, "shop", now, true); err != nil {
			t.Fatal(err)
		}
		openDomain(t, dir, now)
	}
	close(stop)
	readers.Wait()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v is left, %v", left, err)
	}
}

// TestRootElsewhere: without the root's key the issuer goes on until it ends, and no further.
func TestRootElsewhere(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "authority"), time.Now()
	openDomain(t, dir, now)
	file := filepath.Join(dir, "1", "root.key")
	key, err := os.ReadFile(file)
	if err == nil {
		err = os.Remove(file)
	}
	if err != nil {
		t.Fatal(err)
	}
	old := now.Add(300 * day) // the issuer is due, and good
	d := openDomain(t, dir, old)
	f := issue(t, d, "/service/web", old)
	parse(t, f, old)
	after := now.Add(366 * day)
	if _, err := identity.OpenDomain(dir, "shop", after); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("an issuer that has ended: %v", err)
	}
	if err := identity.RenewIssuer(dir, "shop", nil, after); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("renewed without the key: %v", err)
	}
	if err := identity.RenewIssuer(dir, "shop", key, after); err != nil {
		t.Fatal(err)
	}
	parse(t, issue(t, openDomain(t, dir, after), "/service/web", after), after)
	if _, err := os.Stat(file); err == nil {
		t.Error("the key was kept")
	}
	if err := identity.RenewIssuer(dir, "shop", []byte("no key"), after); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("no key: %v", err)
	}
}

func TestExpiredRoot(t *testing.T) {
	dir, past := filepath.Join(t.TempDir(), "authority"), time.Now().Add(-11*365*day)
	d := openDomain(t, dir, past)
	f := issue(t, d, "/service/web", past)
	now := time.Now()
	if _, err := identity.ParseSVID(f, now); !errors.Is(err, identity.ErrRefused) {
		t.Errorf("below an expired root: %v", err)
	}
	if _, err := d.Issue("/service/web", nil, now); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("issued by an expired root: %v", err)
	}
	d = openDomain(t, dir, now) // a new one is made, and issues at once
	parse(t, issue(t, d, "/service/web", now), now)
}

func TestBrokenDomain(t *testing.T) {
	for name, broken := range map[string]func(dir string) error{
		"no certificate": func(dir string) error { return os.WriteFile(filepath.Join(dir, "1", "root.crt"), []byte("x"), 0o600) },
		"another key": func(dir string) error {
			other := filepath.Join(dir, "other")
			if _, err := identity.OpenDomain(other, "shop", time.Now()); err != nil {
				return err
			}
			return os.Rename(filepath.Join(other, "1", "root.key"), filepath.Join(dir, "1", "root.key"))
		},
		"another issuer": func(dir string) error {
			other := filepath.Join(dir, "other")
			if _, err := identity.OpenDomain(other, "shop", time.Now()); err != nil {
				return err
			}
			return os.Rename(filepath.Join(other, "1", "issuer.pem"), filepath.Join(dir, "1", "issuer.pem"))
		},
	} {
		dir := filepath.Join(t.TempDir(), "authority")
		openDomain(t, dir, time.Now())
		if err := broken(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := identity.OpenDomain(dir, "shop", time.Now()); !errors.Is(err, errdefs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := identity.OpenDomain(t.TempDir(), "No Domain", time.Now()); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("a name that is none: %v", err)
	}
}

// TestFiles: whoever reads while they are replaced gets files that belong together.
func TestFiles(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	if _, err := identity.ReadFiles(dir); !errors.Is(err, errdefs.ErrNotFound) {
		t.Fatalf("none: %v", err)
	}
	d := openDomain(t, filepath.Join(dir, "authority"), now)
	folder := filepath.Join(dir, "web")
	defer syscall.Umask(syscall.Umask(0o077))
	if err := issue(t, d, "/service/web", now).Write(folder); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		var err error
		for range 50 {
			f, ierr := d.Issue("/service/web", nil, now)
			if err = errors.Join(ierr, f.Write(folder)); err != nil {
				break
			}
		}
		done <- err
	}()
	for reading := true; reading; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			reading = false
		default:
		}
		f, err := identity.ReadFiles(folder)
		if err != nil {
			t.Fatal(err)
		}
		parse(t, f, now)
	}
	if info, err := os.Stat(filepath.Join(folder, identity.KeyFile)); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the key: %v %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(folder, "..data")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the folder: %v %v", info, err)
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) > 6 { // three links, ..data, and two versions
		t.Errorf("%d entries stay: %v", len(entries), err)
	}
	if _, err := tls.LoadX509KeyPair(filepath.Join(folder, identity.ChainFile), filepath.Join(folder, identity.KeyFile)); err != nil {
		t.Error(err)
	}
}
