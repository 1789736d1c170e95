package proxy

import "math/rand/v2"

// Shift leads a share of what comes to the gateway to another gateway, as it came: the routes of that one decide who may
// come in and what is rewritten. It is how a project moves to another place under load.
type Shift struct {
	Service string  `json:"service"` // of Snapshot.Services: its instances are the other gateway
	Port    int     `json:"port"`
	Share   float64 `json:"share"` // 0 to 1, of the requests that a route matches
}

// shiftedHeader tells gateways that a request was shifted: it is not a second time, so that two of them that shift to each
// other are no circle. A client that sends it is served where it is.
const shiftedHeader = "X-Trellis-Shifted"

func (s *Shift) takes(shifted bool) bool { return !shifted && rand.Float64() < s.Share }
