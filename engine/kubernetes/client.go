package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"trellis/errdefs"
)

// Access says which cluster, as whom, and where in it. Kubeconfig files are found as kubectl finds them: KUBECONFIG, or
// .kube/config in the home, or the service account of the pod that this runs in.
type Access struct {
	Context   string // of the kubeconfig; "": its current one
	Namespace string // "": that of the context, or else NamespaceOf the project
}

// Client reaches one namespace of a cluster.
type Client struct {
	// Context is the name of the kubeconfig's context, "" inside a pod; Server the address of the API server.
	Context   string
	Server    string
	Namespace string

	dynamic  dynamic.Interface
	kinds    *kinds
	api      *rest.RESTClient // for what is no object: logs, commands, tunnels, and what there is at all
	settings *rest.Config

	silence time.Duration // how long a node may take to say what a pod has written

	written atomic.Uint64 // how often this process has written something, the Lease aside, which is renewed all the time

	node struct {
		sync.Mutex
		address string
		asked   time.Time
	}
	version struct {
		sync.Mutex
		is    *apiversion.Version // nil: it does not say
		asked time.Time
	}
}

// Dial reads the kubeconfig and opens no connection yet. There is none, or it has no such context: ErrInvalid.
func Dial(project string, a Access, log *slog.Logger) (*Client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	config := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: a.Context})
	raw, err := config.RawConfig()
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w: %w", errdefs.ErrInvalid, err)
	}
	contexts := slices.Sorted(maps.Keys(raw.Contexts))
	if name := a.Context; name != "" && raw.Contexts[name] == nil {
		return nil, fmt.Errorf("reach a cluster: %w: the kubeconfig has no context %q; it has %s", errdefs.ErrInvalid, name, orNone(contexts))
	}
	settings, err := config.ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err) && len(contexts) > 0:
		return nil, fmt.Errorf("reach a cluster: %w: the kubeconfig has no current context: choose one of %s with 'kubectl config use-context'",
			errdefs.ErrInvalid, strings.Join(contexts, ", "))
	case clientcmd.IsEmptyConfig(err):
		return nil, fmt.Errorf("reach a cluster: %w: there is no kubeconfig: KUBECONFIG names none, and %s is not there",
			errdefs.ErrUnavailable, clientcmd.RecommendedHomeFile)
	case err != nil:
		return nil, fmt.Errorf("read the kubeconfig: %w: %w", errdefs.ErrInvalid, err)
	}
	c := &Client{Context: cmp.Or(a.Context, raw.CurrentContext), Server: settings.Host, Namespace: a.Namespace, silence: silence}
	if current := raw.Contexts[c.Context]; current != nil && c.Namespace == "" {
		c.Namespace = current.Namespace
	}
	c.Namespace = cmp.Or(c.Namespace, NamespaceOf(project))
	settings.QPS = -1 // the server says when it is too much
	settings.WarningHandlerWithContext = warnings{log, &sync.Map{}}
	settings.UserAgent = fieldManager
	return c, c.open(settings)
}

// open makes the clients of c.
func (c *Client) open(settings *rest.Config) error {
	c.settings = settings
	shared, err := rest.HTTPClientFor(settings)
	if err != nil {
		return fmt.Errorf("read the kubeconfig: %w: %w", errdefs.ErrInvalid, err)
	}
	shared.Transport = counting{cmp.Or(shared.Transport, http.DefaultTransport), &c.written}
	if c.dynamic, err = dynamic.NewForConfigAndClient(settings, shared); err != nil {
		return fmt.Errorf("reach %s: %w", c.Server, err)
	}
	untyped := rest.CopyConfig(settings)
	untyped.NegotiatedSerializer = plain()
	if c.api, err = rest.UnversionedRESTClientForConfigAndClient(untyped, shared); err != nil {
		return fmt.Errorf("reach %s: %w", c.Server, err)
	}
	c.kinds = &kinds{api: c.api}
	return nil
}

// counting counts requests that change something, once they are answered: what is read from then on is what they made.
type counting struct {
	http.RoundTripper
	written *atomic.Uint64
}

// RoundTrip implements http.RoundTripper.
func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "/leases/") {
		c.written.Add(1)
	}
	return resp, err
}

// resource returns how objects of a kind are reached. The cluster has no such kind: ErrUnsupported.
func (c *Client) resource(kind schema.GroupVersionKind) (dynamic.ResourceInterface, error) {
	at, err := c.kinds.find(kind)
	switch {
	case err != nil:
		return nil, c.explain(err)
	case at.namespaced:
		return c.dynamic.Resource(at.GroupVersionResource).Namespace(c.Namespace), nil
	}
	return c.dynamic.Resource(at.GroupVersionResource), nil
}

// explain gives an answer of the API server, or the lack of one, its kind, and says what to do about it.
func (c *Client) explain(err error) error {
	var address *url.Error
	var status apierrors.APIStatus
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: %s does not accept the credentials of context %q (401): they may have expired; log in again as your cluster's provider says",
			errdefs.ErrUnavailable, c.Server, c.Context)
	case apierrors.IsForbidden(err) && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return fmt.Errorf("%w: namespace %s is being deleted and takes nothing new: wait until it is gone, or choose another one",
			errdefs.ErrConflict, c.Namespace)
	case apierrors.IsForbidden(err):
		if why, passing := rationed(messageOf(err), c.Namespace); passing {
			return fmt.Errorf("%w: %s", errdefs.ErrUnavailable, why)
		} else if why != "" {
			return fmt.Errorf("%w: %s", errdefs.ErrInvalid, why)
		}
		if denied(messageOf(err)) {
			return fmt.Errorf("%w: a policy of the cluster does not take it: %s", errdefs.ErrInvalid, messageOf(err))
		}
		return fmt.Errorf("%w: context %q may not do this (403): %s", errdefs.ErrUnavailable, c.Context, messageOf(err))
	case apierrors.IsTooManyRequests(err):
		return fmt.Errorf("%w: %s is asked too much and wants to be left alone for a while (429): repeat, what was done is not done again",
			errdefs.ErrUnavailable, c.Server)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: %s", errdefs.ErrNotFound, messageOf(err))
	case apierrors.IsConflict(err):
		return fmt.Errorf("%w: %s", errdefs.ErrConflict, messageOf(err))
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		return fmt.Errorf("%w: the cluster refuses it: %s", errdefs.ErrInvalid, messageOf(err))
	case apierrors.IsInternalError(err) && strings.Contains(messageOf(err), "webhook"):
		return fmt.Errorf("%w: a webhook of the cluster cannot be asked: %s", errdefs.ErrUnavailable, messageOf(err))
	case strings.Contains(messageOf(err), "field not declared in schema"): // which it calls an error of its own (500)
		return fmt.Errorf("%w: the cluster is too old for it, or what it has installed is: %s", errdefs.ErrInvalid, messageOf(err))
	case errors.As(err, &status):
		return fmt.Errorf("%w: %s answers: %s", errdefs.ErrUnavailable, c.Server, messageOf(err))
	case errors.As(err, &address):
		return fmt.Errorf("%w: no answer from the API server %s of context %q: %w", errdefs.ErrUnavailable, c.Server, c.Context, address.Err)
	case strings.Contains(err.Error(), "when reading response body"): // client-go's words, for which it has no type
		return fmt.Errorf("%w: the answer of the API server %s of context %q was cut short: %w", errdefs.ErrUnavailable, c.Server, c.Context, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: no answer from the API server %s of context %q in time", errdefs.ErrUnavailable, c.Server, c.Context)
	}
	return err
}

// messageOf is what the API server said.
func messageOf(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Message != "" {
		return status.Status().Message
	}
	return err.Error()
}

// warnings writes down what the API server warns of, each once.
type warnings struct {
	log  *slog.Logger
	told *sync.Map
}

// HandleWarningHeaderWithContext implements rest.WarningHandlerWithContext.
func (w warnings) HandleWarningHeaderWithContext(ctx context.Context, _ int, _ string, text string) {
	if _, again := w.told.LoadOrStore(text, true); !again {
		w.log.WarnContext(ctx, "the cluster warns", "message", text)
	}
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// selectProject finds every object that Trellis made for a project.
func selectProject(project string) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: labelManagedBy + "=" + managedBy + "," + labelProject + "=" + labelValue(project)}
}
