package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"terraform-provider-trellis/cli"
)

type servicesModel struct {
	Project  types.String            `tfsdk:"project"`
	Services map[string]serviceModel `tfsdk:"services"`
}

type serviceModel struct {
	State    string      `tfsdk:"state"`
	Want     int64       `tfsdk:"want"`
	Ready    int64       `tfsdk:"ready"`
	Revision *int64      `tfsdk:"revision"`
	Reason   *string     `tfsdk:"reason"`
	Ports    []portModel `tfsdk:"ports"`
}

type portModel struct {
	Target    int64  `tfsdk:"target"`
	Published *int64 `tfsdk:"published"`
	HostIP    string `tfsdk:"host_ip"`
	Protocol  string `tfsdk:"protocol"`
}

func servicesSchema() schema.Schema {
	return schema.Schema{
		MarkdownDescription: "The services of a running project and how they stand, at the moment at which Terraform asks.",
		Attributes: map[string]schema.Attribute{
			"services": schema.MapNestedAttribute{
				MarkdownDescription: "By name.", Computed: true,
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"state":    computedText("`healthy`, `starting`, `degraded` (some instances ready), `crash-looping`, `stopped`, `completed` (ran to its end) or `failed`."),
					"want":     computedNumber("How many instances are wanted."),
					"ready":    computedNumber("How many of them are ready."),
					"revision": computedNumber("The revision of its newest instance; null where there is none."),
					"reason":   computedText("Why it is not healthy; null where it is."),
					"ports": schema.ListNestedAttribute{
						MarkdownDescription: "Its published ports.", Computed: true,
						NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
							"target":    computedNumber("The port inside."),
							"published": computedNumber("The port outside; null where there is none."),
							"host_ip":   computedText("The address it is published at; empty for all."),
							"protocol":  computedText("`tcp` or `udp`."),
						}},
					},
				}},
			},
		},
	}
}

func readServices(_ context.Context, _ *cli.Command, _ cli.Project, s cli.Status) (servicesModel, error) {
	m := servicesModel{Services: map[string]serviceModel{}}
	for _, svc := range s.Services {
		one := serviceModel{State: svc.State, Want: svc.Want, Ready: svc.Ready, Revision: svc.Revision, Ports: []portModel{}}
		if svc.Reason != "" {
			one.Reason = &svc.Reason
		}
		for _, port := range svc.Ports {
			one.Ports = append(one.Ports, portModel{Target: port.Target, Published: port.Published, HostIP: port.HostIP, Protocol: port.Protocol})
		}
		m.Services[svc.Name] = one
	}
	return m, nil
}
