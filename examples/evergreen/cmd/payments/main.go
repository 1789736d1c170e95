// Command payments takes money for seats.
package main

import (
	"os"

	"evergreen/payments"
	"evergreen/service"
)

func main() { os.Exit(service.Main("payments", payments.App)) }
