package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"

	"trellis/telemetry"
)

// StatusHandler tells what the data plane does and has measured: GET /status with a Status; GET /calls with Calls; GET /demand,
// GET /measures and GET /spans with one object a line, pushed whenever there is news. It asks nobody who they are.
func (p *Proxy) StatusHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(p.Status())
	})
	mux.HandleFunc("GET /demand", p.serveDemand)
	mux.HandleFunc("GET /measures", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		enc, rc := json.NewEncoder(w), http.NewResponseController(w)
		p.push(r.Context(), func(m Measures) error {
			if err := enc.Encode(m); err != nil {
				return err
			}
			return rc.Flush()
		})
	})
	mux.HandleFunc("GET /calls", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(p.Calls())
	})
	mux.HandleFunc("GET /spans", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		enc, rc := json.NewEncoder(w), http.NewResponseController(w)
		p.pushSpans(r.Context(), func(all []telemetry.Span) error {
			if err := enc.Encode(all); err != nil {
				return err
			}
			return rc.Flush()
		})
	})
	return mux
}

// serveStatus serves StatusHandler on a unix socket until ctx is done.
func (p *Proxy) serveStatus(ctx context.Context, l net.Listener) {
	srv := &http.Server{Handler: p.StatusHandler(), ReadHeaderTimeout: readHeaderTime, IdleTimeout: clientIdleTime}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		p.log.Error("status socket failed", "err", err)
	}
}
