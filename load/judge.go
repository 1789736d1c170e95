package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/http/cookiejar"
)

// listen prepares the capture for the answer to the step under way.
func (v *visit) listen() *capture {
	s := v.step()
	v.tap.names, v.tap.all = v.tap.names[:0], s.contains != nil
	for i := range s.saves {
		switch {
		case s.saves[i].header != "":
			v.tap.names = append(v.tap.names, s.saves[i].header)
		case s.saves[i].cookie == "":
			v.tap.all = true
		}
	}
	if v.tap.all && v.page == nil {
		if v.page, _ = v.of.pages.Get().(*[]byte); v.page == nil {
			v.page = new([]byte)
		}
		v.tap.body = *v.page
	}
	v.tap.reset()
	return &v.tap
}

// letGo leaves the memory that the answer's body is in to other visits: one that thinks has no use for it, and thousands may.
func (v *visit) letGo() {
	if v.page != nil {
		*v.page = v.tap.body
		v.of.pages.Put(v.page)
		v.page, v.tap.body = nil, nil
	}
}

// judge looks at a whole answer: its cookies and values are kept, and kind is what it counts as; otherwise is what it is
// without a scenario.
func (v *visit) judge(status int, otherwise Kind) Kind {
	defer v.letGo()
	s := v.step()
	v.keepCookies()
	expected := status < 400
	if s.expect != nil {
		expected = false
		for _, e := range s.expect {
			expected = expected || e.least <= status && status <= e.most
		}
	}
	if !expected {
		v.why = fmt.Sprintf("%s %s answered %d", s.method, v.at, status)
		if otherwise != "" {
			return otherwise
		}
		return UnexpectedStatus
	}
	if s.contains != nil {
		wanted, err := s.contains.with(v.value)
		if err != nil {
			v.why = err.Error()
			return MissingValue
		}
		if !bytes.Contains(v.tap.body, []byte(wanted)) {
			v.why = fmt.Sprintf("%s %s: the answer does not contain %q", s.method, v.at, wanted)
			return UnexpectedBody
		}
	}
	for i := range s.saves {
		value, err := v.find(&s.saves[i])
		if err != nil {
			v.why = fmt.Sprintf("%s %s: %s is %v", s.method, v.at, s.saves[i].name, err)
			return MissingValue
		}
		v.values[s.saves[i].name] = value
	}
	return ""
}

func (v *visit) keepCookies() {
	if len(v.tap.cookies) == 0 {
		return
	}
	var cookies []*http.Cookie
	for _, line := range v.tap.cookies {
		if c, err := http.ParseSetCookie(line); err == nil {
			cookies = append(cookies, c)
		}
	}
	if v.jar == nil {
		v.jar, _ = cookiejar.New(nil) // never fails
	}
	v.jar.SetCookies(v.url(v.at), cookies)
}

var errNoValue = errors.New("not in the answer")

// find looks for a value in the answer.
func (v *visit) find(s *save) (string, error) {
	var found []string
	switch {
	case s.header != "":
		found = v.tap.values[s.header]
	case s.cookie != "":
		for _, line := range v.tap.cookies {
			if c, err := http.ParseSetCookie(line); err == nil && c.Name == s.cookie {
				found = append(found, c.Value)
			}
		}
	case s.regexp != nil:
		for _, match := range s.regexp.FindAllSubmatch(v.tap.body, maxPlan) {
			value := string(match[min(1, len(match)-1)])
			if v.tap.html {
				value = html.UnescapeString(value)
			}
			found = append(found, value)
		}
	default:
		decoder := json.NewDecoder(bytes.NewReader(v.tap.body))
		decoder.UseNumber()
		var content any
		if decoder.Decode(&content) == nil {
			found = s.pointer.in(content)
		}
	}
	switch {
	case len(found) == 0 && s.otherwise != nil:
		return s.otherwise.with(v.value)
	case len(found) == 0:
		return "", errNoValue
	case s.pick == "last":
		return found[len(found)-1], nil
	case s.pick == "random":
		return found[v.random.IntN(len(found))], nil
	}
	return found[0], nil
}
