package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"trellis/engine/kubernetes"
	"trellis/errdefs"
	"trellis/proxy"
	"trellis/telemetry"
	"trellis/telemetry/alerts"
)

// Plane says of which image the data plane of a project in a cluster is made; image is what kubernetes.ImageEnv says.
func Plane(image string) kubernetes.Plane {
	return kubernetes.Plane{Image: image, Default: PlaneImage, Version: Version}
}

// ProxyInCluster is a data plane of a project in a cluster: what it knows it reads from the API server by itself, with the
// account of its pod. It blocks until ctx is done and what was in flight has ended. accessLog gets the lines of the access
// log.
func ProxyInCluster(ctx context.Context, project, namespace string, accessLog io.Writer, log *slog.Logger) error {
	log = log.With("project", project)
	client, err := kubernetes.Dial(project, kubernetes.Access{Namespace: namespace}, log)
	if err != nil {
		return fmt.Errorf("serve traffic of %s: %w", project, err)
	}
	f := &clusterFeed{client: client, project: project, log: log, open: map[string]string{}}
	p := proxy.New(proxy.Config{Feed: f, Log: log, AccessLog: accessLog, Without: without(os.Getenv(withoutEnv), log)})
	health, err := net.Listen("tcp", ":"+strconv.Itoa(kubernetes.HealthPort))
	if err != nil {
		return fmt.Errorf("serve traffic of %s: %w: %w", project, errdefs.ErrUnavailable, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+kubernetes.HealthPath, func(w http.ResponseWriter, _ *http.Request) {
		if ctx.Err() != nil || !f.serves.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.Handle("GET "+kubernetes.ExposedPath, keyed(func() string { return kubernetes.ScrapeKey(f.planeKey()) }, exposeCalls(p.Calls)))
	mux.Handle("GET /", keyed(f.planeKey, p.StatusHandler()))
	asked := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = asked.Serve(health) }()
	defer asked.Close()
	return p.Run(ctx)
}

// TellDriftInCluster looks once for drift of a project in the cluster that this runs in, with the account of its pod, and tells of
// what is new: as events of the cluster, and as the alert Drifted to the receiver that the project's file names, if it does. It
// blocks until the receiver has taken it, or ctx is done.
func TellDriftInCluster(ctx context.Context, project, namespace string, log *slog.Logger) error {
	log = log.With("project", project)
	client, err := kubernetes.Dial(project, kubernetes.Access{Namespace: namespace}, log)
	if err != nil {
		return fmt.Errorf("look for drift of %s: %w", project, err)
	}
	engine := kubernetes.New(project, client, log)
	engine.UsePlane(Plane(os.Getenv(kubernetes.ImageEnv)))
	return engine.TellDrift(ctx, project, func(news kubernetes.DriftNews) error {
		url, format, err := receiver(news.Project, func(secret string) ([]byte, error) { return news.Contents["secrets/"+secret], nil })
		if url == "" || err != nil {
			return err
		}
		var all []telemetry.Alert
		for _, s := range news.Services {
			all = append(all, alerts.DriftedAlert(s.Service, s.Places, s.Since, s.Until))
		}
		return alerts.Tell(ctx, project, url, format, all)
	})
}

// clusterFeed makes the data plane's updates of what the API server says. Its pod has a network of its own, so it opens the
// sockets itself.
type clusterFeed struct {
	client  *kubernetes.Client
	project string
	log     *slog.Logger
	open    map[string]string // address of an open socket, by listener
	serves  atomic.Bool
	key     atomic.Pointer[string] // of whoever may ask what was measured
}

// planeKey is the key of whoever may ask what was measured, "" while none is known: every pod of the cluster may come here.
func (f *clusterFeed) planeKey() string {
	if key := f.key.Load(); key != nil {
		return *key
	}
	return ""
}

// Follow implements proxy.Feed.
func (f *clusterFeed) Follow(ctx context.Context, update func(proxy.Update)) error {
	return f.client.FollowTraffic(ctx, f.project, f.log, func(t kubernetes.Traffic) {
		f.key.Store(&t.Key)
		u := proxy.Update{Snapshot: &t.Snapshot, ControlPlaneAway: t.Away}
		whole := f.sockets(t.Snapshot.Listeners, &u)
		update(u)
		if whole {
			f.serves.Store(true)
		}
	})
}

// sockets opens what listeners need and is not open, and has closed what none needs. false: one could not be opened.
func (f *clusterFeed) sockets(listeners []proxy.Listener, u *proxy.Update) bool {
	whole, wanted := true, map[string]bool{}
	u.Sockets = map[string]*os.File{}
	for _, l := range listeners {
		wanted[l.Name] = true
		if f.open[l.Name] == l.Address {
			continue
		}
		socket, err := listenAt(l)
		if err != nil {
			f.log.Error("socket not opened", "listener", l.Name, "err", err)
			whole = false
			continue
		}
		u.Sockets[l.Name], f.open[l.Name] = socket, l.Address
	}
	for name := range f.open {
		if !wanted[name] {
			u.Closed = append(u.Closed, name)
			delete(f.open, name)
		}
	}
	return whole
}

// listenAt opens the socket of a listener.
func listenAt(l proxy.Listener) (*os.File, error) {
	if l.Protocol == proxy.UDP {
		conn, err := net.ListenPacket("udp", l.Address)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		return conn.(*net.UDPConn).File()
	}
	conn, err := net.Listen("tcp", l.Address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*net.TCPListener).File()
}
