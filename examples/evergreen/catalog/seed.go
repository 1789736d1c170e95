package catalog

import (
	_ "embed"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
)

//go:embed subjects.txt
var subjects string

type subject struct {
	topic, name, use string
	skills           []string
}

// kind is one way of teaching a subject; each subject is taught in every way.
type kind struct {
	level   string
	titles  []string
	summary []string
	seats   [2]int
	weeks   [2]int
	hours   [2]int
	rate    int // cents for an hour; 0 free of charge
}

var kinds = [...]kind{
	{level: "beginner", titles: []string{"%s from Scratch", "A First Course in %s", "%s: The Essentials", "A Gentle Introduction to %s"},
		summary: []string{"No experience needed, one small step at a time.", "A calm and complete way in, for people who have never tried.",
			"For beginners who would rather do than watch."},
		seats: [2]int{80, 240}, weeks: [2]int{4, 6}, hours: [2]int{2, 4}},
	{level: "intermediate", titles: []string{"Practical %s", "%s in Practice", "Everyday %s", "Working with %s"},
		summary: []string{"For those who know the basics and want to use them.", "Real cases, worked from beginning to end.",
			"What people who do this every day wish they had been told."},
		seats: [2]int{40, 120}, weeks: [2]int{5, 8}, hours: [2]int{3, 5}},
	{level: "intermediate", titles: []string{"%s by Example", "%s: A Project Course", "The %s Studio", "%s Workshop"},
		summary: []string{"One project, a small group, and a teacher who reads every draft.",
			"Make one thing well, with weekly reviews in a small group."},
		seats: [2]int{8, 24}, weeks: [2]int{6, 8}, hours: [2]int{4, 6}, rate: 200},
	{level: "advanced", titles: []string{"%s in Depth", "Advanced %s", "%s: The Hard Parts", "A Second Course in %s"},
		summary: []string{"The parts that introductions leave out.", "Hard questions, careful answers and a great deal of practice.",
			"For those who practise already and want fewer surprises."},
		seats: [2]int{20, 60}, weeks: [2]int{8, 12}, hours: [2]int{4, 7}, rate: 100},
}

// Seed returns the courses of a new platform. It is the same list every time and everywhere.
func Seed() []Course {
	var courses []Course
	for line := range strings.Lines(subjects) {
		if s, ok := parseSubject(line); ok {
			for i := range kinds {
				courses = append(courses, course(s, i))
			}
		}
	}
	return courses
}

func parseSubject(line string) (subject, bool) {
	fields := strings.Split(strings.TrimSpace(line), " | ")
	if len(fields) != 4 || strings.HasPrefix(line, "#") {
		return subject{}, false
	}
	return subject{topic: fields[0], name: fields[1], use: fields[2], skills: strings.Split(fields[3], "; ")}, true
}

func course(s subject, i int) Course {
	k := kinds[i]
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%d", s.name, i)
	r := rand.New(rand.NewPCG(h.Sum64(), 42))
	c := Course{
		Title: fmt.Sprintf(pick(r, k.titles), s.name), Summary: upper(s.use) + ". " + pick(r, k.summary),
		Topic: s.topic, Subject: s.name, Level: k.level,
		Teacher: pick(r, given) + " " + pick(r, family),
		Weeks:   between(r, k.weeks), Hours: between(r, k.hours), Seats: between(r, k.seats),
		Popularity: r.IntN(1000),
	}
	c.Slug, c.Price = slug(c.Title), k.rate*c.Weeks*c.Hours
	c.About = about(r, s, k, c)
	c.Outcomes = outcomes(r, s)
	c.Outline = outline(r, s, c.Weeks)
	return c
}

func about(r *rand.Rand, s subject, k kind, c Course) []string {
	opening := strings.NewReplacer("{Use}", upper(s.use), "{use}", s.use, "{name}", s.name).Replace(pick(r, openings))
	middle := fmt.Sprintf(pick(r, middles), s.skills[0], s.skills[1], s.skills[len(s.skills)-1])
	closing := fmt.Sprintf(pick(r, closings), c.Weeks, c.Hours)
	if k.seats[1] < 30 {
		closing += fmt.Sprintf(" The group is kept to %d, so that everybody is heard.", c.Seats)
	}
	return []string{opening, middle, closing}
}

func outcomes(r *rand.Rand, s subject) []string {
	out := make([]string, 0, len(s.skills))
	first := r.IntN(len(verbs))
	for i, skill := range s.skills {
		out = append(out, fmt.Sprintf(verbs[(first+i)%len(verbs)], skill))
	}
	return out
}

func outline(r *rand.Rand, s subject, weeks int) []Unit {
	units := []Unit{{Title: "Finding your feet", Lessons: []string{"Welcome, and how this course works",
		"What " + s.name + " is for", "Setting up, and a first small exercise"}}}
	for i := 0; len(units) < weeks-1; i++ {
		skill := s.skills[i%len(s.skills)]
		title, forms := upper(skill), firstLessons
		if i >= len(s.skills) {
			title, forms = upper(skill)+", continued", secondLessons
		}
		lessons := make([]string, 0, 3)
		for _, form := range forms {
			lessons = append(lessons, upper(fmt.Sprintf(pick(r, form), skill)))
		}
		units = append(units, Unit{Title: title, Lessons: lessons})
	}
	return append(units, Unit{Title: "Bringing it together", Lessons: []string{"Planning your final piece",
		"Review with a partner", "Where to go from here"}})
}

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

func between(r *rand.Rand, bounds [2]int) int { return bounds[0] + r.IntN(bounds[1]-bounds[0]+1) }

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func slug(title string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(title), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	}), "-")
}

var openings = []string{
	"{Use}: that is what {name} is about. This course gets you there by doing rather than watching: every lesson ends with something you have made, solved or said yourself.",
	"People come to {name} for many reasons; most of them stay for {use}. We begin with what matters most and leave the rest for the day you need it.",
	"There is no shortage of material on {name}. What is missing is a path through it. This is one, and it leads to {use}.",
}

var middles = []string{
	"You will spend most of your time on %s and %s, because everything else rests on them. Towards the end we turn to %s, with exercises taken from real work.",
	"We take up %s first, move on to %s as soon as you are steady, and finish with %s. Each step is short enough for an evening.",
	"Expect to meet %s early, to come back to %s more than once, and to find %s far less frightening than its name.",
}

var closings = []string{
	"Set aside %d weeks, about %d hours each. Deadlines are soft; the discussions are not.",
	"The course runs for %d weeks at around %d hours a week, and you may repeat any of them.",
	"It takes %d weeks. Most learners need %d hours a week, some of them on a sofa.",
}

var verbs = []string{"Explain %s in your own words", "Use %s with confidence", "Recognise and mend mistakes in %s",
	"Practise %s without a teacher at your side", "Show %s in a piece of your own", "Decide how much time to give to %s"}

var firstLessons = [][]string{
	{"the point of %s", "a first look at %s", "the idea behind %s"},
	{"%s, step by step", "a worked example of %s", "practising %s"},
	{"common mistakes with %s", "exercise: %s", "questions about %s, answered"},
}

var secondLessons = [][]string{
	{"%s revisited", "going further with %s"},
	{"a harder case of %s", "%s under pressure"},
	{"review: %s", "%s in your own project"},
}

var given = []string{"Amara", "Ana", "Anneke", "Arjun", "Ayşe", "Bilal", "Carmen", "Chidi", "Clara", "Daniel", "Elif", "Emeka",
	"Eszter", "Fatima", "Felix", "Grace", "Hana", "Hugo", "Ines", "Ivan", "Jonas", "Júlia", "Kenji", "Laila", "Lars", "Leila",
	"Linh", "Lucía", "Mateo", "Mei", "Mirembe", "Nadia", "Noah", "Olga", "Omar", "Petra", "Priya", "Rafael", "Rosa", "Ruth",
	"Samir", "Sana", "Sofia", "Tariq", "Teresa", "Tomasz", "Vera", "Wanjiru", "Yara", "Yuki"}

var family = []string{"Abara", "Adeyemi", "Almeida", "Andersen", "Bakker", "Banerjee", "Bianchi", "Castillo", "Chen", "Costa",
	"Demir", "Dubois", "Eriksson", "Farah", "Ferreira", "Fischer", "García", "Haddad", "Hansen", "Hoffmann", "Ito", "Ivanova",
	"Jansen", "Kamau", "Kaur", "Keller", "Kim", "Kowalski", "Laurent", "Lindqvist", "Mbeki", "Medina", "Moreau", "Nakamura",
	"Nguyen", "Novak", "Okafor", "Oliveira", "Pereira", "Petrov", "Rahman", "Rossi", "Santos", "Schmidt", "Sharma", "Silva",
	"Tanaka", "Torres", "Varga", "Weber"}
