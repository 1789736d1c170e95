package server

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"trellis/autoscale"
	"trellis/engine/kubernetes"
	"trellis/errdefs"
)

// ServeMetricsAPI serves the external metrics of every project in the cluster that this runs in, with the account of its pod, by which
// the cluster's autoscalers go. namespace is where its Service is. It blocks until ctx is done.
func ServeMetricsAPI(ctx context.Context, namespace string, log *slog.Logger) error {
	fail := func(err error) error { return fmt.Errorf("serve external metrics: %w", err) }
	client, err := kubernetes.Dial("", kubernetes.Access{Namespace: namespace}, log)
	if err != nil {
		return fail(err)
	}
	certificate, authority, err := selfSigned(kubernetes.MetricsService + "." + namespace + ".svc")
	if err != nil {
		return fail(err)
	}
	m := newMetricsAPI((&controlPlanes{find: client.ControlPlane}).loads, log)
	secure, err := tls.Listen("tcp", ":"+strconv.Itoa(kubernetes.MetricsPort), &tls.Config{
		Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2", "http/1.1"},
	})
	if err != nil {
		return fail(err)
	}
	health, err := net.Listen("tcp", ":"+strconv.Itoa(kubernetes.HealthPort))
	if err != nil {
		_ = secure.Close()
		return fail(err)
	}
	ready := http.NewServeMux()
	ready.HandleFunc("GET "+kubernetes.HealthPath, func(w http.ResponseWriter, _ *http.Request) {
		if m.known.Load() == nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serveHTTP(ctx, secure, m, log) })
	g.Go(func() error { return serveHTTP(ctx, health, ready, log) })
	g.Go(func() error {
		m.keepRegistered(ctx, client, authority)
		return nil
	})
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return fail(err)
	}
	return nil
}

// metricsAPI answers the API server, and nobody else.
type metricsAPI struct {
	loads   loadsOf
	known   atomic.Pointer[kubernetes.FrontProxy] // nil: not asked yet
	answers *http.ServeMux
	log     *slog.Logger
}

// loadsOf returns the load of a project's services, by their names in the cluster.
type loadsOf func(ctx context.Context, namespace, project string) (map[string]kubernetes.Load, error)

func newMetricsAPI(loads loadsOf, log *slog.Logger) *metricsAPI {
	m := &metricsAPI{loads: loads, answers: http.NewServeMux(), log: log}
	const root = "/apis/" + kubernetes.MetricsVersion
	m.answers.HandleFunc("GET "+root, m.resources)
	m.answers.HandleFunc("GET "+root+"/namespaces/{namespace}/{metric}", m.values)
	m.answers.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusNotFound, "there is nothing at "+r.URL.Path)
	})
	return m
}

// How often is looked whether the cluster knows this process and how the API server is known, and how soon again where it did not say.
const (
	registerEvery = time.Minute
	registerAgain = 2 * time.Second
)

// keepRegistered has the API server believe authority, and this process know the API server, until ctx is done.
func (m *metricsAPI) keepRegistered(ctx context.Context, client *kubernetes.Client, authority []byte) {
	for {
		pause := registerEvery
		known, err := client.FrontProxy(ctx)
		if err == nil {
			m.known.Store(&known)
			err = client.TrustMetrics(ctx, authority)
		}
		if err != nil && ctx.Err() == nil {
			m.log.Warn("not registered; tried again", "err", err)
			pause = registerAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// ServeHTTP implements http.Handler. Whether the user may read metrics the API server has asked before it passes a request on.
func (m *metricsAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if code, why := m.refusal(r); code != 0 {
		reply(w, code, why)
		return
	}
	m.answers.ServeHTTP(w, r)
}

// refusal says why a request is not answered; 0: it comes from the API server.
func (m *metricsAPI) refusal(r *http.Request) (code int, why string) {
	known := m.known.Load()
	switch {
	case known == nil:
		return http.StatusServiceUnavailable, "it is not known yet by what the API server is known"
	case r.TLS == nil || len(r.TLS.PeerCertificates) == 0:
		return http.StatusUnauthorized, "only the API server is answered, which shows a certificate"
	}
	given, between := r.TLS.PeerCertificates[0], x509.NewCertPool()
	for _, c := range r.TLS.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := given.Verify(x509.VerifyOptions{Roots: known.Authorities, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	switch {
	case err != nil:
		return http.StatusUnauthorized, "only the API server is answered, and this is not its certificate"
	case len(known.Names) > 0 && !slices.Contains(known.Names, given.Subject.CommonName):
		return http.StatusForbidden, fmt.Sprintf("%q may not speak for the API server", given.Subject.CommonName)
	}
	return 0, ""
}

func (m *metricsAPI) resources(w http.ResponseWriter, _ *http.Request) {
	list := metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"}, GroupVersion: kubernetes.MetricsVersion, APIResources: []metav1.APIResource{},
	}
	for name := range kubernetes.ExternalMetrics() {
		list.APIResources = append(list.APIResources, metav1.APIResource{Name: name, Namespaced: true, Kind: "ExternalMetricValueList", Verbs: []string{"get"}})
	}
	slices.SortFunc(list.APIResources, func(a, b metav1.APIResource) int { return strings.Compare(a.Name, b.Name) })
	answerJSON(w, http.StatusOK, list)
}

// metricValues is an ExternalMetricValueList of k8s.io/metrics.
type metricValues struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []metricValue `json:"items"`
}

type metricValue struct {
	Name      string            `json:"metricName"`
	Labels    map[string]string `json:"metricLabels"`
	Timestamp metav1.Time       `json:"timestamp"`
	Window    int64             `json:"window"` // seconds
	Value     resource.Quantity `json:"value"`
}

// values answers for one service. What is not known is an error, so that its autoscaler leaves the service as it is.
func (m *metricsAPI) values(w http.ResponseWriter, r *http.Request) {
	namespace, name := r.PathValue("namespace"), r.PathValue("metric")
	metric, ok := kubernetes.ExternalMetrics()[name]
	if !ok {
		reply(w, http.StatusNotFound, "there is no external metric "+name)
		return
	}
	selected, err := labels.ConvertSelectorToLabelsMap(r.URL.Query().Get("labelSelector"))
	project, service := kubernetes.Measured(selected)
	if err != nil || project == "" || service == "" {
		reply(w, http.StatusBadRequest, "an external metric is that of one service: the selector has to name project and service as their pods' labels do")
		return
	}
	all, err := m.loads(r.Context(), namespace, project)
	if err != nil {
		reply(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	load, ok := all[service]
	if !ok {
		reply(w, http.StatusServiceUnavailable, fmt.Sprintf("nothing is measured of service %s of %s", service, project))
		return
	}
	value := load.RPS
	if metric == autoscale.Concurrency {
		value = load.Concurrency
	}
	answerJSON(w, http.StatusOK, metricValues{
		TypeMeta: metav1.TypeMeta{APIVersion: kubernetes.MetricsVersion, Kind: "ExternalMetricValueList"},
		Items: []metricValue{{
			Name: name, Labels: selected, Timestamp: metav1.Now(), Window: int64(loadWindow.Seconds()),
			Value: *resource.NewMilliQuantity(int64(math.Round(value*1000)), resource.DecimalSI),
		}},
	})
}

// reply answers with an error as an API server does.
func reply(w http.ResponseWriter, code int, why string) {
	reasons := map[int]metav1.StatusReason{
		http.StatusUnauthorized: metav1.StatusReasonUnauthorized, http.StatusForbidden: metav1.StatusReasonForbidden, http.StatusNotFound: metav1.StatusReasonNotFound,
		http.StatusBadRequest: metav1.StatusReasonBadRequest, http.StatusServiceUnavailable: metav1.StatusReasonServiceUnavailable,
	}
	answerJSON(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reasons[code], Message: why,
	})
}

func answerJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // who asked has gone
}

// controlPlanes ask the control planes of projects for the load of their services. It is safe for concurrent use.
type controlPlanes struct {
	find func(ctx context.Context, namespace, project string) (host string, err error)
	port int // 0: kubernetes.HealthPort

	mu   sync.Mutex
	kept map[string]*keptLoads // by namespace and project
}

// keptLoads are kept for a second: every service of a project is asked for at the same moments.
type keptLoads struct {
	at  time.Time
	all map[string]kubernetes.Load
}

const (
	keptLoad     = time.Second
	askedLoad    = 5 * time.Second // for how long at most a control plane is asked
	largestLoads = 4 << 20         // bytes of an answer
)

// loads is a loadsOf.
func (c *controlPlanes) loads(ctx context.Context, namespace, project string) (map[string]kubernetes.Load, error) {
	key := namespace + "/" + project
	c.mu.Lock()
	kept := c.kept[key]
	c.mu.Unlock()
	if kept != nil && time.Since(kept.at) < keptLoad {
		return kept.all, nil
	}
	all, err := c.ask(ctx, namespace, project)
	if err != nil {
		return nil, fmt.Errorf("ask the control plane of %s in namespace %s for its load: %w", project, namespace, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept == nil {
		c.kept = map[string]*keptLoads{}
	}
	for other, one := range c.kept {
		if time.Since(one.at) > time.Minute {
			delete(c.kept, other)
		}
	}
	c.kept[key] = &keptLoads{time.Now(), all}
	return all, nil
}

func (c *controlPlanes) ask(ctx context.Context, namespace, project string) (map[string]kubernetes.Load, error) {
	ctx, cancel := context.WithTimeout(ctx, askedLoad)
	defer cancel()
	host, err := c.find(ctx, namespace, project)
	if err != nil {
		return nil, err
	}
	resp, err := askPod(ctx, host, cmp.Or(c.port, kubernetes.HealthPort), kubernetes.LoadPath, "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var all map[string]kubernetes.Load
	if err := json.NewDecoder(io.LimitReader(resp.Body, largestLoads)).Decode(&all); err != nil {
		return nil, fmt.Errorf("%w: its answer: %w", errdefs.ErrUnavailable, err)
	}
	return all, nil
}

// selfSigned makes a certificate for a server by its name, and the authority to believe it by. Its key is nowhere but here.
func selfSigned(name string) (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0), // it goes with the process
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
