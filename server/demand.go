package server

import (
	"context"

	"trellis/engine/local"
	"trellis/proxy"
)

var _ local.Demander = (*plane)(nil)

// Demand implements local.Demander.
func (p *plane) Demand(ctx context.Context, told func(proxy.Demands)) error {
	return followPlanes(ctx, localPlanes{p.location}, "/demand", told)
}
