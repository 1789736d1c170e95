// Package compute is named by Prometheus' tests alone.
package compute
