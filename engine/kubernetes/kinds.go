package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/rest"

	"trellis/errdefs"
)

// kinds is what a cluster says of the kinds of objects that it has. client-go's own client for that brings the Go types of every group
// of the API along (decision 148).
type kinds struct {
	api *rest.RESTClient

	mu  sync.Mutex
	has map[schema.GroupVersionKind]reached
}

// reached is how objects of a kind are reached.
type reached struct {
	schema.GroupVersionResource
	namespaced bool
}

// answersWithin is how long the API server may take to say what it has: client-go's time for the same questions.
const answersWithin = 32 * time.Second

// plain is for answers that are read here: it knows no more types than those by which the API server says what is wrong.
var plain = sync.OnceValue(func() runtime.NegotiatedSerializer {
	types := runtime.NewScheme()
	metav1.AddToGroupVersion(types, schema.GroupVersion{Version: "v1"})
	return serializer.NewCodecFactory(types).WithoutConversion()
})

// find asks once which kinds there are, and again for one that there was not: its definition may be new. The cluster has no such kind:
// ErrUnsupported.
func (k *kinds) find(kind schema.GroupVersionKind) (reached, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if found, ok := k.has[kind]; ok {
		return found, nil
	}
	if err := k.ask(kind.Group); err != nil {
		return reached{}, err
	}
	found, ok := k.has[kind]
	if !ok {
		return reached{}, fmt.Errorf("%w: the cluster has no %s (%s): install its definition first", errdefs.ErrUnsupported, kind.Kind, kind.GroupVersion())
	}
	return found, nil
}

// aggregated asks for all groups and versions in one answer, which Kubernetes gives for good from 1.30 on, as Trellis takes it.
const aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// groups is what is read of apidiscovery.k8s.io/v2's APIGroupDiscoveryList.
type groups struct {
	Kind  string
	Items []struct {
		Metadata struct{ Name string }
		Versions []struct {
			Version   string
			Resources []struct {
				Resource, Scope string
				ResponseKind    schema.GroupVersionKind
			}
		}
	}
}

// ask learns what kinds there are in the core group, which is "", or in all others.
func (k *kinds) ask(group string) error {
	root := "/apis"
	if group == "" {
		root = "/api"
	}
	var all groups
	if err := k.get(root, aggregated+","+runtime.ContentTypeJSON, &all); err != nil {
		return err
	}
	if all.Kind != "APIGroupDiscoveryList" {
		return fmt.Errorf("%w: the API server does not tell all kinds in one answer, as it does from Kubernetes 1.%d on, which Trellis takes", errdefs.ErrUnsupported, sleeps)
	}
	if k.has == nil {
		k.has = map[schema.GroupVersionKind]reached{}
	}
	for _, group := range all.Items {
		for _, v := range group.Versions {
			for _, r := range v.Resources {
				in := schema.GroupVersion{Group: group.Metadata.Name, Version: v.Version}
				k.has[in.WithKind(r.ResponseKind.Kind)] = reached{in.WithResource(r.Resource), r.Scope == "Namespaced"}
			}
		}
	}
	return nil
}

// resources returns what there is in one version of a group, as objects' apiVersion names it, but for the core group. There is none:
// apierrors.IsNotFound.
func (k *kinds) resources(version string) ([]metav1.APIResource, error) {
	var list metav1.APIResourceList
	err := k.get("/apis/"+version, runtime.ContentTypeJSON, &list)
	return list.APIResources, err
}

// version returns what the API server says of itself.
func (k *kinds) version() (string, error) {
	var is apiversion.Info
	err := k.get("/version", runtime.ContentTypeJSON, &is)
	return is.GitVersion, err
}

// get reads an answer into out.
func (k *kinds) get(path, accept string, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), answersWithin)
	defer cancel()
	body, err := k.api.Get().AbsPath(path).SetHeader("Accept", accept).Do(ctx).Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%w: the API server answers %s with what is no JSON of its kind: %w", errdefs.ErrUnavailable, path, err)
	}
	return nil
}
