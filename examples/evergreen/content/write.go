package content

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"

	"evergreen/catalog"
)

// Write returns the lessons of a course, made of its outline. They are the same every time and everywhere.
func Write(c catalog.Course) []Lesson {
	var all []Lesson
	for week, unit := range c.Outline {
		for _, title := range unit.Lessons {
			l := Lesson{Course: c.Slug, N: len(all) + 1, Unit: unit.Title, Title: title}
			h := fnv.New64a()
			fmt.Fprintf(h, "%s/%d", c.Slug, l.N)
			r := rand.New(rand.NewPCG(h.Sum64(), 9))
			l.Minutes = 10 + 5*r.IntN(6)
			l.Body = body(r, c, unit, l, week)
			all = append(all, l)
		}
	}
	return all
}

func body(r *rand.Rand, c catalog.Course, u catalog.Unit, l Lesson, week int) *Body {
	subject, topic := c.Subject, strings.ToLower(u.Title[:1])+u.Title[1:]
	fill := strings.NewReplacer("{subject}", subject, "{topic}", topic, "{title}", l.Title, "{teacher}", c.Teacher,
		"{week}", fmt.Sprint(week+1), "{minutes}", fmt.Sprint(l.Minutes))
	b := &Body{Exercise: fill.Replace(pick(r, exercises))}
	for _, from := range [][]string{beginnings, explanations, warnings} {
		b.Text = append(b.Text, fill.Replace(pick(r, from)))
	}
	first := r.IntN(len(points))
	for i := range 3 {
		b.Remember = append(b.Remember, fill.Replace(points[(first+i)%len(points)]))
	}
	return b
}

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

var beginnings = []string{
	"This is week {week}, and it is about {topic}. Set aside {minutes} minutes and a sheet of paper; the screen will do for reading, but not for thinking.",
	"Before you read on, write down in one sentence what you expect of “{title}”. You will compare it with what you know at the end, and the difference is what you have learned.",
	"{teacher} likes to begin this lesson with a question: what would you do today if you had to get by without {topic}? Keep your answer. We come back to it.",
	"Most people meet {topic} for the first time by accident and by somebody else’s mistake. You have the luxury of meeting it on purpose.",
}

var explanations = []string{
	"In {subject}, much depends on doing a few things in the right order. Look at one example slowly, then at a second one quickly, and then make a third one of your own. Three is the number at which a pattern begins to show, and at which it may still surprise you.",
	"The trick is not to know more but to notice more. Take the smallest case you can think of and ask what changes if you take one thing away. What is left, when nothing more can be taken away, is what this lesson is about.",
	"Every practice of {subject} has its words, and the words of {topic} are worth learning exactly: not to impress anybody, but because two things with one name are how mistakes begin.",
	"Work through it twice. The first time, follow every step as it stands here. The second time, close the page and do it from memory; where you get stuck is where the next ten minutes are best spent.",
}

var warnings = []string{
	"A word of caution: it feels easy while somebody explains it. Do not believe the feeling before you have done it once alone, on another day.",
	"If you are stuck for longer than a quarter of an hour, stop, go for a walk, and ask in the group. Somebody else is stuck at the same place and will be glad that you asked first.",
	"Do not aim for a perfect result here. Aim for a finished one that you can look at next week with friendly eyes and a pencil.",
	"You will forget half of this by Friday. That is how memory works, and the reason why it comes back later in this course.",
}

var points = []string{
	"Small and finished beats large and nearly there.",
	"Say what you expect before you look.",
	"One example is a story, three are a pattern.",
	"Names matter: call the same thing by the same word.",
	"What you cannot explain yet, you have not finished learning.",
	"Practise on different days rather than for a longer time.",
}

var exercises = []string{
	"Find one example of {topic} from your own week, describe it in five sentences, and mark the one you are least sure of.",
	"Do the smallest version of “{title}” that could possibly count. Then change one thing about it and write down what happened.",
	"Explain “{title}” to somebody who has never heard of {subject}, in two minutes. Write down the question you could not answer.",
	"Take something you made in an earlier week and improve it by what you know about {topic} now. Keep both versions.",
}
