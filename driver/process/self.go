package process

import (
	"os"
	"os/user"
	"strconv"
	"strings"
)

// IsSelf says whether name, as Compose writes a user, is the one who runs this process.
func IsSelf(name string) bool {
	name, group, hasGroup := strings.Cut(name, ":")
	if hasGroup && group != strconv.Itoa(os.Getegid()) {
		return false
	}
	if name == strconv.Itoa(os.Geteuid()) {
		return true
	}
	u, err := user.Current()
	return err == nil && u.Username == name
}
