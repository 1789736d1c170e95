package alerts

import (
	"fmt"
	"time"

	"trellis/telemetry"
)

// The names of the default alerts about drift, and about a driver that does not answer.
const (
	Drifted    = "Drifted"
	DriverAway = "DriverAway"
)

const driftedSummary = "%s differs from its revision in %s places: trellis drift"

// slow holds where the median of twenty seconds is three times that of the ten minutes before, and could be noticed. The
// median, because the tail of a service that is seldom asked is one request; who promises a tail writes an objective.
const slow = `histogram_quantile(0.5, sum by (service) (rate(trellis_request_duration_seconds[20s]))) > 0.1
and on (service) histogram_quantile(0.5, sum by (service) (rate(trellis_request_duration_seconds[20s])))
 > 3 * histogram_quantile(0.5, sum by (service) (rate(trellis_request_duration_seconds[10m] offset 1m)))
and on (service) sum by (service) (rate(trellis_requests_total[1m])) > 1`

// deadLetters holds where messages that nobody could handle were put aside: in RabbitMQ, of whose default metrics the global
// counters say it without naming a queue and of whose per-object and detailed ones the depth of a queue of that name does
// (https://github.com/rabbitmq/rabbitmq-server/blob/main/deps/rabbitmq_prometheus/metrics.md); what expired is left out, since that
// is how retries are delayed, and what was rejected on purpose by a queue without a dead letter exchange. In a stream of NATS, of
// that name, of which every replica tells (https://github.com/nats-io/prometheus-nats-exporter). In a topic of Kafka, of that name, which is never emptied: there
// it is what came in five minutes, the first of a topic too (https://github.com/danielqsj/kafka_exporter).
func deadLetters() string {
	topics := func(offset string) string {
		return `sum by (service, queue) (label_replace(kafka_topic_partition_current_offset{topic=~` + deadLetterName + `}` + offset + `, "queue", "$1", "topic", "(.+)"))`
	}
	return `sum by (service, vhost, queue) ({__name__=~"rabbitmq_(detailed_)?queue_messages_ready",queue=~` + deadLetterName + `}) > 0
or sum by (service) (increase({__name__=~"rabbitmq_global_messages_dead_lettered_(rejected|delivery_limit)_total",dead_letter_strategy!="disabled"}[5m])) > 0
or max by (service, queue) (label_replace(jetstream_stream_total_messages{stream_name=~` + deadLetterName + `}, "queue", "$1", "stream_name", "(.+)")) > 0
or ` + topics("") + ` - (` + topics(" offset 5m") + ` or 0 * ` + topics("") + `) > 0`
}

// deadLetterName is what queues, streams and topics for such messages are called.
const deadLetterName = `"(?i:.*(dlq|dlx|dlt|dead[-_. ]?letter).*)"`

// Defaults returns the rules that every project has. Each fires at the second evaluation at the latest after its condition
// holds, except those that wait to see whether what is wrong passes: InstanceUnready, MemoryNearLimit and CPUSaturated.
func Defaults() []telemetry.RuleGroup {
	rule := func(name, severity, expr string, hold time.Duration, summary string) telemetry.Rule {
		return telemetry.Rule{
			Alert: name, Expr: expr, For: hold, Labels: map[string]string{"severity": severity, LabelSource: SourceDefault},
			Annotations: map[string]string{"summary": summary},
		}
	}
	return []telemetry.RuleGroup{{Name: "defaults", Rules: []telemetry.Rule{
		rule("CrashLooping", Page, `max by (service) (trellis_service_state{state="crash-looping"}) == 1`, 0,
			"{{ $labels.service }} keeps crashing"),
		rule("ServiceFailed", Page, `max by (service) (trellis_service_state{state="failed"}) == 1`, 0,
			"{{ $labels.service }} has failed and is not started again"),
		rule("ServiceDown", Page, `trellis_replicas_ready == 0 and trellis_replicas_wanted > 0 unless on (service) trellis_service_state{state="completed"}`, 15*time.Second,
			"no instance of {{ $labels.service }} is ready"),
		rule(DriverAway, Page, `sum by (driver) (trellis_service_unknown) > 0`, 15*time.Second,
			"{{ $labels.driver }} does not answer: it is not known what runs of {{ $value }} of the services, and nothing of them is healed: trellis ps"),
		rule("InstanceUnready", Ticket, `trellis_replicas_ready > 0 and trellis_replicas_ready < trellis_replicas_wanted`, 2*time.Minute,
			"{{ $labels.service }} has {{ $value }} instances ready, fewer than it should"),
		rule("Restarting", Ticket, `sum by (service) (increase(trellis_instance_restarts_total[10m])) > 2`, 0,
			"{{ $labels.service }} was restarted {{ $value | printf \"%.0f\" }} times in ten minutes"),
		rule("OutOfMemory", Ticket, `sum by (service) (increase(trellis_instance_ends_total{reason="oom"}[2m])) > 0`, 0,
			"an instance of {{ $labels.service }} was ended because it used all the memory it may"),
		rule("InstanceHung", Ticket, `sum by (service) (increase(trellis_instance_ends_total{reason="hung"}[2m])) > 0`, 0,
			"an instance of {{ $labels.service }} ran and did not answer any more, and was replaced"),
		rule("DeployRolledBack", Ticket, `increase(trellis_deploys_rolled_back_total[2m]) > 0`, 0,
			"the newest revision was taken back, and what was before it runs: trellis history"),
		rule(Drifted, Ticket, `trellis_drifts > 0`, 0, fmt.Sprintf(driftedSummary, "{{ $labels.service }}", "{{ $value }}")),
		rule("ErrorRate", Page, `sum by (service) (rate(trellis_request_failures_total[2m])) / sum by (service) (rate(trellis_requests_total[2m])) > 0.05 and sum by (service) (rate(trellis_requests_total[2m])) > 0.2`, 0,
			"{{ $value | humanizePercentage }} of the requests to {{ $labels.service }} fail"),
		rule("Slow", Ticket, slow, 0,
			"half of the requests to {{ $labels.service }} take longer than {{ $value | humanizeDuration }}, three times what they did before"),
		rule("RetryStorm", Page, `sum by (service) (rate(trellis_retries_total[1m])) > 0.1 * sum by (service) (rate(trellis_requests_total[1m])) and sum by (service) (rate(trellis_retries_total[1m])) > 1`, 0,
			"{{ $value | humanize }} requests a second to {{ $labels.service }} are retries"),
		rule("Overloaded", Page, `sum by (service) (rate(trellis_requests_held_total[1m])) > 0.05 * sum by (service) (rate(trellis_requests_total[1m])) and sum by (service) (rate(trellis_requests_held_total[1m])) > 0.2`, 15*time.Second,
			"{{ $value | humanize }} requests a second to {{ $labels.service }} wait for a free instance"),
		rule("DeadLetters", Ticket, deadLetters(), 0,
			"{{ $value | printf \"%.0f\" }} messages were put aside{{ with $labels.queue }} in {{ . }}{{ end }}{{ with $labels.service }} of {{ . }}{{ end }}, because nobody could handle them"),
		rule("MemoryNearLimit", Ticket, `trellis_instance_memory_bytes / trellis_instance_memory_limit_bytes > 0.9`, 30*time.Second,
			"{{ $labels.instance }} uses {{ $value | humanizePercentage }} of the memory it may"),
		rule("CPUSaturated", Ticket, `rate(trellis_instance_cpu_seconds_total[2m]) / trellis_instance_cpu_limit > 0.95`, 5*time.Minute,
			"{{ $labels.instance }} uses all the CPU it may"),
		rule("DiskAlmostFull", Page, `trellis_disk_free_bytes and trellis_disk_free_bytes / trellis_disk_size_bytes < 0.05 or trellis_disk_free_bytes < 500e6 and trellis_disk_size_bytes > 5e9`, 0,
			"{{ $value | humanize1024 }}B are left on the disk of the project's state"),
		rule("CertificateExpiring", Page, `trellis_certificate_not_after_timestamp_seconds - time() < 0.25 * (trellis_certificate_not_after_timestamp_seconds - trellis_certificate_not_before_timestamp_seconds) and trellis_certificate_not_after_timestamp_seconds - time() < 21 * 86400`, 0,
			"the certificate of {{ $labels.name }} ends in {{ $value | humanizeDuration }}"),
		rule("TelemetryLost", Ticket, `sum by (store, reason) (increase(trellis_telemetry_lost_total[5m])) > 0`, 0,
			"{{ $value | humanize }} {{ $labels.store }} were not kept: {{ $labels.reason }}"),
	}}}
}
