package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"

	"trellis/proxy"
)

// once is a feed that has one snapshot and one socket.
type once struct {
	snapshot proxy.Snapshot
	gateway  *os.File
}

func (o once) Follow(ctx context.Context, update func(proxy.Update)) error {
	update(proxy.Update{Snapshot: &o.snapshot, Sockets: map[string]*os.File{"gateway": o.gateway}})
	<-ctx.Done()
	return ctx.Err()
}

// A data plane is given sockets and snapshots, and serves until its context ends.
func Example() {
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s for %s", r.URL.Path, r.Header.Get("X-Forwarded-Host"))
	}))
	defer program.Close()
	at := program.Listener.Addr().(*net.TCPAddr)
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer socket.Close()
	file, err := socket.(*net.TCPListener).File()
	if err != nil {
		panic(err)
	}
	data := proxy.New(proxy.Config{Feed: once{gateway: file, snapshot: proxy.Snapshot{
		Project: "evergreen", Epoch: 1, Version: 1,
		Listeners: []proxy.Listener{{Name: "gateway", Protocol: proxy.HTTP1}},
		Routes:    []proxy.Route{{Path: "/api/courses/*", Service: "catalog", Port: 8080, Decision: proxy.Decision{Auth: "none"}}},
		Services: []proxy.Service{{Name: "catalog", Instances: []proxy.Instance{
			{ID: "catalog-1", Host: at.IP.String(), PortMap: map[int]int{8080: at.Port}, Ready: true},
		}}},
	}}})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- data.Run(ctx) }()

	req, _ := http.NewRequest("GET", "http://"+socket.Addr().String()+"/api/courses/12", nil)
	req.Host, req.Close = "evergreen.localhost", true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		panic(err)
	}
	text, _ := io.ReadAll(res.Body)
	res.Body.Close()
	fmt.Println(res.StatusCode, string(text))
	stop()
	fmt.Println(<-ended)
	// Output:
	// 200 /api/courses/12 for evergreen.localhost
	// <nil>
}
