// Command progress serves what learners have done.
package main

import (
	"os"

	"evergreen/progress"
	"evergreen/service"
)

func main() { os.Exit(service.Main("progress", progress.App)) }
