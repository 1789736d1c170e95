package compose

// The x-trellis keys, by the node they stand on. An unknown key is an error. The comments of the fields are the
// descriptions in the JSON Schema, and the support matrix says which of them are carried out.

// ProjectExtension is x-trellis at the top of the file.
type ProjectExtension struct {
	// Gateway is the front door of the project.
	Gateway *Gateway `json:"gateway,omitempty"`
	// Auth holds the ways a caller can prove who it is, by the name that routes use.
	Auth map[string]AuthScheme `json:"auth,omitempty"`
	// Topics are the named streams of events that services publish and subscribe.
	Topics map[string]Topic `json:"topics,omitempty"`
	// Alerts says where alerts go.
	Alerts *Alerts `json:"alerts,omitempty"`
	// Forward sends everything that the project tells of itself onwards.
	Forward *TelemetryForward `json:"forward,omitempty"`
	// Environments says where each environment of the project runs; `--environment NAME` picks one.
	Environments map[string]EnvironmentRef `json:"environments,omitempty"`
	// Load holds load profiles for `trellis load NAME`.
	Load map[string]LoadProfile `json:"load,omitempty"`
}

// Gateway is the front door that routes are mounted on.
type Gateway struct {
	// HTTP is the listen address; ":8080" where it is unset and there are routes.
	HTTP string `json:"http,omitempty"`
	// HTTPS is the listen address for TLS, ":8443" for example.
	HTTPS string `json:"https,omitempty"`
	// ProxyProtocol names the addresses of balancers in front of http and https, such as 10.0.0.0/24: their connections have
	// to begin with a header of the PROXY protocol, version 2, which says who the client is. Other connections are served as
	// they are.
	ProxyProtocol []string `json:"proxy_protocol,omitempty"`
	// TrustedProxies names the addresses of what speaks HTTP in front of http and https, such as a balancer or another gateway:
	// who the client is, and whether it came over TLS, is what their X-Forwarded-For and X-Forwarded-Proto say. Of others both
	// are dropped.
	TrustedProxies []string `json:"trusted_proxies,omitempty"`
	// Shift leads a share of the requests to another gateway, as when the project moves to another place under load.
	Shift *Shift `json:"shift,omitempty"`
	// Hosts are the names the gateway answers to; none: any.
	Hosts []string `json:"hosts,omitempty"`
	// ACME asks a certificate authority for the certificates of Hosts, and for new ones when two thirds of their life are
	// over. The authority comes to port 80 or 443 of each name to see that it is this gateway's. Asking says that its terms
	// are agreed to.
	ACME *ACME `json:"acme,omitempty"`
	// Certificates are those of https; none: a certificate authority of this machine, which trellis cert trust makes known
	// to its browsers, issues one for Hosts.
	Certificates []GatewayCertificate `json:"certificates,omitempty"`
	// ClientCertificates is optional or required. Where a scheme of auth takes client certificates, https asks every client
	// for one; required has the connections of those fail that show none which a scheme takes.
	ClientCertificates string `json:"client_certificates,omitempty"`
	// RedirectHTTPS sends requests over http to https.
	RedirectHTTPS bool `json:"redirect_https,omitempty"`
	// HSTS is how long browsers are to come over https alone (Strict-Transport-Security); unset: they are not told.
	HSTS *Duration `json:"hsts,omitempty"`
	// Policy is what a route gets that does not decide for itself.
	Policy *Policy `json:"policy,omitempty"`
	// AccessLog is the share of requests that the access log has, from 0 to 1; what fails is in it in any case. Unset: there
	// is none. It is the file access.log in the project's state folder, one JSON object a line.
	AccessLog float64 `json:"access_log,omitempty" trellis:"zero"`
}

// Shift leads requests to another gateway, as they came: the routes there decide about them.
type Shift struct {
	// To is the URL of the other gateway, such as https://203.0.113.7:8443, without a path.
	To string `json:"to"`
	// Share is the part of the requests that goes there, such as 10%; unset: none.
	Share Share `json:"share,omitempty" trellis:"zero"`
	// ServerName is the name that the certificate of an https gateway is for; unset: the host of to.
	ServerName string `json:"server_name,omitempty"`
	// CA is a secret with the certificates, as PEM, of the authority of that certificate; unset: those that the machine trusts.
	CA string `json:"ca,omitempty"`
}

// GatewayCertificate names the secrets that hold a certificate and its key, both as PEM.
type GatewayCertificate struct {
	// Certificate is the secret with the certificate, followed by those that lead to its root.
	Certificate string `json:"certificate"`
	// Key is the secret with the private key.
	Key string `json:"key"`
}

// ACME says how certificates are asked for.
type ACME struct {
	// Email is the address of the account, for news from the authority; unset: it has none.
	Email string `json:"email,omitempty"`
	// Directory is the URL of the certificate authority; unset: Let's Encrypt.
	Directory string `json:"directory,omitempty"`
}

// Policy is the gateway's default decision for its routes.
type Policy struct {
	// Auth names a scheme of x-trellis.auth; "none" lets everyone in and must be written out.
	Auth string `json:"auth,omitempty"`
	// RateLimit is the limit of routes that have none of their own.
	RateLimit *RateLimit `json:"rate_limit,omitempty"`
	// Limits are those of routes that have none of their own.
	Limits *Limits `json:"limits,omitempty"`
	// CORS is that of routes that have none of their own.
	CORS *CORS `json:"cors,omitempty"`
	// ResponseHeaders are edited on routes that do not edit any themselves.
	ResponseHeaders *HeaderEdit `json:"response_headers,omitempty"`
	// SecurityHeaders tells browsers to be careful: X-Content-Type-Options and the like, where the program says nothing.
	SecurityHeaders bool `json:"security_headers,omitempty"`
	// Compress makes texts smaller with zstd or gzip, as the client takes it.
	Compress bool `json:"compress,omitempty"`
}

// AuthScheme is one way to prove who calls; exactly one of jwt, api_keys, client_certificate and forward is set.
type AuthScheme struct {
	// JWT accepts signed tokens of an issuer.
	JWT *JWT `json:"jwt,omitempty"`
	// APIKeys accepts the keys listed in a secret.
	APIKeys *APIKeys `json:"api_keys,omitempty"`
	// ClientCertificate accepts the certificates of an authority, shown over the gateway's https.
	ClientCertificate *ClientCertificate `json:"client_certificate,omitempty"`
	// Forward asks a service whether a request may pass.
	Forward *Forward `json:"forward,omitempty"`
	// Claims are passed on to the program, by the request header they are in; unset: X-Trellis-Subject has the claim sub.
	// No client can set these headers.
	Claims map[string]string `json:"claims,omitempty"`
}

// Forward asks a service of the project, which sees the request's header: an answer 2xx lets it in, anything else below 500
// is the client's answer.
type Forward struct {
	// Service is the one that is asked.
	Service string `json:"service"`
	// Port is its port; unset: its only or first one.
	Port int `json:"port,omitempty"`
	// Path is what is asked for.
	Path string `json:"path"`
	// Headers of its answer are passed on to the program. No client can set them.
	Headers []string `json:"headers,omitempty"`
}

// JWT says which tokens are accepted.
type JWT struct {
	// Issuer is what the token's iss claim must be.
	Issuer string `json:"issuer"`
	// JWKS is the URL of the issuer's public keys; unset: as its discovery document says.
	JWKS string `json:"jwks,omitempty"`
	// Audience is what the token's aud claim must contain.
	Audience string `json:"audience"`
	// Algorithms are the signatures that are accepted; unset: RS256, PS256, ES256 and EdDSA.
	Algorithms []string `json:"algorithms,omitempty"`
}

// ClientCertificate says which client certificates are accepted: those for clients (extended key usage clientAuth) that lead
// to one of the authorities. The subject is the first URI of the certificate (such as a SPIFFE ID), DNS name or address of
// mail, else its common name; claims are uri, dns, email, cn, o, ou, serial and fingerprint.
type ClientCertificate struct {
	// CA names the secret of the file that holds the certificates of the authorities, as PEM.
	CA string `json:"ca"`
}

// APIKeys says where the accepted keys are.
type APIKeys struct {
	// Secret names the secret of the file that lists the keys.
	Secret string `json:"secret"`
}

// Topic is one named stream of events.
type Topic struct {
	// Retention is how long events are kept.
	Retention *Duration `json:"retention,omitempty"`
}

// Alerts says where alerts go.
type Alerts struct {
	// Webhook is the URL that alerts are posted to.
	Webhook string `json:"webhook,omitempty"`
	// WebhookSecret names the secret that holds that URL, where whoever knows it could post there too.
	WebhookSecret string `json:"webhook_secret,omitempty"`
	// Format is what is posted: alertmanager, the payload of Prometheus' Alertmanager, or slack, a text as Slack's incoming
	// webhooks and those of many others take it. Unset: slack at Slack's own address, else alertmanager.
	Format string `json:"format,omitempty"`
	// Rules are names of configs that hold Prometheus rule files, as Prometheus itself takes them.
	Rules []string `json:"rules,omitempty"`
}

// TelemetryForward says where metrics, traces and logs go besides the stores of Trellis.
type TelemetryForward struct {
	// OTLP is the address of a receiver that speaks OTLP over HTTP, such as https://otlp.example.org; /v1/traces, /v1/logs
	// and /v1/metrics are added to it.
	OTLP string `json:"otlp,omitempty"`
	// Headers are sent along, by their names; the values are names of secrets that hold them: {Authorization: otlp_token}.
	Headers map[string]string `json:"headers,omitempty"`
	// RemoteWrite sends metrics, and what alerts are recorded as, to a receiver of Prometheus' remote write.
	RemoteWrite *RemoteWrite `json:"remote_write,omitempty"`
}

// RemoteWrite is a receiver of Prometheus' remote write.
type RemoteWrite struct {
	// URL is its whole address, such as https://prometheus.example.org/api/v1/write.
	URL string `json:"url"`
	// Headers are sent along, by their names; the values are names of secrets that hold them.
	Headers map[string]string `json:"headers,omitempty"`
}

// EnvironmentRef says where an environment of the project runs.
type EnvironmentRef struct {
	// On is the engine: local or kubernetes.
	On string `json:"on,omitempty"`
	// Context is the context of the kubeconfig.
	Context string `json:"context,omitempty"`
	// Namespace is the namespace in the cluster.
	Namespace string `json:"namespace,omitempty"`
	// GatewayClass is the class of the cluster's Gateway API whose gateway has the routes.
	GatewayClass string `json:"gateway_class,omitempty"`
	// Mesh is the mesh of the cluster that the project's pods are put into: istio or linkerd. It proves who calls, and lets in who may, as calls has it.
	// Unset: none.
	Mesh string `json:"mesh,omitempty"`
	// Monitoring is what in the cluster looks at metrics besides Trellis: prometheus-operator gets a PodMonitor for all that exposes
	// some, and a PrometheusRule of objectives and alerts. Unset: nothing.
	Monitoring string `json:"monitoring,omitempty"`
	// Autoscaler is what of the cluster scales services that have autoscale: keda. Unset: Kubernetes itself.
	Autoscaler string `json:"autoscaler,omitempty"`
	// TTL is how long a deploy lives: then the project is taken down and its volumes are deleted, unless it was deployed
	// anew. Unset: until it is taken down.
	TTL *Duration `json:"ttl,omitempty"`
	// PerBranch has every branch of the repository be a copy of its own, named NAME-ENVIRONMENT-BRANCH.
	PerBranch bool `json:"per_branch,omitempty"`
}

// LoadProfile is a named shape of traffic.
type LoadProfile struct {
	// Stages follow one another.
	Stages []LoadStage `json:"stages,omitempty"`
	// Scenario is the file that says what one visitor does, relative to the project directory; unset: GET / each time.
	Scenario string `json:"scenario,omitempty"`
	// Arrivals says how starts arrive: constant (default, evenly spaced) or poisson (as independent visitors do).
	Arrivals string `json:"arrivals,omitempty"`
}

// LoadStage is one part of a load profile.
type LoadStage struct {
	// Rate is how many visits of the scenario, or requests, are started, such as 50/s.
	Rate Rate `json:"rate"`
	// For is how long the stage lasts.
	For Duration `json:"for"`
	// Ramp is the first part of For, in which the rate changes evenly from the stage before.
	Ramp *Duration `json:"ramp,omitempty"`
}

// DeployExtension is x-trellis of deploy.
type DeployExtension struct {
	// Autoscale bounds and targets the replicas.
	Autoscale *Autoscale `json:"autoscale,omitempty"`
	// Canary gives the first new instances of a rollout a growing part of the traffic before the rest are replaced.
	Canary *Canary `json:"canary,omitempty"`
}

// Canary is the first part of a rollout: new instances beside the old ones, none of which goes before it has passed.
type Canary struct {
	// Steps are the parts of the traffic that the new instances get one after the other, such as [5%, 25%, 50%].
	Steps []Share `json:"steps"`
	// Interval is how long each step lasts; unset: 30s.
	Interval *Duration `json:"interval,omitempty"`
}

// Autoscale bounds and targets the replicas of a service.
type Autoscale struct {
	// Min is the least number of replicas; with 0 the service sleeps while nobody calls, and the first request wakes it.
	Min int `json:"min"`
	// Max is the largest number of replicas.
	Max int `json:"max"`
	// Target is what one replica should carry: concurrency (requests at a time, and no replica is given more), rps (requests
	// a second) or cpu (share of its limit). Of several the one that asks for most replicas decides.
	Target map[string]float64 `json:"target,omitempty"`
	// Window is over how long the load is averaged; a tenth of it notices a sudden rise. Unset: 60s.
	Window *Duration `json:"window,omitempty"`
	// DownDelay is how long fewer replicas have to be enough before some are stopped. Unset: 30s.
	DownDelay *Duration `json:"down_delay,omitempty"`
}

// ServiceExtension is x-trellis of a service.
type ServiceExtension struct {
	// Process says how the service runs as a process instead of a container.
	Process *Process `json:"process,omitempty"`
	// ImageID is what the image of the service was, by its content, when a deploy built or pulled it. Load leaves it empty.
	ImageID string `json:"image_id,omitempty" trellis:"internal"`
	// Probe is the readiness probe, asked for as long as an instance lives.
	Probe *Probe `json:"probe,omitempty"`
	// Objective is what the service promises.
	Objective *Objective `json:"objective,omitempty"`
	// Metrics says where instances expose metrics in a format of Prometheus'; unset: at /metrics, where that answers so.
	Metrics *Metrics `json:"metrics,omitempty"`
	// Calls are the services that this one may call. The first calls of a project turns on deny for all of it.
	Calls []string `json:"calls,omitempty"`
	// TLS is mutual where the program speaks TLS at its ports with the certificate that identity gives it, and wants to be
	// shown one by who calls. Calls that reach it through Trellis are made so, as the service that calls
	// (spiffe://PROJECT/service/NAME), or as spiffe://PROJECT/gateway where they come from outside; a caller may as well speak
	// TLS itself. Unset: none.
	TLS string `json:"tls,omitempty"`
	// Identity gives instances the service's certificate (an X.509-SVID of SPIFFE), its key and the roots of the project as
	// files that are replaced before they expire: svid.pem, svid_key.pem and svid_bundle.pem in the folder that the variable
	// TRELLIS_IDENTITY names. A service with tls mutual has them in any case.
	Identity bool `json:"identity,omitempty"`
	// Breaker bounds what instances are asked at a time, and says when one is asked no more.
	Breaker *Breaker `json:"breaker,omitempty"`
	// Publishes are the topics that this service may write.
	Publishes []string `json:"publishes,omitempty"`
	// Subscribes are the topics whose events are delivered to this service.
	Subscribes []Subscription `json:"subscribes,omitempty"`
	// Backup says how to save the data of the service's volumes while it runs; a command alone is its command.
	Backup *Backup `json:"backup,omitempty"`
}

// Breaker keeps callers from asking more of a service than it can do.
type Breaker struct {
	// Concurrency is how many requests, streams and connections one instance works on at a time; the next ones wait for as
	// long as any request waits for an instance. Unset: any number.
	Concurrency int `json:"concurrency,omitempty"`
	// Pending is how many requests wait at a time; the next ones are answered 503 at once. Unset: 10,000.
	Pending int `json:"pending,omitempty"`
	// Failures is how many failures in a row have an instance asked no more, for a second at first and up to 30 s, unless
	// more than half of the instances fail: answers of 5xx, and those that broke off or never came. Unset: five, and answers of
	// 5xx don't count.
	Failures int `json:"failures,omitempty"`
}

// Backup says how a running service's data is saved, in place of its volumes' files.
type Backup struct {
	// Command runs inside an instance; its standard output is the backup. A string is a line for the shell.
	Command ShellCommand `json:"command"`
	// Restore runs inside an instance of the restored project, with the backup as its standard input.
	Restore ShellCommand `json:"restore,omitempty"`
}

// ShellCommand is a program and its arguments. The file may write it as a string, a line for /bin/sh.
type ShellCommand []string

// Process says how a service runs as a process of this machine.
type Process struct {
	// Build is a shell command line, run in Dir.
	Build string `json:"build,omitempty"`
	// Artifacts are the files or folders that Build makes, relative to Dir.
	Artifacts []string `json:"artifacts,omitempty"`
	// Command is what runs; unset: entrypoint and command of the service.
	Command []string `json:"command,omitempty"`
	// Dir is where Build runs, relative to the project directory, which it is where it is unset.
	Dir string `json:"dir,omitempty"`
	// Base is the image that the artifacts are put upon for a cluster that runs them, where they need more than themselves: an
	// interpreter, or shared libraries. Unset: none, and the program has to be a static one.
	Base string `json:"base,omitempty"`
	// TimerSlack is how much later than asked the kernel may end a sleep of the program, so that what is due at about the
	// same time wakes it once; from 1us to 100ms. Unset: 50us, the kernel's own.
	TimerSlack *Duration `json:"timer_slack,omitempty"`
	// Artifact is the digest of the artefacts' content in the artefact store. Load leaves it empty; a build fills it.
	Artifact string `json:"artifact,omitempty" trellis:"internal"`
	// Watched says that the instances work in a copy of the artefacts that may be written to, as develop.watch asks while
	// somebody watches. Load leaves it false.
	Watched bool `json:"watched,omitempty" trellis:"internal"`
}

// Probe is the readiness probe; exactly one of HTTP, TCP and GRPC is set.
type Probe struct {
	// HTTP is a path; an answer from 200 to 399 is ready.
	HTTP string `json:"http,omitempty"`
	// TCP is ready when the port accepts a connection. A number stands for the port.
	TCP bool `json:"tcp,omitempty"`
	// GRPC asks grpc.health.v1 for the service of this name; true, "-" here, asks for the server as a whole.
	GRPC string `json:"grpc,omitempty"`
	// Port is the port inside the instance; unset: the service's only or first one.
	Port int `json:"port,omitempty"`
	// Scheme of an HTTP probe: http (default) or https, whose certificate is not verified.
	Scheme string `json:"scheme,omitempty"`
	// Liveness starts an instance again whose probe has failed three times as often as takes it out of rotation. On
	// Kubernetes only where this is true; elsewhere always.
	Liveness bool `json:"liveness,omitempty"`
}

// Objective is a service-level objective.
type Objective struct {
	// Availability is the share of good requests, written as 99.9% or 0.999.
	Availability Share `json:"availability,omitempty"`
	// Latency bounds percentiles: p99: 250ms.
	Latency map[string]Duration `json:"latency,omitempty"`
}

// Metrics is where the instances of a service expose their metrics.
type Metrics struct {
	// Path is asked by GET; unset: /metrics.
	Path string `json:"path,omitempty"`
	// Port is the port inside the instance; unset: the first one of the service.
	Port int `json:"port,omitempty"`
}

// Subscription delivers the events of a topic to a path of the service.
type Subscription struct {
	// Topic is the name of the topic.
	Topic string `json:"topic"`
	// Path is where each event is posted to.
	Path string `json:"path"`
	// MaxInFlight is how many events are delivered at a time; unset: 16.
	MaxInFlight int `json:"max_in_flight,omitempty"`
	// Retries is how often an event is delivered again before it is set aside; unset: 8.
	Retries int `json:"retries,omitempty"`
}
