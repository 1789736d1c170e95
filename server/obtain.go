package server

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"trellis/compose"
	"trellis/engine/local"
	"trellis/errdefs"
	"trellis/identity/acme"
	"trellis/state"
)

// obtain keeps the certificates good that the project has an authority asked for.
func (c *control) obtain(ctx context.Context) error {
	look := pace{every: certifyPause}
	o := obtaining{control: c, newClient: acme.New}
	for {
		next := c.changed.next()
		o.once(ctx, time.Now())
		if !look.await(ctx, next) {
			return nil
		}
	}
}

// obtaining is what obtain remembers from one look to the next.
type obtaining struct {
	*control
	newClient func(acme.Config) (*acme.Client, error)

	cfg      acme.Config // of client
	client   *acme.Client
	revision int64 // that was looked at last
	said     string
}

// once looks at every name. Nothing that fails for one is in the way of the others.
func (o *obtaining) once(ctx context.Context, now time.Time) {
	rev, err := o.store.Latest(ctx)
	if err != nil {
		if !errors.Is(err, errdefs.ErrNotFound) {
			o.say(ctx, err)
		}
		return
	}
	asked := rev.Project.Trellis.Gateway.Asked()
	if len(asked) == 0 {
		o.client, o.revision = nil, rev.Number
		return
	}
	if cfg := o.config(rev.Project.Trellis.Gateway); o.client == nil || cfg != o.cfg {
		client, err := o.newClient(cfg)
		if err != nil {
			o.say(ctx, err)
			return
		}
		o.client, o.cfg = client, cfg
	}
	changed := o.revision != 0 && o.revision != rev.Number // somebody has changed something, perhaps what was in the way
	o.revision = rev.Number
	for _, name := range asked {
		issued, err := o.client.Renew(ctx, name, now, changed)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			o.say(ctx, err)
			if f := (*acme.Failure)(nil); errors.As(err, &f) {
				o.tell(ctx, rev, "certificate.failed", f.Error())
			}
		case issued:
			o.tell(ctx, rev, "certificate.issued", fmt.Sprintf("certificate issued for %s by %s", name, authorityName(o.cfg.Directory)))
		}
	}
}

// config returns what a gateway says of the authority.
func (o *obtaining) config(g *compose.Gateway) acme.Config {
	dir := o.location.TLS()
	cfg := acme.Config{
		Dir: local.ACMEDir(dir), Answers: local.AnswersDir(dir), Directory: g.ACME.Directory, Email: g.ACME.Email, Log: o.log,
		HTTP: portOf(g.HTTP) == 80, TLS: portOf(g.HTTPS) == 443,
	}
	if !cfg.HTTP && !cfg.TLS { // something else leads here from them: from which nobody knows
		cfg.HTTP, cfg.TLS = true, true
	}
	return cfg
}

// authorityName is the host of an authority's directory.
func authorityName(directory string) string {
	if directory == "" {
		return "Let's Encrypt"
	}
	if u, err := url.Parse(directory); err == nil {
		return u.Host
	}
	return directory
}

// say writes a failure into the log, once for as long as it is the same.
func (o *obtaining) say(ctx context.Context, err error) {
	if ctx.Err() == nil && err.Error() != o.said {
		o.said = err.Error()
		o.log.Error("no certificate", "err", err)
	}
}

// tell writes an event.
func (o *obtaining) tell(ctx context.Context, rev state.Revision, kind, message string) {
	err := o.store.Append(ctx, state.Event{
		Time: time.Now(), Actor: "trellis", Project: o.location.Project, Kind: kind, Reason: "acme", Message: message, Revision: rev.Number,
	})
	if err != nil {
		o.log.Error("event not written", "kind", kind, "err", err)
		return
	}
	o.changed.wake() // who follows events
}
