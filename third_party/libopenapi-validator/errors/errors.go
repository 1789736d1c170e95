// Package errors is named by tests of Prometheus, which nobody builds here.
package errors
