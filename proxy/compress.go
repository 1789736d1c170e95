package proxy

import (
	"bytes"
	"compress/gzip"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// minCompressed is the length below which compressing gains nothing: what is smaller fits into one packet.
const minCompressed = 1024

// compress makes the body of an answer smaller, where that helps, the client takes it and the program has not forbidden
// it. What is written by the program piece by piece arrives so.
func compress(q *request, r *response) {
	if r.body == nil || r.status < 200 || r.status == 206 || r.tunnel != nil || q.method == "HEAD" || r.length >= 0 && r.length < minCompressed ||
		r.header.Has("Content-Encoding") || r.header.Has("Content-Range") || r.header.HasToken("Cache-Control", "no-transform") ||
		!compressible(r.header.Get("Content-Type")) {
		return
	}
	vary(&r.header, "Accept-Encoding")
	coding := codingFor(q.header.Values("Accept-Encoding"))
	if coding == "" {
		return
	}
	if tag := r.header.Get("Etag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		r.header.Set("Etag", "W/"+tag) // the bytes are others (RFC 9110, section 8.8.1)
	}
	r.header.Del("Content-Length")
	r.header.Del("Accept-Ranges")
	r.header.Add("Content-Encoding", coding)
	c := &compressor{source: r.source, from: r.body, pool: encoders(coding)}
	c.enc = c.pool.Get().(encoder)
	c.enc.Reset(&c.out)
	r.source, r.body, r.length = c, c, -1
}

// compressible says whether a media type is text of some kind.
func compressible(kind string) bool {
	kind, _, _ = strings.Cut(lower(kind), ";")
	kind = strings.TrimRight(kind, " ")
	switch kind {
	case "text/event-stream", "application/grpc":
		return false
	case "application/json", "application/javascript", "application/xml", "application/wasm", "image/svg+xml", "application/x-ndjson",
		"application/manifest+json", "font/ttf", "font/otf":
		return true
	}
	return strings.HasPrefix(kind, "text/") || strings.HasSuffix(kind, "+json") || strings.HasSuffix(kind, "+xml")
}

// codingFor returns the coding that a client prefers of those there are, zstd where it does not care; "" for none
// (RFC 9110, section 12.5.3).
func codingFor(accept []string) string {
	weights := map[string]float64{}
	for _, line := range accept {
		for part := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(part, ";")
			weight := 1.0
			if v, ok := strings.CutPrefix(strings.ReplaceAll(lower(params), " ", ""), "q="); ok {
				var err error
				if weight, err = strconv.ParseFloat(v, 64); err != nil || !(weight >= 0 && weight <= 1) {
					weight = 0
				}
			}
			weights[strings.Trim(lower(name), " \t")] = weight
		}
	}
	best, most := "", 0.0
	for _, name := range []string{"zstd", "gzip"} {
		w, named := weights[name]
		if !named {
			w = weights["*"]
		}
		if w > most {
			best, most = name, w
		}
	}
	return best
}

type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

var (
	gzips = sync.Pool{New: func() any {
		w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // fails for levels that do not exist
		return encoder(w)
	}}
	zstds = sync.Pool{New: func() any {
		// RFC 9659 lets a client refuse windows above 8 MiB; 256 KiB keep an encoder small.
		w, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(256<<10))
		return encoder(w)
	}}
)

func encoders(coding string) *sync.Pool {
	if coding == "zstd" {
		return &zstds
	}
	return &gzips
}

// compressor reads a body and gives it compressed. It is the source of the response in the body's stead.
type compressor struct {
	source
	from    io.Reader
	enc     encoder // nil when it has ended
	pool    *sync.Pool
	out     bytes.Buffer
	buf     [8 << 10]byte
	pending bool  // the encoder holds something that was not flushed
	err     error // what reading ended with
}

// waiting implements source.
func (c *compressor) waiting() bool {
	return c.out.Len() == 0 && !c.pending && c.err == nil && c.source.waiting()
}

// Read implements io.Reader.
func (c *compressor) Read(p []byte) (int, error) {
	for c.out.Len() == 0 && c.err == nil {
		if c.pending && c.source.waiting() { // the client gets what there is, not what fills a block
			c.pending = false
			c.err = c.enc.Flush()
			continue
		}
		n, err := c.from.Read(c.buf[:])
		if n > 0 {
			c.pending = true
			if _, werr := c.enc.Write(c.buf[:n]); werr != nil {
				err = werr
			}
		}
		if err == io.EOF {
			c.pending = false
			if cerr := c.enc.Close(); cerr != nil {
				err = cerr
			}
			c.free()
		}
		c.err = err
	}
	if c.out.Len() > 0 {
		return c.out.Read(p)
	}
	return 0, c.err
}

// close implements source.
func (c *compressor) close(whole bool) {
	c.free()
	c.source.close(whole)
}

// free gives the encoder back.
func (c *compressor) free() {
	if c.enc != nil {
		c.enc.Reset(nil)
		c.pool.Put(c.enc)
		c.enc = nil
	}
}
