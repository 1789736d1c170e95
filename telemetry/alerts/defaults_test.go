package alerts

import (
	"context"
	"log/slog"
	"maps"
	"testing"
	"time"

	"trellis/telemetry"
	"trellis/telemetry/metrics"
)

// The time of a test, in seconds: samples are five apart, evaluations fifteen, and what is wrong is so from begin to end.
const (
	every, evaluate        = 5, 15
	begin, end, lastSecond = 180, 300, 900
)

// world is what is measured of a service while something goes wrong.
type world struct {
	at       time.Time
	wrong    bool
	counters map[string]float64
	took     map[float64]uint64
	samples  []telemetry.Sample
}

// is adds a sample whose value is bad while something is wrong.
func (w *world) is(name string, bad, good float64, labels ...string) *telemetry.Sample {
	l := map[string]string{"__name__": name}
	for i := 0; i+1 < len(labels); i += 2 {
		l[labels[i]] = labels[i+1]
	}
	v := good
	if w.wrong {
		v = bad
	}
	w.samples = append(w.samples, telemetry.Sample{Labels: l, Time: w.at, Value: v})
	return &w.samples[len(w.samples)-1]
}

// grows adds a counter that grows by so much a second.
func (w *world) grows(name string, bad, good float64, labels ...string) {
	s := w.is(name, bad, good, labels...)
	w.counters[name] += every * s.Value
	s.Value = w.counters[name]
}

// take adds twenty requests a second, which take so many seconds.
func (w *world) take(bad, good float64) {
	w.grows("trellis_requests_total", 20, 20, "service", "web")
	s := w.is("trellis_request_duration_seconds", bad, good, "service", "web")
	w.took[s.Value] += every * 20
	s.Distribution = &telemetry.Distribution{Counts: maps.Clone(w.took)}
}

// TestDefaultsFireAndResolve: what goes wrong, as it is measured, has its alert fire at the second evaluation at the latest,
// and resolve when it is over; before it nothing fires.
func TestDefaultsFireAndResolve(t *testing.T) {
	for alert, round := range map[string]func(*world){
		"CrashLooping":  func(w *world) { w.is("trellis_service_state", 1, 0, "service", "web", "state", "crash-looping") },
		"ServiceFailed": func(w *world) { w.is("trellis_service_state", 1, 0, "service", "web", "state", "failed") },
		"ServiceDown": func(w *world) {
			w.is("trellis_replicas_wanted", 2, 2, "service", "web")
			w.is("trellis_replicas_ready", 0, 2, "service", "web")
		},
		"DriverAway": func(w *world) {
			if w.wrong { // else it is said of no service
				w.is("trellis_service_unknown", 1, 0, "service", "web", "driver", "docker")
			}
		},
		"Restarting":       func(w *world) { w.grows("trellis_instance_restarts_total", 0.4, 0, "service", "web") },
		"Drifted":          func(w *world) { w.is("trellis_drifts", 2, 0, "service", "web") },
		"DeployRolledBack": func(w *world) { w.grows("trellis_deploys_rolled_back_total", 0.01, 0) },
		"OutOfMemory":      func(w *world) { w.grows("trellis_instance_ends_total", 0.2, 0, "service", "web", "reason", "oom") },
		"InstanceHung":     func(w *world) { w.grows("trellis_instance_ends_total", 0.2, 0, "service", "web", "reason", "hung") },
		"ErrorRate": func(w *world) {
			w.take(0.02, 0.02)
			w.grows("trellis_request_failures_total", 10, 0.02, "service", "web")
		},
		"RetryStorm": func(w *world) {
			w.take(0.02, 0.02)
			w.grows("trellis_retries_total", 12, 0.02, "service", "web")
		},
		"Overloaded": func(w *world) {
			w.take(0.02, 0.02)
			w.grows("trellis_requests_held_total", 12, 0.02, "service", "web")
		},
		"Slow": func(w *world) { w.take(0.7, 0.02) },
		"DiskAlmostFull": func(w *world) {
			w.is("trellis_disk_size_bytes", 100e9, 100e9)
			w.is("trellis_disk_free_bytes", 1e9, 60e9)
		},
		"CertificateExpiring": func(w *world) {
			now := float64(w.at.Unix())
			w.is("trellis_certificate_not_before_timestamp_seconds", now-80*86400, now-30*86400, "name", "shop")
			w.is("trellis_certificate_not_after_timestamp_seconds", now+3*86400, now+60*86400, "name", "shop")
		},
		"TelemetryLost": func(w *world) {
			w.grows("trellis_telemetry_lost_total", 5, 0, "store", "logs", "reason", "queue full")
		},
		"DeadLetters": func(w *world) {
			w.is("rabbitmq_detailed_queue_messages_ready", 3, 0, "service", "broker", "vhost", "/", "queue", "orders.dead-letter")
			w.is("rabbitmq_detailed_queue_messages_ready", 90, 90, "service", "broker", "vhost", "/", "queue", "orders")
		},
	} {
		t.Run(alert, func(t *testing.T) {
			t.Parallel()
			fired := lived(t, alert, round)
			at := fired[alert]
			if len(at) == 0 {
				t.Fatalf("it does not fire: %v", fired)
			}
			if at[0] > begin+every+2*evaluate {
				t.Errorf("it fires %d s after the beginning, want at the second evaluation", at[0]-begin)
			}
			if at[len(at)-1] >= lastSecond {
				t.Errorf("it is not resolved %d s after the end", lastSecond-end)
			}
			for name, at := range fired {
				if at[0] <= begin {
					t.Errorf("%s fires before anything is wrong", name)
				}
			}
		})
	}
}

// lived has a store be given what round adds, and returns at which seconds an alert fires, and the others before begin.
func lived(t *testing.T, alert string, round func(*world)) map[string][]int {
	t.Helper()
	s := metrics.New(metrics.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		<-done
	}()
	<-s.Opened()
	start := time.Now().Add(-lastSecond * time.Second)
	w := &world{counters: map[string]float64{}, took: map[float64]uint64{}}
	for second := every; second <= lastSecond; second += every {
		w.at, w.wrong, w.samples = start.Add(time.Duration(second)*time.Second), second > begin && second <= end, nil
		round(w)
		if err := s.Append(ctx, 1, w.samples); err != nil {
			t.Fatal(err)
		}
	}
	fired := map[string][]int{}
	for _, r := range Defaults()[0].Rules {
		since, until := -1, lastSecond
		if r.Alert != alert {
			until = begin
		}
		for second := evaluate; second <= until; second += evaluate {
			found, err := s.Query(ctx, r.Expr, start.Add(time.Duration(second)*time.Second))
			switch {
			case err != nil:
				t.Fatalf("%s: %v", r.Alert, err)
			case len(found) == 0:
				since = -1
				continue
			case since < 0:
				since = second
			}
			if time.Duration(second-since)*time.Second >= r.For {
				fired[r.Alert] = append(fired[r.Alert], second)
			}
		}
	}
	return fired
}

// TestDeadLettersOfEveryBroker: what each broker's exporter says of them is found, and nothing else.
func TestDeadLettersOfEveryBroker(t *testing.T) {
	for name, one := range map[string]struct {
		round func(*world)
		fires bool
	}{
		"RabbitMQ, by queue": {func(w *world) { w.is("rabbitmq_queue_messages_ready", 3, 0, "service", "b", "queue", "OrdersDLQ") }, true},
		"RabbitMQ, in all": {func(w *world) {
			w.grows("rabbitmq_global_messages_dead_lettered_delivery_limit_total", 0.2, 0, "service", "b", "queue_type", "rabbit_quorum_queue", "dead_letter_strategy", "at_most_once")
		}, true},
		"RabbitMQ, a retry that waits": {func(w *world) {
			w.grows("rabbitmq_global_messages_dead_lettered_expired_total", 0.2, 0, "service", "b", "dead_letter_strategy", "at_most_once")
		}, false},
		"RabbitMQ, dropped on purpose": {func(w *world) {
			w.grows("rabbitmq_global_messages_dead_lettered_rejected_total", 0.2, 0, "service", "b", "dead_letter_strategy", "disabled")
		}, false},
		"NATS": {func(w *world) {
			w.is("jetstream_stream_total_messages", 3, 0, "service", "b", "stream_name", "ORDERS_DLQ")
		}, true},
		"NATS, another stream": {func(w *world) { w.is("jetstream_stream_total_messages", 3, 0, "service", "b", "stream_name", "ORDERS") }, false},
		"Kafka": {func(w *world) {
			w.grows("kafka_topic_partition_current_offset", 0.2, 0, "service", "b", "topic", "orders.DLT", "partition", "0")
		}, true},
		"Kafka, a topic's first": {func(w *world) {
			if w.wrong || w.counters["kafka_topic_partition_current_offset"] > 0 {
				w.grows("kafka_topic_partition_current_offset", 0.2, 0, "service", "b", "topic", "orders.DLT", "partition", "0")
			}
		}, true},
		"Kafka, another topic": {func(w *world) {
			w.grows("kafka_topic_partition_current_offset", 0.2, 0, "service", "b", "topic", "orders", "partition", "0")
		}, false},
		"RabbitMQ, without names": {func(w *world) { w.is("rabbitmq_queue_messages_ready", 3, 0, "service", "b") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := lived(t, "DeadLetters", one.round)["DeadLetters"]
			if (len(at) > 0) != one.fires {
				t.Errorf("it fires at %v", at)
			}
			if one.fires && (at[0] <= begin || at[0] > begin+every+2*evaluate) {
				t.Errorf("it fires %d s after the beginning, want at the second evaluation", at[0]-begin)
			}
			if one.fires && at[len(at)-1] >= lastSecond {
				t.Error("it is not resolved")
			}
		})
	}
}
