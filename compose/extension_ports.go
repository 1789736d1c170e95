package compose

// PortExtension is x-trellis of a port.
type PortExtension struct {
	// Routes mount the port on the gateway.
	Routes []Route `json:"routes,omitempty"`
	// ProxyProtocol names the addresses of balancers in front of the published port, such as 10.0.0.0/24: their connections
	// have to begin with a header of the PROXY protocol, version 2, which says who the client is. Other connections are served
	// as they are.
	ProxyProtocol []string `json:"proxy_protocol,omitempty"`
	// TLS is that of the service for this port: mutual or none. Unset: as the service says.
	TLS string `json:"tls,omitempty"`
}

// Route mounts a port of a service on the gateway.
type Route struct {
	// Host is exact or "*.example.org"; unset: any of the gateway's hosts.
	Host string `json:"host,omitempty"`
	// Path is "/exact", "/prefix/*" or "/a/{param}/b"; unset: "/*".
	Path string `json:"path,omitempty"`
	// Methods are the HTTP methods; none: all.
	Methods []string `json:"methods,omitempty"`
	// Headers must all be present with exactly these values.
	Headers map[string]string `json:"headers,omitempty"`
	// Auth names a scheme of x-trellis.auth, or none; unset: the gateway's policy.
	Auth string `json:"auth,omitempty"`
	// Require are claims that the caller must have, each with one of the values: {role: staff}.
	Require map[string]Words `json:"require,omitempty"`
	// RateLimit answers 429 to what goes beyond it.
	RateLimit *RateLimit `json:"rate_limit,omitempty"`
	// Limits bound the size and number of requests.
	Limits *Limits `json:"limits,omitempty"`
	// CORS lets pages of other origins use the route.
	CORS *CORS `json:"cors,omitempty"`
	// RequestHeaders are edited before the program sees a request.
	RequestHeaders *HeaderEdit `json:"request_headers,omitempty"`
	// ResponseHeaders are edited before the client sees an answer.
	ResponseHeaders *HeaderEdit `json:"response_headers,omitempty"`
	// SecurityHeaders is the policy's where it is unset.
	SecurityHeaders *bool `json:"security_headers,omitempty"`
	// Compress is the policy's where it is unset.
	Compress *bool `json:"compress,omitempty"`
	// Redirect sends clients elsewhere instead of to the program.
	Redirect *Redirect `json:"redirect,omitempty"`
	// Rewrite takes the place of what path begins with, up to its first parameter or wildcard: / takes /v1 away from /v1/*.
	Rewrite string `json:"rewrite,omitempty"`
	// Mirror sends copies of requests to another service, whose answers are dropped.
	Mirror *Mirror `json:"mirror,omitempty"`
	// Split sends a part of the requests to other services; the first that takes a request has it.
	Split []Split `json:"split,omitempty"`
	// Timeout is how long a response's headers may take; unset: 30s.
	Timeout *Duration `json:"timeout,omitempty"`
	// TryTimeout is how long the headers of a response may take until another instance is asked, of requests that may be
	// repeated and within Timeout; unset: as long as Timeout says.
	TryTimeout *Duration `json:"try_timeout,omitempty"`
	// Idempotent says that the program does what it is asked once, however often it is asked: the gateway may then send a
	// POST or PATCH to another instance when the one that had it dies. Without it only those with an Idempotency-Key are.
	Idempotent bool `json:"idempotent,omitempty"`
}

// RateLimit is a token bucket.
type RateLimit struct {
	// Per says who shares a bucket: client (default; an IPv4 address or an IPv6 /64), route (everyone), key (an
	// authenticated caller) or claim:NAME (callers with the same value of a claim).
	Per string `json:"per,omitempty"`
	// Rate is how fast the bucket fills, such as 50/s.
	Rate Rate `json:"rate"`
	// Burst is the size of the bucket; unset: one second's worth.
	Burst int `json:"burst,omitempty"`
}

// Words is a list of words. The file may write one as it is.
type Words []string

// Limits bound requests.
type Limits struct {
	// Body is how long a request's body may be, such as 10MiB; a longer one is answered 413.
	Body Size `json:"body,omitempty"`
	// Concurrency is how many requests may be under way at a time; the next ones are answered 503.
	Concurrency int `json:"concurrency,omitempty"`
}

// CORS says which pages may use a route (cross-origin resource sharing).
type CORS struct {
	// Origins are those of the pages, such as https://shop.example.org; "*" is any.
	Origins []string `json:"origins"`
	// Methods may be used; none: the one that is asked for.
	Methods []string `json:"methods,omitempty"`
	// Headers may be sent; none: those that are asked for, unless credentials are allowed.
	Headers []string `json:"headers,omitempty"`
	// Expose are the headers of an answer that a page may read.
	Expose []string `json:"expose,omitempty"`
	// Credentials lets cookies through; the origins have to be named then.
	Credentials bool `json:"credentials,omitempty"`
	// MaxAge is how long a browser may remember the answer.
	MaxAge *Duration `json:"max_age,omitempty"`
}

// HeaderEdit changes header fields.
type HeaderEdit struct {
	// Set gives fields a value, in place of those that are there.
	Set map[string]string `json:"set,omitempty"`
	// Remove takes fields away.
	Remove []string `json:"remove,omitempty"`
}

// Redirect sends clients elsewhere.
type Redirect struct {
	// To is a URL or a path, in which {host}, {path} and {query} (with its question mark) stand for those of the request.
	To string `json:"to"`
	// Status is 301, 302, 303, 307 or 308; unset: 308.
	Status int `json:"status,omitempty"`
}

// Mirror sends copies of requests to a service.
type Mirror struct {
	// Service gets the copies.
	Service string `json:"service"`
	// Port is its port; unset: its only or first one.
	Port int `json:"port,omitempty"`
	// Share is the part of the requests that is copied; unset: 100%.
	Share *Share `json:"share,omitempty"`
}

// Split sends a part of a route's requests to another service: those with a header or cookie, or a share.
type Split struct {
	// Service gets them.
	Service string `json:"service"`
	// Port is its port; unset: its only or first one.
	Port int `json:"port,omitempty"`
	// Share is the part of the requests that are left by the splits before.
	Share Share `json:"share,omitempty"`
	// Header is one that requests have to have, with value.
	Header string `json:"header,omitempty"`
	// Cookie is one that requests have to have, with value.
	Cookie string `json:"cookie,omitempty"`
	// Value is that of the header or cookie.
	Value string `json:"value,omitempty"`
}
