// Package validator is named by tests of Prometheus, which nobody builds here.
package validator
