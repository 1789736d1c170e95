package web

import (
	"fmt"
	"hash/fnv"
	"html/template"
	"math"
	"math/rand/v2"
	"strings"
)

// The size of a cover in its own units.
const (
	coverWidth  = 320
	coverHeight = 180
)

// cover draws a picture for a course: the topic chooses the motif and, in the style sheet, the colours; the slug chooses
// everything else, so that a course looks the same on every page and every machine.
func cover(topic, slug string) template.HTML {
	h := fnv.New64a()
	h.Write([]byte(slug))
	r := rand.New(rand.NewPCG(h.Sum64(), 7))
	t := fnv.New32a()
	t.Write([]byte(topic))
	motif, ok := motifOf[topic]
	if !ok {
		motif = int(t.Sum32() % uint32(len(motifs)))
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="cover %s" viewBox="0 0 %d %d" preserveAspectRatio="xMidYMid slice" aria-hidden="true" focusable="false"><rect class="c0" width="%d" height="%d"/>`,
		template.HTMLEscapeString("topic-"+topic), coverWidth, coverHeight, coverWidth, coverHeight)
	motifs[motif](&b, r)
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

var motifOf = map[string]int{"programming": 0, "data": 1, "design": 2, "business": 3, "languages": 4, "science": 5,
	"mathematics": 0, "music": 1, "wellbeing": 4, "crafts": 2, "writing": 3, "engineering": 5}

var motifs = []func(*strings.Builder, *rand.Rand){quarters, bars, discs, steps, waves, orbits}

// tone is a class of the style sheet, c1 to c4.
func tone(r *rand.Rand) string { return fmt.Sprintf("c%d", 1+r.IntN(4)) }

// quarters lays tiles of quarter circles.
func quarters(b *strings.Builder, r *rand.Rand) {
	const s = 40
	for y := 0; y < coverHeight; y += s {
		for x := 0; x < coverWidth; x += s {
			if r.IntN(5) == 0 {
				continue
			}
			x0, y0, x1, y1 := x, y, x+s, y+s
			corner := [4][6]int{{x0, y0, x1, y0, x0, y1}, {x1, y0, x1, y1, x0, y0}, {x1, y1, x0, y1, x1, y0}, {x0, y1, x0, y0, x1, y1}}[r.IntN(4)]
			fmt.Fprintf(b, `<path class="%s" d="M%d %dL%d %dA%d %d 0 0 1 %d %dZ"/>`, tone(r), corner[0], corner[1],
				corner[2], corner[3], s, s, corner[4], corner[5])
		}
	}
}

// bars draws columns of rounded bars.
func bars(b *strings.Builder, r *rand.Rand) {
	level := 60 + r.Float64()*40
	for x := 14; x < coverWidth-10; x += 23 {
		level = min(150, max(24, level+(r.Float64()-0.5)*70))
		fmt.Fprintf(b, `<rect class="%s" x="%d" y="%.0f" width="14" height="%.0f" rx="7"/>`, tone(r), x,
			(coverHeight-level)/2+float64(r.IntN(16)-8), level)
	}
}

// discs lays large discs over one another.
func discs(b *strings.Builder, r *rand.Rand) {
	for range 7 {
		fmt.Fprintf(b, `<circle class="%s soft" cx="%d" cy="%d" r="%d"/>`, tone(r), r.IntN(coverWidth), r.IntN(coverHeight),
			28+r.IntN(56))
	}
}

// steps builds blocks that rise from left to right.
func steps(b *strings.Builder, r *rand.Rand) {
	const s = 32
	for x := 0; x < coverWidth; x += s {
		height := 1 + (x/s+r.IntN(3))*5/11
		for n := range height {
			y := coverHeight - (n+1)*s + 12
			fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="5"/>`, tone(r), x+2, y+2, s-4, s-4)
		}
	}
}

// waves draws hills, one behind the other.
func waves(b *strings.Builder, r *rand.Rand) {
	fmt.Fprintf(b, `<circle class="c4" cx="%d" cy="%d" r="%d"/>`, 40+r.IntN(240), 50+r.IntN(14), 14+r.IntN(8))
	for n, class := range [...]string{"c3", "c1", "c2"} {
		base := 80 + float64(n)*28
		high, long, shift := 10+r.Float64()*14, 90+r.Float64()*120, r.Float64()*6
		fmt.Fprintf(b, `<path class="%s" d="M0 %d`, class, coverHeight)
		for x := 0; x <= coverWidth; x += 10 {
			fmt.Fprintf(b, `L%d %.1f`, x, base+high*math.Sin(float64(x)/long*2*math.Pi+shift))
		}
		fmt.Fprintf(b, `L%d %dZ"/>`, coverWidth, coverHeight)
	}
}

// orbits draws rings with something on them.
func orbits(b *strings.Builder, r *rand.Rand) {
	x, y := 80+r.IntN(160), 60+r.IntN(60)
	fmt.Fprintf(b, `<circle class="c4" cx="%d" cy="%d" r="16"/>`, x, y)
	for radius := 36; radius < 260; radius += 26 + r.IntN(14) {
		fmt.Fprintf(b, `<circle class="c%d line" cx="%d" cy="%d" r="%d"/>`, 1+r.IntN(3), x, y, radius)
		for range 1 + r.IntN(2) {
			sin, cos := math.Sincos(r.Float64() * 2 * math.Pi)
			fmt.Fprintf(b, `<circle class="%s" cx="%.1f" cy="%.1f" r="%d"/>`, tone(r), float64(x)+cos*float64(radius),
				float64(y)+sin*float64(radius), 4+r.IntN(7))
		}
	}
}
