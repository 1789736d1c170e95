package load

import "bytes"

// maxCapture is how much of an answer's body a scenario looks at.
const maxCapture = 1 << 20

// capture keeps what a scenario wants to see of an answer.
type capture struct {
	names   []string // canonical, of the headers to keep
	cookies []string // the Set-Cookie lines
	html    bool
	all     bool // the body is wanted
	body    []byte

	values map[string][]string
}

// reset forgets the answer before; names and all stay.
func (c *capture) reset() {
	c.cookies, c.html, c.body = c.cookies[:0], false, c.body[:0]
	clear(c.values)
}

// field looks at a header line; name and value are valid during the call only.
func (c *capture) field(name, value []byte) {
	switch {
	case is(name, "set-cookie"):
		c.cookies = append(c.cookies, string(value))
		return
	case is(name, "content-type"):
		c.html = bytes.HasPrefix(bytes.ToLower(value), []byte("text/html"))
	}
	for _, wanted := range c.names {
		if bytes.EqualFold(name, []byte(wanted)) {
			if c.values == nil {
				c.values = map[string][]string{}
			}
			c.values[wanted] = append(c.values[wanted], string(value))
		}
	}
}

// Write keeps a part of the body.
func (c *capture) Write(b []byte) (int, error) {
	if c.all && len(c.body) < maxCapture {
		c.body = append(c.body, b[:min(len(b), maxCapture-len(c.body))]...)
	}
	return len(b), nil
}
