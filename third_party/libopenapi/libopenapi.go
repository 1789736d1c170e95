// Package libopenapi is named by tests of Prometheus, which nobody builds here.
package libopenapi
