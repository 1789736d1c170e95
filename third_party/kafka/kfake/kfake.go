// Package kfake is named by tests of Alertmanager's only.
package kfake
