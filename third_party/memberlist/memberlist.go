// Package memberlist has as much of its namesake as Alertmanager's package of a cluster refers to. There is never one: the control
// plane alone tells of alerts.
package memberlist

import (
	"errors"
	"log"
	"net"
	"strconv"
	"time"
)

var errNone = errors.New("there is no cluster of Alertmanagers here")

// Node would be another Alertmanager.
type Node struct {
	Name string
	Addr net.IP
	Port uint16
}

// Address returns where it would be.
func (n *Node) Address() string { return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port))) }

// String implements fmt.Stringer.
func (n *Node) String() string { return n.Name }

// Packet would be a message.
type Packet struct {
	Buf       []byte
	From      net.Addr
	Timestamp time.Time
}

// Broadcast would be a message to all.
type Broadcast interface {
	Invalidates(b Broadcast) bool
	Message() []byte
	Finished()
}

// Config would say how others are reached.
type Config struct {
	Name, BindAddr, AdvertiseAddr, Label                string
	BindPort, AdvertisePort, GossipNodes, UDPBufferSize int
	Delegate, Ping, Alive, Events, Conflict, Transport  any
	GossipInterval, PushPullInterval                    time.Duration
	TCPTimeout, ProbeTimeout, ProbeInterval             time.Duration
	Logger                                              *log.Logger
}

// DefaultLANConfig says nothing.
func DefaultLANConfig() *Config { return &Config{} }

// Memberlist would be the cluster.
type Memberlist struct{}

// Create fails.
func Create(*Config) (*Memberlist, error) { return nil, errNone }

// Join and what follows is never called: there is no Memberlist.
func (*Memberlist) Join([]string) (int, error)       { return 0, errNone }
func (*Memberlist) Leave(time.Duration) error        { return errNone }
func (*Memberlist) LocalNode() *Node                 { return nil }
func (*Memberlist) Members() []*Node                 { return nil }
func (*Memberlist) NumMembers() int                  { return 0 }
func (*Memberlist) GetHealthScore() int              { return 0 }
func (*Memberlist) SendReliable(*Node, []byte) error { return errNone }

// TransmitLimitedQueue would keep messages until they are sent.
type TransmitLimitedQueue struct {
	NumNodes       func() int
	RetransmitMult int
}

// QueueBroadcast and what follows keeps nothing.
func (*TransmitLimitedQueue) QueueBroadcast(Broadcast)        {}
func (*TransmitLimitedQueue) GetBroadcasts(_, _ int) [][]byte { return nil }
func (*TransmitLimitedQueue) NumQueued() int                  { return 0 }
func (*TransmitLimitedQueue) Prune(int)                       {}
