package proxy

// InFlight counts what is in flight now of one caller over one route to one instance: requests, streams and connections. What another
// host's data plane sends here for its own callers is counted there.
type InFlight struct {
	Service  string `json:"service"`
	Instance string `json:"instance,omitempty"` // "": they wait for one
	Revision int64  `json:"revision,omitempty"` // of the instance
	Caller   string `json:"caller,omitempty"`   // as in Call
	Route    string `json:"route,omitempty"`    // as in Call
	Count    int64  `json:"count"`
}

// seat is a place at an instance, taken by something in flight; zero: none.
type seat struct {
	inst *instance
	by   *callCounts // of what comes the same way; nil: nobody is told
}

// seat counts by its way what is counted as in use already.
func (i *instance) seat(by way) seat {
	if i.svc.internal() {
		return seat{inst: i}
	}
	n := i.calls.of(by)
	n.inFlight.Add(1)
	return seat{i, n}
}

// leave gives the seat back, once.
func (s seat) leave() {
	if s.by != nil {
		s.by.inFlight.Add(-1)
	}
	s.inst.release()
}

// leave gives back the seat that q has at an instance, if it has one.
func (q *request) leave() {
	if at := q.seat; at.inst != nil {
		q.seat = seat{}
		at.leave()
	}
}

// flightsIn appends what is in flight to all.
func flightsIn(t *ways[callCounts], all []InFlight, like InFlight) []InFlight {
	for _, one := range t.all() {
		like.Caller, like.Route, like.Count = one.caller, one.route, one.n.inFlight.Load()
		all = append(all, like)
	}
	return all
}

// flights appends what is in flight to i. Where nothing ever was that is told, too: there is no number but 0.
func (i *instance) flights(all []InFlight, like InFlight) []InFlight {
	if len(i.calls.all()) == 0 {
		return append(all, like)
	}
	return flightsIn(&i.calls, all, like)
}
