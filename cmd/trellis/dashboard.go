package main

import "strings"

// madeHere stands in a dashboard's description until it is written.
const madeHere = "made by an export"

// panel is a panel of a dashboard: expressions of PromQL, each with what its series are called by.
type panel struct {
	title, unit string
	wide        int // of 24 columns
	queries     [][2]string
}

// board is a row of panels; each is asked of the services that are chosen at the top.
type board struct {
	title  string
	panels []panel
}

const chosen = `{service=~"$service"}`

// boards are what stands on a project's dashboard. The names of metrics are those of server/collect.go.
func boards() []board {
	sum := func(by, metric string) string {
		return "sum by (" + by + ") (rate(" + metric + chosen + "[$__rate_interval]))"
	}
	quantile := func(q, by string) string {
		return "histogram_quantile(" + q + ", " + sum(by, "trellis_request_duration_seconds") + ")"
	}
	return []board{
		{"Services", []panel{
			{"Requests", "reqps", 8, [][2]string{{sum("service", "trellis_requests_total"), "{{service}}"}}},
			{"Failures", "percentunit", 8, [][2]string{{sum("service", "trellis_request_failures_total") + " / " + sum("service", "trellis_requests_total"), "{{service}}"}}},
			{"Latency, p99", "s", 8, [][2]string{{quantile("0.99", "service"), "{{service}}"}}},
			{"Replicas", "short", 8, [][2]string{{"trellis_replicas_ready" + chosen, "{{service}} ready"}, {"trellis_replicas_wanted" + chosen, "{{service}} wanted"}}},
			{"In flight", "short", 8, [][2]string{{"sum by (service) (trellis_requests_in_flight" + chosen + ")", "{{service}}"}}},
			{"Retried and held", "reqps", 8, [][2]string{{sum("service", "trellis_retries_total"), "{{service}} retried"}, {sum("service", "trellis_requests_held_total"), "{{service}} held"}}},
		}},
		{"Requests", []panel{
			{"By answer", "reqps", 8, [][2]string{{sum("service, code", "trellis_requests_total"), "{{service}} {{code}}"}}},
			{"By caller", "reqps", 8, [][2]string{{sum("service, caller", "trellis_requests_total"), "{{caller}} → {{service}}"}}},
			{"By route", "reqps", 8, [][2]string{{sum("service, route", "trellis_requests_total"), "{{service}} {{route}}"}}},
			{"In flight by caller", "short", 12, [][2]string{{"sum by (service, caller) (trellis_requests_in_flight" + chosen + ")", "{{caller}} → {{service}}"}}},
			{"In flight by route", "short", 12, [][2]string{{"sum by (service, route) (trellis_requests_in_flight" + chosen + ")", "{{service}} {{route}}"}}},
			{"Latency", "s", 12, [][2]string{{quantile("0.5", "service"), "{{service}} p50"}, {quantile("0.9", "service"), "{{service}} p90"}, {quantile("0.99", "service"), "{{service}} p99"}}},
			{"Latency, p99 by revision", "s", 6, [][2]string{{quantile("0.99", "service, revision"), "{{service}} r{{revision}}"}}},
			{"Woken from nothing, p99", "s", 6, [][2]string{{"histogram_quantile(0.99, " + sum("service", "trellis_cold_start_seconds") + ")", "{{service}}"}}},
		}},
		{"Instances", []panel{
			{"CPU, cores", "short", 8, [][2]string{{sum("instance", "trellis_instance_cpu_seconds_total"), "{{instance}}"}}},
			{"Memory", "bytes", 8, [][2]string{{"trellis_instance_memory_bytes" + chosen, "{{instance}}"}}},
			{"Memory of its limit", "percentunit", 8, [][2]string{{"trellis_instance_memory_bytes" + chosen + " / trellis_instance_memory_limit_bytes" + chosen, "{{instance}}"}}},
			{"Network", "Bps", 8, [][2]string{{sum("instance", "trellis_instance_network_received_bytes_total"), "{{instance}} in"}, {sum("instance", "trellis_instance_network_sent_bytes_total"), "{{instance}} out"}}},
			{"Disk", "Bps", 8, [][2]string{{sum("instance", "trellis_instance_read_bytes_total"), "{{instance}} read"}, {sum("instance", "trellis_instance_written_bytes_total"), "{{instance}} written"}}},
			{"Restarts in 10 minutes", "short", 8, [][2]string{{"sum by (instance) (increase(trellis_instance_restarts_total" + chosen + "[10m]))", "{{instance}}"}}},
		}},
		{"Trellis", []panel{
			{"Alerts that fire", "short", 8, [][2]string{{`sum by (alertname, service) (ALERTS{alertstate="firing"})`, "{{alertname}} {{service}}"}}},
			{"Telemetry that was lost", "short", 8, [][2]string{{"sum by (store, reason) (increase(trellis_telemetry_lost_total[10m]))", "{{store}}: {{reason}}"}}},
			{"Free disk", "bytes", 8, [][2]string{{"trellis_disk_free_bytes", "free"}}},
		}},
	}
}

func sourceUID(project string) string { return "trellis-" + project }

// object is a JSON object.
type object = map[string]any

// dashboardOf returns a project's dashboard in the form of Grafana 9 and later (schema version 39).
func dashboardOf(project string, services []string) object {
	source := object{"type": "prometheus", "uid": sourceUID(project)}
	var panels []object
	id, y := 0, 0
	add := func(p object, x, width, height int) {
		id++
		p["id"], p["gridPos"] = id, object{"x": x, "y": y, "w": width, "h": height}
		panels = append(panels, p)
	}
	const high = 8
	for _, row := range boards() {
		add(object{"type": "row", "title": row.title, "collapsed": false, "panels": []object{}}, 0, 24, 1)
		y++
		x := 0
		for _, p := range row.panels {
			if x+p.wide > 24 {
				x, y = 0, y+high
			}
			var targets []object
			for i, q := range p.queries {
				targets = append(targets, object{"refId": string(rune('A' + i)), "datasource": source, "expr": q[0], "legendFormat": q[1]})
			}
			add(object{
				"type": "timeseries", "title": p.title, "datasource": source, "targets": targets,
				"fieldConfig": object{"defaults": object{"unit": p.unit, "min": 0}, "overrides": []object{}},
				"options":     object{"tooltip": object{"mode": "multi", "sort": "desc"}, "legend": object{"displayMode": "list", "placement": "bottom"}},
			}, x, p.wide, high)
			x += p.wide
		}
		y += high
	}
	return object{
		"uid": "trellis-" + project, "title": project, "description": madeHere, "tags": []string{"trellis"}, "schemaVersion": 39,
		"editable": true, "refresh": "10s", "time": object{"from": "now-30m", "to": "now"}, "panels": panels,
		"templating": object{"list": []object{{
			"name": "service", "label": "Service", "type": "custom", "multi": true, "includeAll": true, "allValue": ".*",
			"query": strings.Join(services, ","), "current": object{"text": []string{"All"}, "value": []string{"$__all"}},
		}}},
	}
}
