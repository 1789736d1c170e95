package fake

import (
	"os"
	"testing"

	"trellis/driver"
	"trellis/driver/drivertest"
)

func TestMain(m *testing.M) {
	drivertest.Program()
	os.Exit(m.Run())
}

func script(b drivertest.Behaviour) Script {
	s := Script{
		IgnoreStop: b.IgnoreStop, PrintEnv: b.Env, Print: b.Print, PrintErr: b.PrintErr, Touch: b.Touch,
		CopyInput: b.Copy, Children: b.Children, Listen: b.Listen, Tick: b.Tick,
	}
	if b.Missing {
		s.StartError = "no such file"
	}
	if b.End != nil {
		s.Exits, s.ExitAfter, s.ExitCode, s.ExitSignal = true, b.End.After, b.End.Code, b.End.Signal
	}
	return s
}

func TestContract(t *testing.T) {
	drivertest.Run(t, drivertest.Config{
		New:    func(*testing.T) driver.Driver { return NewWorld().Driver() },
		Reopen: func(_ *testing.T, d driver.Driver) driver.Driver { return d.(*Driver).w.Driver() },
		Spec: func(_ *testing.T, b drivertest.Behaviour, spec driver.Spec) driver.Spec {
			spec.Command = Command(script(b))
			return spec
		},
		Leftovers: func(_ *testing.T, d driver.Driver) []string {
			var left []string
			for _, id := range d.(*Driver).w.Left() {
				left = append(left, string(id))
			}
			return left
		},
	})
}
