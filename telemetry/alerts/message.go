package alerts

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/notify/webhook"
	"github.com/prometheus/common/model"

	"trellis/telemetry"
)

// The label that says whose alert it is, and where one goes that a rule has set: as with what is scraped, ours stays.
const (
	labelProject  = "project"
	labelExported = "exported_project"
)

// labelsOf returns an alert's labels, with its project. A label without a value is none.
func labelsOf(project string, all map[string]string) model.LabelSet {
	set := model.LabelSet{}
	for k, v := range all {
		if v == "" {
			continue
		}
		if k == labelProject && v != project {
			k = labelExported
		}
		set[model.LabelName(k)] = model.LabelValue(v)
	}
	set[labelProject] = model.LabelValue(project)
	return set
}

// alertOf returns an alert as Alertmanager's packages have it. One that fires does so for a while, unless it is heard of again.
func alertOf(project string, a telemetry.Alert, now time.Time) *alert.Alert {
	one := model.Alert{Labels: labelsOf(project, a.Labels), Annotations: model.LabelSet{}, StartsAt: a.FiredAt, EndsAt: a.ResolvedAt}
	for k, v := range a.Annotations {
		one.Annotations[model.LabelName(k)] = model.LabelValue(v)
	}
	fires := a.ResolvedAt.IsZero()
	if fires {
		one.EndsAt = now.Add(max(forgetAfter, a.ValidUntil.Sub(now)))
	}
	return alert.New(one, now, fires)
}

// groupKey names a group as the dispatcher does.
func groupKey(labels model.LabelSet) string { return "{}:" + labels.String() }

// notificationOf makes one notification about alerts of one group: Alertmanager's webhook payload, version 4
// (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config), and a text that says the same.
func notificationOf(key string, labels model.LabelSet, reason string, all []*alert.Alert, now time.Time) (notification, error) {
	data := plainTemplate().Data(receiverName, labels, nil, reason, all...)
	body, err := json.Marshal(webhook.Message{Data: data, Version: "4", GroupKey: key})
	if err != nil {
		return notification{}, fmt.Errorf("write an alert of %s: %w", key, err)
	}
	var about []model.Fingerprint
	for _, a := range all {
		about = append(about, a.Fingerprint())
	}
	lines := []string{string(labels[labelProject])}
	for _, a := range data.Alerts {
		lines = append(lines, fmt.Sprintf("[%s] %s: %s", strings.ToUpper(a.Status), a.Labels["alertname"], a.Annotations["summary"]))
	}
	id := sha256.Sum256(append(body, now.String()...))
	return notification{ID: hex.EncodeToString(id[:8]), Group: key, Made: now, Body: body, Text: strings.Join(lines, "\n"), About: about}, nil
}
