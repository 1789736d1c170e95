package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/proxy"
)

// Doors are the URLs at which a project's gateway is reached from outside of the cluster, "" where it is not.
type Doors struct{ HTTP, HTTPS string }

var (
	services    = corev1.SchemeGroupVersion.WithKind("Service")
	gatewayKind = schema.FromAPIVersionAndKind(gatewayv1.GroupVersion.String(), "Gateway")
)

// Doors asks the cluster where it has put the gateway of a project, as a revision of it says: what a load balancer has been given,
// else the port of a node. A cluster that has not yet given anything is no error, and neither is a project without a gateway.
func (e *Engine) Doors(ctx context.Context, p compose.Project) (Doors, error) {
	fail := func(err error) (Doors, error) {
		return Doors{}, fmt.Errorf("ask for the gateway of %s: %w", e.project, e.client.explain(err))
	}
	if GatewayClass(p) != "" {
		var g gatewayv1.Gateway
		there, err := e.client.read(ctx, gatewayKind, cleaned(p.Name, maxName), &g)
		if err != nil {
			return fail(err)
		}
		if !there || len(g.Status.Addresses) == 0 {
			return Doors{}, nil
		}
		var d Doors
		for _, l := range g.Spec.Listeners {
			d.add(string(l.Name), g.Status.Addresses[0].Value, l.Port)
		}
		return d, nil
	}
	var s corev1.Service
	there, err := e.client.read(ctx, services, gatewayService(newNames(p), p.Name), &s)
	if err != nil {
		return fail(err)
	}
	if !there || s.Labels[labelProject] != labelValue(p.Name) {
		return Doors{}, nil
	}
	var d Doors
	for _, port := range s.Spec.Ports {
		switch given := s.Status.LoadBalancer.Ingress; {
		case len(given) > 0:
			d.add(port.Name, cmp.Or(given[0].Hostname, given[0].IP), port.Port)
		case port.NodePort != 0:
			d.add(port.Name, e.client.aNode(ctx), port.NodePort)
		}
	}
	return d, nil
}

// Traffic returns what the data plane in the cluster goes by, without instances. There is none: ErrUnsupported.
func (e *Engine) Traffic(ctx context.Context) (proxy.Snapshot, error) {
	fail := func(err error) (proxy.Snapshot, error) {
		return proxy.Snapshot{}, fmt.Errorf("read the plan of traffic of %s: %w", e.project, err)
	}
	var s corev1.Secret
	there, err := e.client.read(ctx, secrets, planName(e.project), &s)
	if err != nil {
		return fail(e.client.explain(err))
	}
	if !there {
		return fail(fmt.Errorf("%w: there is no data plane in the cluster: name a registry that it pulls from with --registry, or an image of trellis in TRELLIS_IMAGE", errdefs.ErrUnsupported))
	}
	plan, err := planOf(s.Data[keyPlan])
	if err != nil {
		return fail(err)
	}
	return plan.Snapshot, nil
}

// add notes one of the gateway's two listeners.
func (d *Doors) add(listener, host string, port int32) {
	url := listener + "://" + net.JoinHostPort(host, strconv.Itoa(int(port)))
	switch listener {
	case listenHTTP:
		d.HTTP = url
	case listenHTTPS:
		d.HTTPS = url
	}
}

// read reads one object; false: it is not there, or whoever asks may not look, or the cluster has no such kind.
func (c *Client) read(ctx context.Context, kind schema.GroupVersionKind, name string, to any) (bool, error) {
	r, err := c.resource(kind)
	if errors.Is(err, errdefs.ErrUnsupported) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	o, err := r.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, to)
}

// opening returns the Services that lead into the cluster, by the service that they are of.
func opening(live []Object) map[string][]*corev1.Service {
	all := map[string][]*corev1.Service{}
	for _, s := range objectsOf[*corev1.Service](live) {
		if s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			all[serviceOf(s)] = append(all[serviceOf(s)], s)
		}
	}
	return all
}

// openPorts returns where the Services of a service that lead into the cluster have opened its published ports: at what a load balancer
// has been given, else at a port of every node.
func openPorts(svc compose.Service, open []*corev1.Service) []engine.Port {
	var all []engine.Port
	for _, s := range open {
		for _, port := range s.Spec.Ports {
			i := slices.IndexFunc(svc.Ports, func(p compose.Port) bool {
				low, _, _ := strings.Cut(p.Published, "-")
				return low == strconv.Itoa(int(port.Port)) && protocol(p.Protocol) == port.Protocol
			})
			if i < 0 {
				continue
			}
			one := engine.Port{Target: svc.Ports[i].Target, Published: int(port.NodePort), Protocol: cmp.Or(svc.Ports[i].Protocol, "tcp")}
			if given := s.Status.LoadBalancer.Ingress; len(given) > 0 {
				one.Published, one.HostIP = int(port.Port), cmp.Or(given[0].Hostname, given[0].IP)
			}
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b engine.Port) int {
		return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(a.Published, b.Published), strings.Compare(a.Protocol, b.Protocol))
	})
	return all
}

// atNodes says of the ports that are open at every node where one of them is.
func (c *Client) atNodes(ctx context.Context, s *engine.State) {
	node := ""
	for i := range s.Services {
		for j := range s.Services[i].Ports {
			if port := &s.Services[i].Ports[j]; port.HostIP == "" && port.Published != 0 {
				if node == "" {
					node = c.aNode(ctx)
				}
				port.HostIP = node
			}
		}
	}
}

const (
	aNodeFor    = time.Minute // how long the address of a node is believed
	unknownNode = "NODE"      // a word to put it in place of
)

// aNode returns the address of a node, as it was a minute ago at most; unknownNode for who may not look at nodes. Where the cluster
// does not answer it is the one that was known last.
func (c *Client) aNode(ctx context.Context) string {
	c.node.Lock()
	known, asked := c.node.address, c.node.asked
	c.node.Unlock()
	if known != "" && time.Since(asked) <= aNodeFor {
		return known
	}
	address, err := c.askNode(ctx)
	if err != nil {
		return cmp.Or(known, unknownNode)
	}
	c.node.Lock()
	defer c.node.Unlock()
	c.node.address, c.node.asked = address, time.Now()
	return address
}

// fewNodes is how many nodes are asked for at first: most of any cluster's are ready.
const fewNodes = 10

// askNode returns the address of a node, from outside where it has one there: of one that is ready, if any is.
func (c *Client) askNode(ctx context.Context) (string, error) {
	nodes, err := c.nodes(ctx, metav1.ListOptions{Limit: fewNodes})
	if err == nil && len(nodes) == fewNodes && !slices.ContainsFunc(nodes, nodeReady) {
		nodes, err = c.nodes(ctx, metav1.ListOptions{})
	}
	if err != nil {
		return unknownNode, err
	}
	slices.SortStableFunc(nodes, func(a, b corev1.Node) int { return cmp.Compare(rank(a), rank(b)) })
	for _, node := range nodes {
		if address := addressOf(node); address != "" {
			return address, nil
		}
	}
	return unknownNode, nil
}

// rank sorts nodes that are ready before others.
func rank(n corev1.Node) int {
	if nodeReady(n) {
		return 0
	}
	return 1
}

func nodeReady(n corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// addressOf returns the address of a node, from outside where it has one there; "": it has none.
func addressOf(n corev1.Node) string {
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		for _, a := range n.Status.Addresses {
			if a.Type == kind && a.Address != "" {
				return a.Address
			}
		}
	}
	return ""
}
