package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/console"
)

func (p *program) consoleCommand() *cobra.Command {
	var open bool
	cmd := &cobra.Command{
		Use:   "console",
		Short: "Print the address of the web console",
		Long: `Console prints the address of the project's web console, with the key that signs a
browser in. The key stands behind a #, so that no server and no log gets to see
it; whoever has the address may do what the console can.

The console listens on this machine only. From another one, forward its port:
ssh -L PORT:127.0.0.1:PORT HOST, and open the address as it is printed here. That
of a project in a cluster is led here through its API server, until Ctrl-C.`,
		Example: `  trellis console
  trellis console --open    show it in this machine's browser`,
		Args: arguments(0, 0),
	}
	cmd.Flags().BoolVar(&open, "open", false, "open it in the browser")
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.withControl(cmd.Context(), func(control api.Control, _ location) error {
			door, err := control.Door(cmd.Context())
			if err != nil {
				return err
			}
			if err := p.showDoor(cmd.Context(), door, open, format.json()); err != nil || !door.Lasts {
				return err
			}
			p.progressf("led here until Ctrl-C")
			<-cmd.Context().Done()
			return nil
		})
	}
	return p.project(cmd)
}

// showDoor prints the way into the console, and with open has the browser take it.
func (p *program) showDoor(ctx context.Context, door api.Door, open, asJSON bool) error {
	if asJSON {
		return p.writeJSON(door)
	}
	address := door.URL + "/#key=" + door.Key
	if open {
		if err := browse(ctx, door.URL+"/#key="+console.Ticket(door.Key)); err != nil {
			return withHint(err, "open %s yourself", address)
		}
	}
	fmt.Fprintln(p.stdout, address)
	return nil
}

// browse shows an address in the browser of this machine.
func browse(ctx context.Context, address string) error {
	opener := "xdg-open"
	if runtime.GOOS == "darwin" {
		opener = "open"
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := exec.CommandContext(ctx, opener, address).Run(); err != nil {
		return fmt.Errorf("open the browser with %s: %w", opener, err)
	}
	return nil
}
