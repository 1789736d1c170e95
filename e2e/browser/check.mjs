// Looks at Evergreen in a real browser: every page and every error page, light and dark, on a phone and on a desktop. It
// fails for what axe finds, for a page that is wider than its window, and for anything the console complains about, and
// leaves pictures of all.
//
//   node check.mjs URL FOLDER [command that takes the service "content" away]
//
// CHROMIUM is the browser, /usr/bin/chromium if it is not set.
import { execSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [base, folder, away] = process.argv.slice(2);
if (!base || !folder) {
	console.error("usage: node check.mjs URL FOLDER [COMMAND]");
	process.exit(64);
}
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const free = "/courses/working-with-watercolour";
const paid = "/courses/watercolour-in-depth";
const password = "a short sentence";
let findings = 0;
let pages = 0;

function finding(where, text) {
	findings++;
	console.log(`${where}: ${text}`);
}

// look judges the page as it stands and takes its picture.
async function look(page, mode, name, status, answer) {
	const where = `${mode} ${name}`;
	if (answer && answer.status() !== status) finding(where, `answered ${answer.status()}, not ${status}`);
	if (page.width < (await page.tab.evaluate(() => document.documentElement.scrollWidth))) finding(where, "is wider than the window");
	await page.tab.evaluate(axe);
	const found = await page.tab.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
	for (const v of found.violations) {
		for (const n of v.nodes) finding(where, `${v.id}: ${n.target.join(" ")}: ${n.failureSummary.split("\n").slice(1, 3).join(" ").trim()}`);
	}
	await page.tab.screenshot({ path: join(folder, `${mode}-${name}.png`), fullPage: true });
	pages++;
}

async function open(browser, scheme, width) {
	const context = await browser.newContext({ baseURL: base, colorScheme: scheme, viewport: { width, height: width < 500 ? 844 : 900 }, reducedMotion: "reduce" });
	const tab = await context.newPage();
	const page = { tab, width };
	// That a page with an error status was answered with it is no complaint.
	tab.on("console", (m) => m.type() === "error" && !m.text().startsWith("Failed to load resource") && finding(tab.url(), m.text()));
	tab.on("pageerror", (err) => finding(tab.url(), String(err)));
	return page;
}

// press sends the form that a button belongs to and returns the answer of the page it leads to.
async function press(page, name) {
	const [answer] = await Promise.all([page.tab.waitForResponse((r) => r.request().isNavigationRequest() && r.status() !== 303),
		page.tab.getByRole("button", { name }).click()]);
	await page.tab.waitForLoadState();
	return answer;
}

async function card(page, number) {
	await page.tab.fill("#number", number);
	await page.tab.fill("#expiry", "12/39");
	await page.tab.fill("#code", "123");
	return press(page, /^Pay €/);
}

async function visitor(page, mode) {
	const show = async (name, path, status = 200) => look(page, mode, name, status, await page.tab.goto(path));
	await show("home", "/");
	await show("courses", "/courses");
	await show("topic", "/courses?topic=music&level=advanced");
	await show("nothing-found", "/courses?q=nothing+has+this+name");
	await show("course", free);
	await show("course-paid", paid);
	await show("first-lesson", `${free}/lessons/1`);
	await show("sign-in", "/sign-in");
	await show("missing-page", "/nowhere", 404);
	await show("missing-course", "/courses/no-such-course", 404);
	await page.tab.goto("/sign-in");
	await page.tab.fill("#email", "nobody@example.org");
	await page.tab.fill("#password", "wrong");
	await look(page, mode, "sign-in-refused", 401, await press(page, "Sign in"));
}

async function learner(page, mode) {
	const show = async (name, path, status = 200) => look(page, mode, name, status, await page.tab.goto(path));
	await show("sign-up", "/sign-up");
	await page.tab.fill("#name", "Ada Lovelace");
	await page.tab.fill("#email", `ada-${mode}-${Date.now()}@example.org`);
	await page.tab.fill("#password", password);
	await look(page, mode, "no-courses", 200, await press(page, "Create account"));
	await show("inbox-empty", "/inbox");
	await page.tab.goto(free);
	await look(page, mode, "enrolled", 200, await press(page, "Take a seat"));
	await show("lesson", `${free}/lessons/1`);
	await press(page, /^Done/);
	await look(page, mode, "lesson-2", 200);
	await show("lesson-missing", `${free}/lessons/99`, 404);
	await page.tab.goto(paid);
	await look(page, mode, "pay", 200, await press(page, "Take a seat"));
	await show("held", paid);
	await look(page, mode, "pay-wrong-number", 422, await card(page.tab.url().endsWith("/pay") ? page : await to(page, `${paid}/pay`), "4242 4242 4242 4241"));
	await look(page, mode, "pay-declined", 402, await card(page, "4000 0000 0000 0002"));
	await look(page, mode, "paid", 200, await card(page, "4242 4242 4242 4242"));
	await show("my-courses", "/my-courses");
	await page.tab.waitForTimeout(1500); // events travel by themselves
	await show("inbox", "/inbox");
}

async function to(page, path) {
	await page.tab.goto(path);
	return page;
}

mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: process.getuid() === 0 ? ["--no-sandbox"] : [] });
const open_ = [];
try {
	for (const scheme of ["light", "dark"]) {
		for (const width of [390, 1440]) {
			const mode = `${scheme}-${width}`;
			const page = await open(browser, scheme, width);
			await visitor(page, mode);
			await learner(page, mode);
			open_.push([page, mode]);
		}
	}
	if (away) {
		execSync(away, { stdio: ["ignore", "ignore", "inherit"] });
		for (const [page, mode] of open_) await look(page, mode, "service-away", 503, await page.tab.goto(`${free}/lessons/2`));
	}
} finally {
	await browser.close();
}
console.log(`${pages} pages looked at, ${findings} findings; pictures in ${folder}`);
process.exit(findings ? 1 : 0);
