//go:build tools

// Package tools pins the programs that build and check Trellis, apart from what Trellis itself links.
package tools

import _ "honnef.co/go/tools/cmd/staticcheck"
