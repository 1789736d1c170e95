//go:build tools

// Package tools pins the providers of others that exported Terraform code is applied with by the tests.
package tools

import _ "github.com/hashicorp/terraform-provider-kubernetes"
