package alerts

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/common/model"

	"trellis/telemetry"
)

// Tell delivers alerts to the receiver at url, one notification for each service, and returns once it has taken all of them.
// It is for a process that ends afterwards: what was not taken when ctx is done is an error, and the caller's to tell again.
// format is as for SetReceiver.
func Tell(ctx context.Context, project, url, format string, all []telemetry.Alert) error {
	groups, now := map[string][]*alert.Alert{}, time.Now()
	for _, a := range all {
		groups[a.Labels["service"]] = append(groups[a.Labels["service"]], alertOf(project, a, now))
	}
	client := plainClient()
	for _, service := range slices.Sorted(maps.Keys(groups)) {
		labels := model.LabelSet{labelProject: model.LabelValue(project)}
		if service != "" {
			labels["service"] = model.LabelValue(service)
		}
		one, err := notificationOf(groupKey(labels), labels, notify.ReasonUnknown.String(), groups[service], now)
		if err != nil {
			return err
		}
		for wait := retryFirst; ; wait = min(2*wait, retryMax) {
			again, err := send(ctx, client, url, format, one)
			if err == nil {
				break
			}
			if !again {
				return err
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(wait):
			}
		}
	}
	return nil
}

// DriftedAlert is the default alert Drifted for where no metrics are kept that its rule could be about: since and until are when
// the service was found to differ in so many places, and no more; a zero until is not yet.
func DriftedAlert(service string, places int, since, until time.Time) telemetry.Alert {
	summary := fmt.Sprintf(driftedSummary, service, strconv.Itoa(places))
	if !until.IsZero() {
		summary = service + " is as its revision says again"
	}
	return telemetry.Alert{
		Labels:      map[string]string{"alertname": Drifted, "service": service, "severity": Ticket, LabelSource: SourceDefault},
		Annotations: map[string]string{"summary": summary},
		Value:       float64(places), ActiveAt: since, FiredAt: since, ResolvedAt: until,
	}
}
