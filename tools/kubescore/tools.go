//go:build tools

// Package kubescore pins kube-score, which judges objects of Kubernetes, apart from the programs that build Trellis.
package kubescore

import _ "github.com/zegl/kube-score/cmd/kube-score"
