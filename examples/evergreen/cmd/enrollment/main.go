// Command enrollment serves seats.
package main

import (
	"os"

	"evergreen/enrollment"
	"evergreen/service"
)

func main() { os.Exit(service.Main("enrollment", enrollment.App)) }
