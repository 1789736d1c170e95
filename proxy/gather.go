package proxy

import (
	"errors"
	"os"
	"time"
)

// An answer of at most gatherSize bytes is waited for gatherTime before any of it is passed on.
const (
	gatherSize = 64 << 10
	gatherTime = time.Second
)

// gather reads all of a short answer to a request that may be repeated, so that it can be: of an instance that is killed while it
// answers, the client would get a part, which nobody can take back. One that takes its time is passed on as it comes.
func (x *exchange) gather() error {
	if x.resp.body == nil || !x.q.safe || x.head.Length < 0 || x.head.Length > gatherSize || x.body.AtHand() {
		return nil
	}
	patience := gatherTime
	if p := x.patience(); p > 0 {
		patience = min(patience, p)
	}
	x.c.limitRead(patience)
	err := x.body.Gather()
	if errors.Is(err, os.ErrDeadlineExceeded) && !x.c.isAborted() {
		return nil
	}
	return err
}
