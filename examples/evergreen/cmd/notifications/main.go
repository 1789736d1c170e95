// Command notifications serves what learners are told.
package main

import (
	"os"

	"evergreen/notifications"
	"evergreen/service"
)

func main() { os.Exit(service.Main("notifications", notifications.App)) }
