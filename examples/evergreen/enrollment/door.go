package enrollment

import (
	"context"
	"errors"
	"sync"
	"time"

	"evergreen/rest"
)

// Door lets those into a course who have a seat in it. It remembers whom it let in, so that learners go on while
// enrollment is away. It is safe for concurrent use.
type Door struct {
	seat func(ctx context.Context, token, course string) (Enrollment, error)
	now  func() time.Time
	mu   sync.Mutex
	in   map[string]admitted // by account and course
}

type admitted struct {
	seat Enrollment
	at   time.Time
}

// Admit is what Door.Admit is, for those who need one.
type Admit func(ctx context.Context, account, token, course string) (Enrollment, error)

// How long the Door believes what it knows: without asking, and while enrollment cannot be asked.
const (
	doorFresh = time.Minute
	doorOld   = 2 * time.Hour
	doorMax   = 20_000
)

// NewDoor returns a Door that asks seat, which is Client.Seat or as good.
func NewDoor(seat func(ctx context.Context, token, course string) (Enrollment, error)) *Door {
	return &Door{seat: seat, now: time.Now, in: map[string]admitted{}}
}

// Admit returns the seat that account, whose token it is, has in course; ErrNoSeat if it has none, or one that is not
// paid for.
func (d *Door) Admit(ctx context.Context, account, token, course string) (Enrollment, error) {
	key := account + " " + course
	d.mu.Lock()
	last := d.in[key]
	d.mu.Unlock()
	age := d.now().Sub(last.at)
	if age < doorFresh {
		return last.seat, nil
	}
	e, err := d.seat(ctx, token, course)
	switch {
	case err == nil && !e.Held():
		d.remember(key, e)
		return e, nil
	case err == nil:
		return Enrollment{}, ErrNoSeat
	case errors.Is(err, rest.ErrUnavailable) && age < doorOld:
		return last.seat, nil
	}
	return Enrollment{}, err
}

func (d *Door) remember(key string, e Enrollment) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.in) >= doorMax {
		clear(d.in)
	}
	d.in[key] = admitted{e, d.now()}
}
