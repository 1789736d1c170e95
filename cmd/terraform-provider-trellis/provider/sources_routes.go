package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"terraform-provider-trellis/cli"
)

type routesModel struct {
	Project types.String `tfsdk:"project"`
	Routes  []routeModel `tfsdk:"routes"`
}

type routeModel struct {
	Host    string   `tfsdk:"host"`
	Path    string   `tfsdk:"path"`
	Methods []string `tfsdk:"methods"`
	Service string   `tfsdk:"service"`
	Port    int64    `tfsdk:"port"`
	Auth    string   `tfsdk:"auth"`
	Rules   []string `tfsdk:"rules"`
	Closed  *string  `tfsdk:"closed"`
	Source  string   `tfsdk:"source"`
	Address string   `tfsdk:"address"`
}

func routesSchema() schema.Schema {
	texts := func(description string) schema.Attribute {
		return schema.ListAttribute{MarkdownDescription: description, Computed: true, ElementType: types.StringType}
	}
	return schema.Schema{
		MarkdownDescription: "The gateway's routes of a running project as they are in force.",
		Attributes: map[string]schema.Attribute{
			"routes": schema.ListNestedAttribute{
				MarkdownDescription: "Most specific first.", Computed: true,
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"host":    computedText("The host; empty for any."),
					"path":    computedText("The path; a `*` at its end stands for whatever follows."),
					"methods": texts("The methods; none for any."),
					"service": computedText("The service that it leads to."),
					"port":    computedNumber("The port of that service."),
					"auth":    computedText("Who may use it; `none` for anybody."),
					"rules":   texts("What else is asked of requests and done to them, in words."),
					"closed":  computedText("Why nobody can use it; null where somebody can."),
					"source":  computedText("The place in the file that says so, as `file:line:column`."),
					"address": computedText("The URL at which it is reached."),
				}},
			},
		},
	}
}

func readRoutes(ctx context.Context, c *cli.Command, p cli.Project, _ cli.Status) (routesModel, error) {
	all, err := c.Routes(ctx, p)
	m := routesModel{Routes: []routeModel{}}
	for _, r := range all {
		route := routeModel{
			Host: r.Host, Path: r.Path, Methods: append([]string{}, r.Methods...), Service: r.Service, Port: r.Port, Auth: r.Auth,
			Rules: append([]string{}, r.Rules...), Source: r.Source, Address: r.Address,
		}
		if r.Closed != "" {
			route.Closed = &r.Closed
		}
		m.Routes = append(m.Routes, route)
	}
	return m, err
}
