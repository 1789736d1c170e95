//go:build tools

// Package helm pins Helm, beside which an apply to a cluster is measured, apart from the programs that build Trellis.
package helm

import _ "helm.sh/helm/v3/cmd/helm"
