package kubernetes

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"

	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"trellis/errdefs"
)

// isDefaultClass marks the storage class of claims that name none.
const isDefaultClass = "storageclass.kubernetes.io/is-default-class"

// durable says whether the control plane gets a volume: it has one, or the cluster has a storage class for claims that name none.
// Who may not look at storage classes is believed to have none: a pod that waits for its volume would wait for ever.
func (e *Engine) durable(ctx context.Context, image string, live Live) (bool, error) {
	if image == "" {
		return false, nil
	}
	if slices.ContainsFunc(live.Objects, func(o Object) bool {
		return o.GetName() == controlName(e.project) && o.GetObjectKind().GroupVersionKind().GroupKind() == persistentVolumeClaims.GroupKind()
	}) {
		return true, nil
	}
	r, err := e.client.resource(storagev1.SchemeGroupVersion.WithKind("StorageClass"))
	if errors.Is(err, errdefs.ErrUnsupported) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	list, err := r.List(ctx, metav1.ListOptions{})
	if apierrors.IsForbidden(err) {
		return false, nil
	}
	if err != nil {
		return false, e.client.explain(err)
	}
	for _, class := range list.Items {
		if class.GetAnnotations()[isDefaultClass] == "true" {
			return true, nil
		}
	}
	return false, nil
}

// planeKey is what the data plane is asked with for what it has measured, made of the key that the cluster keeps for the project.
func planeKey(key []byte) string {
	if len(key) == 0 {
		return ""
	}
	sum := hmac.New(sha256.New, key)
	sum.Write([]byte("data plane"))
	return hex.EncodeToString(sum.Sum(nil))
}
