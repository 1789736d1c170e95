package server

import (
	"context"
	"errors"
	"fmt"
	"net"

	"trellis/errdefs"
	"trellis/holder"
	"trellis/proxy"
)

// own returns a socket that the holder keeps for the control plane itself, at a port that is chosen once: connections that
// come while no control plane runs wait for the next one.
func (p *plane) own(ctx context.Context, l proxy.Listener) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	try := func(port int) (bool, error) {
		opened, err := p.holder.Open(ctx, []holder.Socket{{Name: l.Name, Network: "tcp", Address: atPort(l.Address, port)}})
		switch {
		case err != nil:
			return false, err
		case opened[0].Error == "":
			p.chosen.Ports[choiceOf(l)] = port
			return true, nil
		case opened[0].InUse:
			return false, nil
		}
		return false, fmt.Errorf("%w: %s", errdefs.ErrUnavailable, opened[0].Error)
	}
	before := p.chosen.Ports[choiceOf(l)]
	open, err := false, error(nil)
	if before != 0 {
		open, err = try(before)
	}
	if err == nil && !open {
		err = p.chosen.candidates(choiceOf(l), try)
	}
	if err == nil && p.chosen.Ports[choiceOf(l)] != before {
		err = p.chosen.save()
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", l.Name, err)
	}
	return p.fetch(ctx, l.Name)
}

// errTaken ends following the holder after its first event.
var errTaken = errors.New("taken")

// fetch returns one of the holder's sockets.
func (p *plane) fetch(ctx context.Context, name string) (listener net.Listener, err error) {
	failed := p.holder.Follow(ctx, func(e holder.Event) error {
		for n, f := range e.Sockets {
			if n == name {
				listener, err = net.FileListener(f)
			}
			f.Close()
		}
		return errTaken
	})
	switch {
	case !errors.Is(failed, errTaken):
		return nil, fmt.Errorf("take socket %s: %w", name, failed)
	case err != nil:
		return nil, fmt.Errorf("take socket %s: %w", name, err)
	case listener == nil:
		return nil, fmt.Errorf("take socket %s: %w: the holder does not have it", name, errdefs.ErrNotFound)
	}
	return listener, nil
}
