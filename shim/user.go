package shim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// account is who a program runs as.
type account struct {
	uid, gid int
	groups   []int
	home     string
}

// lookup finds the account of "name|uid[:group|gid]" and the additional groups in /etc/passwd and /etc/group as they
// are seen now. A numeric user need not be in them.
func lookup(spec string, add []string) (account, error) {
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil && !missing(err) {
		return account{}, err
	}
	group, err := os.ReadFile("/etc/group")
	if err != nil && !missing(err) {
		return account{}, err
	}
	return find(spec, add, string(passwd), string(group))
}

// Owner returns the user and the group of "name|uid[:group|gid]" as this machine knows them now.
func Owner(spec string) (uid, gid int, err error) {
	a, err := lookup(spec, nil)
	return a.uid, a.gid, err
}

func find(spec string, add []string, passwd, group string) (account, error) {
	user, primary, hasGroup := strings.Cut(spec, ":")
	a := account{home: "/"}
	name := ""
	uid, numeric := id(user)
	found := false
	for line := range strings.SplitSeq(passwd, "\n") {
		f := strings.Split(line, ":")
		if len(f) < 7 {
			continue
		}
		u, ok := id(f[2])
		g, ok2 := id(f[3])
		if !ok || !ok2 || !(f[0] == user && !numeric || numeric && u == uid) {
			continue
		}
		name, a.uid, a.gid, found = f[0], u, g, true
		if f[5] != "" {
			a.home = f[5]
		}
		break
	}
	switch {
	case !found && !numeric:
		return a, fmt.Errorf("user %q: not in /etc/passwd", user)
	case !found:
		a.uid = uid
	}
	groups := groupsOf(group, name)
	if hasGroup {
		g, err := groupID(group, primary)
		if err != nil {
			return a, err
		}
		a.gid, groups = g, nil
	}
	a.groups = append([]int{a.gid}, groups...)
	for _, name := range add {
		g, err := groupID(group, name)
		if err != nil {
			return a, err
		}
		a.groups = append(a.groups, g)
	}
	return a, nil
}

func id(text string) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 31)
	return int(n), err == nil
}

func groupID(group, name string) (int, error) {
	if g, ok := id(name); ok {
		return g, nil
	}
	for line := range strings.SplitSeq(group, "\n") {
		f := strings.Split(line, ":")
		if len(f) >= 3 && f[0] == name {
			if g, ok := id(f[2]); ok {
				return g, nil
			}
		}
	}
	return 0, fmt.Errorf("group %q: not in /etc/group", name)
}

// groupsOf returns the groups that list user as a member.
func groupsOf(group, user string) []int {
	var all []int
	for line := range strings.SplitSeq(group, "\n") {
		f := strings.Split(line, ":")
		if len(f) < 4 || user == "" {
			continue
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if g, ok := id(f[2]); ok && strings.TrimSpace(member) == user {
				all = append(all, g)
			}
		}
	}
	return all
}
