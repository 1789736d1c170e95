// Recommendations: which courses go with those a learner has. Node's standard library, no packages.
//
//   GET /recommendations?course=a&course=b&size=3   {"courses": ["c", "d", "e"]}
//   GET /healthz, /readyz
//
// It asks the catalogue (CATALOG_URL) for all courses now and then, and answers from memory: while the catalogue is away
// it goes on with what it knows.
import http from "node:http";

const port = Number(process.env.PORT || 8080);
const catalog = (process.env.CATALOG_URL || "http://catalog:8080").replace(/\/$/, "");
const levels = ["beginner", "intermediate", "advanced"];
const refresh = 60_000; // ms between two looks at the catalogue
const retry = 1_000; // ms, while it has never answered

let courses = new Map(); // by slug

async function page(number) {
	const answer = await fetch(`${catalog}/api/courses?size=60&page=${number}`, { signal: AbortSignal.timeout(3000) });
	if (!answer.ok) throw new Error(`catalogue: ${answer.status}`);
	return answer.json();
}

async function learn() {
	let wait = refresh;
	try {
		const all = new Map();
		for (let n = 1, pages = 1; n <= pages; n++) {
			const part = await page(n);
			pages = part.pages;
			for (const c of part.courses) all.set(c.slug, c);
		}
		courses = all;
	} catch (err) {
		if (courses.size === 0) wait = retry;
		log("warn", "catalogue is away", { err: String(err) });
	}
	setTimeout(learn, wait).unref();
}

// likeness says how well a course goes with one that the learner has: the same subject one step further counts most.
function likeness(has, other) {
	const step = levels.indexOf(other.level) - levels.indexOf(has.level);
	let score = 0;
	if (other.subject === has.subject) score += step > 0 ? 6 : 2;
	if (other.topic === has.topic) score += step === 0 ? 3 : 2;
	if (other.teacher === has.teacher) score += 1;
	return score;
}

export function recommend(all, slugs, size) {
	const mine = slugs.map((s) => all.get(s)).filter(Boolean);
	const taken = new Set(slugs);
	const found = [];
	for (const c of all.values()) {
		if (taken.has(c.slug)) continue;
		const score = mine.reduce((sum, m) => sum + likeness(m, c), 0);
		if (score > 0) found.push({ slug: c.slug, score: score + c.popularity / 1000 });
	}
	found.sort((a, b) => b.score - a.score || a.slug.localeCompare(b.slug));
	return found.slice(0, size).map((c) => c.slug);
}

function log(level, msg, more) {
	console.log(JSON.stringify({ time: new Date().toISOString(), level, service: "recommendations", msg, ...more }));
}

function answer(res, status, body) {
	const text = JSON.stringify(body) + "\n";
	res.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text) });
	res.end(text);
}

function handle(req, res) {
	const url = new URL(req.url, "http://recommendations");
	if (req.method !== "GET") return answer(res, 405, { status: 405, code: "method", title: "Only GET is answered here." });
	switch (url.pathname) {
		case "/healthz":
			return answer(res, 200, { status: "ok" });
		case "/readyz":
			return courses.size ? answer(res, 200, { status: "ready" }) : answer(res, 503, { status: "unready", reason: "no courses yet" });
		case "/recommendations": {
			const size = Math.min(Math.max(Number.parseInt(url.searchParams.get("size") ?? "3", 10) || 3, 1), 20);
			return answer(res, 200, { courses: recommend(courses, url.searchParams.getAll("course").slice(0, 100), size) });
		}
	}
	answer(res, 404, { status: 404, code: "not_found", title: "There is nothing here." });
}

function main() {
	const server = http.createServer(handle);
	server.requestTimeout = 5000;
	server.listen(port, () => log("info", "serving", { port }));
	learn();
	for (const signal of ["SIGTERM", "SIGINT"]) {
		process.on(signal, () => {
			server.close(() => process.exit(0));
			server.closeIdleConnections();
			setTimeout(() => process.exit(0), 8000).unref();
		});
	}
}

if (process.argv[1] && import.meta.url.endsWith(process.argv[1].split("/").pop())) main();
