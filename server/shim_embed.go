//go:build embedshim

package server

import _ "embed"

//go:embed trellis-shim.bin
var shimBinary []byte

func embeddedShim() []byte { return shimBinary }
