package engine

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"trellis/compose"
	"trellis/lazyregexp"
)

// The attributes of a service whose change replaces no instance. Everything else is part of what an instance is.
var (
	untouched = []string{
		"labels", "annotations", "profiles", "develop", "other", "pull_policy", "platform", "domainname", "dns", "dns_search",
		"dns_opt", "external_links", "pid", "ipc", "stdin_open", "tty", "build",
		"deploy.labels", "deploy.placement", "deploy.resources.reservations", "deploy.rollback_config", "deploy.endpoint_mode",
		"logging.driver", "x-trellis.process.build", "x-trellis.process.artifacts", "x-trellis.process.base",
		"x-trellis.backup",
	}
	inPlace = []string{
		"deploy.replicas", "deploy.mode", "deploy.update_config", "deploy.restart_policy", "deploy.x-trellis", "restart",
		"depends_on", "healthcheck", "networks", "links", "extra_hosts", "stop_grace_period", "container_name",
		"x-trellis.objective", "x-trellis.metrics", "x-trellis.calls", "x-trellis.publishes", "x-trellis.subscribes", "x-trellis.probe",
	}
	// ofContainer are those of the attributes above that are part of what a container is.
	ofContainer = []string{
		"labels", "annotations", "platform", "domainname", "dns", "dns_search", "dns_opt", "pid", "ipc", "stdin_open", "tty", "networks",
		"deploy.resources.reservations.memory", "other.runtime", "other.cpuset", "other.cgroup_parent", "other.cpu_shares",
		"other.memswap_limit", "other.devices",
	}
	// unread are attributes inside of lists that no instance gets to know.
	unread = lazyregexp.New(`^(volumes\[\d+\]\.(nocopy|propagation)|(post_start|pre_stop)\[\d+\]\.privileged)$`)
	// ofPort are the attributes of a published port that the data plane alone carries out.
	ofPort = lazyregexp.New(`^ports\[\d+\]\.(name|published|host_ip|app_protocol|mode|x-trellis.*)$`)
)

// effect says what carrying a change out does to what runs.
func (d *differ) effect(c Change) string {
	section, rest, _ := strings.Cut(c.Path, ".")
	switch section {
	case "services":
		return d.serviceEffect(rest, c)
	case "secrets", "configs":
		return d.contentEffect(section, rest)
	case "volumes":
		if c.Action == Remove && !strings.Contains(rest, ".") {
			return EffectDataLoss
		}
		return EffectNone
	case "networks":
		return EffectNone
	}
	if name, key, ok := strings.Cut(strings.TrimPrefix(rest, "environments."), "."); ok && name == d.want.Environment {
		switch key {
		case "monitoring", "autoscaler":
			return EffectInPlace
		case "mesh":
			return EffectRollout
		}
	}
	for _, later := range []string{"environments", "load", "alerts"} {
		if under(rest, later) {
			return EffectNone
		}
	}
	return EffectInPlace
}

func (d *differ) serviceEffect(path string, c Change) string {
	name, attribute, whole := strings.Cut(path, ".")
	switch {
	case !whole && c.Action == Add:
		return EffectNone
	case !whole:
		return EffectStopFirst // it is stopped, and nothing starts in its place
	}
	svc, was := d.want.Services[name], d.from.Services[name]
	isAny := func(list []string) bool {
		return slices.ContainsFunc(list, func(p string) bool { return under(attribute, p) })
	}
	switch {
	case svc.Trellis.Process == nil && isAny(ofContainer):
		return ReplacedEffect(svc)
	case attribute == "image" && svc.Trellis.ImageID != "" && svc.Trellis.ImageID == was.Trellis.ImageID:
		return EffectNone
	case isAny(untouched), unread.MatchString(attribute), svc.Trellis.Process != nil && was.Trellis.Process != nil && attribute == "image":
		return EffectNone
	case attribute == "x-trellis.probe.port" || attribute == "x-trellis.probe" && c.Action != Modify:
		return ReplacedEffect(svc) // the port may be one that the instance does not know of yet
	case isAny(inPlace), ofPort.MatchString(attribute):
		return EffectInPlace
	}
	return ReplacedEffect(svc)
}

// contentEffect is that of a secret or config: whoever uses it gets new instances.
func (d *differ) contentEffect(section, path string) string {
	name, attribute, whole := strings.Cut(path, ".")
	if whole && attribute != "ref" && attribute != "file" && attribute != "content" && attribute != "environment" {
		return EffectNone
	}
	effect := EffectNone
	for _, user := range d.want.ServiceNames() {
		svc := d.want.Services[user]
		uses := svc.Secrets
		if section == "configs" {
			uses = svc.Configs
		}
		if !slices.ContainsFunc(uses, func(m compose.FileMount) bool { return m.Source == name }) {
			continue
		}
		if _, ran := d.from.Services[user]; !ran {
			continue
		}
		if effect = ReplacedEffect(svc); effect == EffectStopFirst {
			return effect
		}
	}
	return effect
}

// under says whether path is prefix or stands below it.
func under(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

const mask = "***"

// secretFlag is the name of a flag whose value, in the next word, is a secret.
const secretFlag = `--?[a-z0-9._-]*(?:requirepass|passw(?:or)?d|passphrase|secret|token|api[_-]?key)`

var (
	secretName = lazyregexp.New(`(?i)passw(or)?d|passphrase|secret|token|credential|private|api[_-]?key|(^|[_-])(pass|pwd|key|auth|dsn|salt)($|[_-])`)
	secretArg  = lazyregexp.New(`(?i)((?:password|passwd|secret|token|api[_-]?key)[=:]\s*)("[^"]*"|'[^']*'|[^\s&"']+)`)
	// flagged is what a flag of that name is followed by.
	flagged   = lazyregexp.New(`(?i)((?:^|\s)` + secretFlag + `\s+)("[^"]*"|'[^']*'|[^\s"'-][^\s"']*)`)
	flagAlone = lazyregexp.New(`(?i)^` + secretFlag + `$`)
	// What is counted, in words of lower case: several secrets, or the count or limit of one kind.
	countedWords = lazyregexp.New(`(^|_)(tokens|secrets|passwords|credentials|api_?keys|(?:token|secret|password|credential|api_?key)_(?:count|limit))(_|$)`)
	humps        = lazyregexp.New(`([a-z0-9])([A-Z])`)

	userInfo = lazyregexp.New(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/@]*@`)
)

var countingWords = []string{"max", "maximum", "min", "minimum", "num", "number", "count", "limit", "total", "budget", "quota", "per"}

// LooksSecret says whether a variable's name says that its value is a secret. The path of a file is none, nor is how many secrets there
// may be: a number under a name such as MAX_TOKENS.
func LooksSecret(name, value string) bool {
	return secretName.MatchString(name) && !strings.HasSuffix(strings.ToUpper(name), "_FILE") && !(counts(name) && isNumber(value))
}

// counts says whether a name says of secrets nothing but how many there are: MAX_TOKENS, tokens-per-minute, apiKeysLimit, TOKEN_COUNT.
func counts(name string) bool {
	words := strings.FieldsFunc(strings.ToLower(humps.ReplaceAllString(name, "${1}_${2}")), func(r rune) bool { return strings.ContainsRune("_-. ", r) })
	counting := slices.ContainsFunc(words, func(word string) bool { return slices.Contains(countingWords, word) })
	rest := countedWords.ReplaceAllString(strings.Join(words, "_"), "${1}n${3}")
	return counting && !secretName.MatchString(rest)
}

func isNumber(value string) bool {
	_, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	return err == nil
}

// freeNames are the parents of keys that a user chose, so that a key's own name says what its value is.
var freeNames = []string{"environment", "args", "options", "driver_opts", "headers", "labels", "annotations"}

// masked returns v, found at path, without what looks like a secret.
func masked(path string, v any) any {
	parent, key := parentOf(path)
	return maskValue(parent, key, v)
}

func maskValue(parent, key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = maskValue(key, k, e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = maskValue(parent, key, e)
			if text, ok := e.(string); ok && i > 0 && text != "" && text[0] != '-' {
				if flag, ok := v[i-1].(string); ok && flagAlone.MatchString(flag) {
					out[i] = mask
				}
			}
		}
		return out
	case string:
		if v != "" && v != "true" && v != "false" && slices.Contains(freeNames, parent) && LooksSecret(key, v) {
			return mask
		}
		return maskText(v)
	}
	return v
}

// maskText hides passwords inside of a text: of URLs and of assignments.
func maskText(text string) string {
	if strings.Contains(text, "://") {
		text = userInfo.ReplaceAllStringFunc(text, hideUser)
	}
	return secretArg.ReplaceAllString(flagged.ReplaceAllString(text, "${1}"+mask), "${1}"+mask)
}

func hideUser(prefix string) string {
	u, err := url.Parse(prefix + "host")
	if err != nil || u.User == nil {
		return prefix[:strings.Index(prefix, "://")+3] + mask + "@"
	}
	if _, has := u.User.Password(); !has {
		return prefix
	}
	return u.Scheme + "://" + u.User.Username() + ":" + mask + "@"
}

// parentOf returns the last two keys of a path, without indexes.
func parentOf(path string) (parent, key string) {
	for path != "" {
		next := ""
		switch path[0] {
		case '.':
			path = path[1:]
			continue
		case '[':
			_, path, _ = strings.Cut(path, "]")
			continue
		case '"':
			quoted, err := strconv.QuotedPrefix(path)
			if err != nil {
				return key, path
			}
			next, _ = strconv.Unquote(quoted)
			path = path[len(quoted):]
		default:
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			next, path = path[:end], path[end:]
		}
		parent, key = key, next
	}
	return parent, key
}
