package provider

import (
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"terraform-provider-trellis/cli"
)

type outputsModel struct {
	Project      types.String     `tfsdk:"project"`
	Name         string           `tfsdk:"name"`
	Engine       string           `tfsdk:"engine"`
	Revision     *int64           `tfsdk:"revision"`
	Outcome      string           `tfsdk:"outcome"`
	GatewayHTTP  *string          `tfsdk:"gateway_http"`
	GatewayHTTPS *string          `tfsdk:"gateway_https"`
	Console      *string          `tfsdk:"console"`
	Prometheus   *string          `tfsdk:"prometheus"`
	OTLPGRPC     *string          `tfsdk:"otlp_grpc"`
	OTLPHTTP     *string          `tfsdk:"otlp_http"`
	Ports        map[string]int64 `tfsdk:"ports"`
}

func outputsSchema() schema.Schema {
	return schema.Schema{
		MarkdownDescription: "Where a running project is reached, and what it is at. What there is not is null.",
		Attributes: map[string]schema.Attribute{
			"name":          computedText("The project's name as it runs."),
			"engine":        computedText("Where it runs: `local` or `kubernetes`."),
			"revision":      computedNumber("The revision in force."),
			"outcome":       computedText("What came of that revision: `pending`, `healthy`, `failed` or `rolled-back`."),
			"gateway_http":  computedText("The gateway's address for HTTP."),
			"gateway_https": computedText("The gateway's address for HTTPS."),
			"console":       computedText("The web console's address."),
			"prometheus":    computedText("The address at which its metrics speak Prometheus' API."),
			"otlp_grpc":     computedText("The address that takes OTLP over gRPC."),
			"otlp_http":     computedText("The address that takes OTLP over HTTP."),
			"ports": schema.MapAttribute{
				MarkdownDescription: "The published ports by what they lead to: `web:80`, `dns:53/udp`.", Computed: true, ElementType: types.Int64Type,
			},
		},
	}
}

func readOutputs(_ context.Context, _ *cli.Command, _ cli.Project, s cli.Status) (outputsModel, error) {
	m := outputsModel{
		Name: s.Project, Engine: s.Engine, Revision: s.Revision, Outcome: s.Outcome, GatewayHTTP: s.Gateway.HTTP, GatewayHTTPS: s.Gateway.HTTPS,
		Console: s.Console, Prometheus: s.Metrics, OTLPGRPC: s.OTLP.GRPC, OTLPHTTP: s.OTLP.HTTP, Ports: map[string]int64{},
	}
	for _, svc := range s.Services {
		for _, port := range svc.Ports {
			key := fmt.Sprintf("%s:%d", svc.Name, port.Target)
			if port.Protocol != "" && port.Protocol != "tcp" {
				key += "/" + port.Protocol
			}
			if port.Published != nil {
				m.Ports[key] = *port.Published
			}
		}
	}
	return m, nil
}
