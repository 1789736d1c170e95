package kubernetes

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/proxy"
)

// Render returns the objects of a project, in the order in which they are applied. It is pure. live are the objects that
// are there: what was once given out (the ports of the data plane, the revision of a pod that does not change) is taken
// over from them. A service that cannot run in a cluster at all: ErrUnsupported, all of them at once. What is carried out
// otherwise than the file says is what Notes returns.
func Render(p compose.Project, live []Object, opt Options) ([]Object, error) {
	r := newRenderer(p, live, opt)
	r.project()
	if r.refused != nil {
		return nil, fmt.Errorf("render %s for kubernetes: %w", p.Name, r.refused)
	}
	return r.out, nil
}

// Notes returns what Render does otherwise than the values of the file ask for, each with its place, in order of path.
// What becomes of an attribute whatever its value is compose.Check's to say.
func Notes(p compose.Project, opt Options) []compose.Diagnostic {
	r := newRenderer(p, nil, opt)
	r.project()
	slices.SortStableFunc(r.notes, func(a, b compose.Diagnostic) int { return strings.Compare(a.Path, b.Path) })
	return slices.Compact(r.notes)
}

// renderer makes the objects of one project.
type renderer struct {
	p     compose.Project
	opt   Options
	live  []Object
	names names
	// awaited are the services that others wait for to complete.
	awaited map[string]bool
	// linked are the other names of services, as links gives them.
	linked map[string]map[string]string
	// users are how many workloads mount a volume of the project, by its key.
	users map[string]int
	// ports are those of the data plane that are given out.
	ports map[meshPort]int32
	// templates are the hashes of the services' pods, jobs the names of their Jobs, for those that depend on them.
	templates map[string]string
	jobs      map[string]string
	// rendered are the names of ConfigMaps, Secrets and volumes that are there already.
	rendered map[string]bool
	secure   bool             // the cluster's gateway has TLS
	routings []routing        // what becomes of routes at the cluster's gateway
	doors    []proxy.Listener // of the gateway in the data plane
	limited  bool             // not everyone may reach everyone
	// telemetry is the name of the Service that takes it, "" where there is none.
	telemetry string

	out     []Object
	notes   []compose.Diagnostic
	refused error
}

func newRenderer(p compose.Project, live []Object, opt Options) *renderer {
	p.Services = maps.Clone(p.Services)
	for name, svc := range p.Services {
		svc.Name = name
		p.Services[name] = svc
	}
	r := &renderer{
		p: p, opt: opt, live: live, names: newNames(p), awaited: engine.Awaited(p), linked: links(p), users: map[string]int{},
		ports: givenOut(live), templates: map[string]string{}, jobs: map[string]string{}, rendered: map[string]bool{},
	}
	for _, name := range p.ServiceNames() {
		seen := map[string]bool{}
		for _, m := range p.Services[name].Volumes {
			if m.Type == compose.MountVolume && m.Source != "" && !seen[m.Source] {
				seen[m.Source] = true
				r.users[m.Source] += r.podsOf(p.Services[name])
			}
		}
	}
	return r
}

// podsOf returns how many pods of a service there may be at a time, as far as its volumes are concerned: 2 stands for more
// than one.
func (r *renderer) podsOf(svc compose.Service) int {
	stopFirst, _ := engine.StopFirst(svc, engine.Replicas(svc))
	stopFirst = stopFirst || r.owns(svc)
	if a := svc.Deploy.Trellis.Autoscale; a != nil && a.Max > 1 || engine.Replicas(svc) > 1 || !stopFirst || len(svc.PreStart) > 0 {
		return 2
	}
	return 1
}

func (r *renderer) add(objects ...Object) { r.out = append(r.out, objects...) }

// note says what becomes of a value of the file.
func (r *renderer) note(path, format string, args ...any) {
	d := compose.Diagnostic{Path: path, Message: fmt.Sprintf(format, args...)}
	d.File, d.Line, d.Column = r.p.Position(path)
	r.notes = append(r.notes, d)
}

func (r *renderer) refuse(path, why string) {
	r.refused = errors.Join(r.refused, fmt.Errorf("%s: %w: %s", path, errdefs.ErrUnsupported, why))
}

// at is the path of a service's attribute.
func at(svc compose.Service, attribute string) string {
	path := compose.JoinPath("services", svc.Name)
	if attribute == "" {
		return path
	}
	return path + "." + attribute
}

// project renders everything. Dependencies come before what depends on them.
func (r *renderer) project() {
	r.limited = r.limits()
	r.receiver()
	r.gateway()
	r.decideRoutes()
	r.checkGateway()
	r.checkWatch()
	r.plane()
	for _, name := range r.order() {
		r.service(r.p.Services[name])
	}
	r.policies()
	r.membership()
	r.monitoring()
	r.control()
	r.lifetime()
}

// order returns the services so that each comes after those it depends on.
func (r *renderer) order() []string {
	var out []string
	visited := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if _, ok := r.p.Services[name]; !ok || visited[name] {
			return
		}
		visited[name] = true
		for _, other := range slices.Sorted(maps.Keys(r.p.Services[name].DependsOn)) {
			visit(other)
		}
		out = append(out, name)
	}
	for _, name := range r.p.ServiceNames() {
		visit(name)
	}
	return out
}

// service renders what a service is in the cluster.
func (r *renderer) service(svc compose.Service) {
	if svc.Provided() {
		return // compose.Check says that it does not run
	}
	if r.image(svc) == "" {
		r.refuse(at(svc, "image"), "there is none, and no build has made one")
		return
	}
	if name := r.names.of[svc.Name]; name != svc.Name {
		r.note(at(svc, ""), "is changed: a cluster has no such names: it is called %s there, and others reach it by that", name)
	}
	r.checkImage(svc)
	r.add(r.account(svc))
	r.networking(svc)
	r.workload(svc)
	r.routes(svc)
}

// labels are those of every object of a service.
func (r *renderer) labels(svc compose.Service) map[string]string {
	by := managedBy
	if r.opt.Revision == 0 {
		by = byNobody
	}
	l := map[string]string{labelProject: labelValue(r.p.Name), labelManagedBy: by}
	if svc.Name != "" {
		l[labelService] = r.names.of[svc.Name]
	}
	return l
}

// selector finds the pods of a service.
func (r *renderer) selector(service string) map[string]string {
	return map[string]string{labelProject: labelValue(r.p.Name), labelService: r.names.of[service]}
}

// meta is that of an object of a service, or of the project where svc has no name.
func (r *renderer) meta(svc compose.Service, name string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: name, Namespace: r.opt.Namespace, Labels: r.labels(svc)}
	m.Annotations = r.called(nil, svc)
	return m
}

// called adds to annotations what a service is called in the file, where its label cannot say it.
func (r *renderer) called(to map[string]string, svc compose.Service) map[string]string {
	if r.opt.Revision == 0 || svc.Name == "" || r.names.of[svc.Name] == svc.Name {
		return to
	}
	return with(to, annotationService, svc.Name)
}
