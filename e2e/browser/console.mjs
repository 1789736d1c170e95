// Uses the console in a real browser: clicks through every page, light and dark, on a phone and on a desktop, looks at each
// with axe, carries out what it can do, and does the tasks that it is for in at most three clicks. It leaves pictures.
//
//   node console.mjs ADDRESS FOLDER [command that kills the control plane]
//
// ADDRESS is what `trellis console` prints, of Evergreen with a service "chatty" that has written 120,000 lines, and of
// which a second revision was deployed. CHROMIUM is the browser, /usr/bin/chromium if it is not set; MODES, "light,dark"
// for one, says that only these are looked at.
import { execSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [address, folder, kill] = process.argv.slice(2);
if (!address || !folder) {
	console.error("usage: node console.mjs ADDRESS FOLDER [COMMAND]");
	process.exit(64);
}
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let findings = 0;
let looks = 0;

function finding(where, text) {
	findings++;
	console.log(`FINDING ${where}: ${text}`);
}

// complaints are what the browser's console says while an answer of the control plane is not there on purpose.
let expected = /$^/;

const modes = {
	light: { scheme: "light", width: 1440 },
	dark: { scheme: "dark", width: 1440 },
	phone: { scheme: "light", width: 390 },
	"phone-dark": { scheme: "dark", width: 390 },
	wide: { scheme: "light", width: 2200 },
};
const asked = process.env.MODES ? process.env.MODES.split(",") : Object.keys(modes);

async function open(browser, mode, url = address) {
	const { scheme, width } = modes[mode] ?? modes.light;
	const context = await browser.newContext({ colorScheme: scheme, viewport: { width, height: width < 500 ? 844 : 860 }, reducedMotion: "reduce" });
	const tab = await context.newPage();
	tab.setDefaultTimeout(90_000); // a busy machine is slow, and no finding
	tab.setDefaultNavigationTimeout(90_000);
	tab.on("console", (m) => ["error", "warning"].includes(m.type()) && !expected.test(m.text()) && finding(`${mode} ${tab.url()}`, m.text()));
	tab.on("pageerror", (err) => finding(`${mode} ${tab.url()}`, String(err)));
	tab.on("dialog", (d) => (finding(mode, `a dialog of the browser: ${d.message()}`), d.dismiss()));
	await tab.goto(url);
	await heading(tab);
	return { tab, mode, width, context };
}

function heading(tab, name) {
	return tab.getByRole("heading", { level: 1, name }).waitFor();
}

async function look(page, name) {
	const { tab, mode, width } = page;
	await tab.locator(".loading").first().waitFor({ state: "detached" });
	await tab.waitForTimeout(700);
	const wide = await tab.evaluate(() => document.documentElement.scrollWidth);
	if (wide > width) finding(`${mode} ${name}`, `is ${wide} wide in a window of ${width}`);
	await tab.evaluate(axe);
	const found = await tab.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
	for (const v of found.violations) {
		for (const n of v.nodes) finding(`${mode} ${name}`, `${v.id}: ${n.target.join(" ")}: ${n.failureSummary.split("\n").slice(1, 3).join(" ").trim()}`);
	}
	await tab.screenshot({ path: join(folder, `console-${mode}-${name}.png`) });
	looks++;
}

const pages = ["Topology", "Traces", "Logs", "Metrics", "Alerts", "Deployments", "Events", "Overview"];
const tabs = ["Metrics", "Logs", "Traces", "Why", "Rollouts", "Scaling", "Events", "Configuration", "Instances"];

// everything clicks through every page.
async function everything(page) {
	const { tab } = page;
	await tab.getByRole("row", { name: /web/ }).first().waitFor();
	await look(page, "overview");
	for (const name of pages) {
		await tab.getByRole("navigation", { name: "Pages" }).getByRole("link", { name }).click();
		await heading(tab, name);
		await look(page, name.toLowerCase());
	}
	await tab.getByRole("link", { name: "web", exact: true }).click();
	await heading(tab, /web/);
	await look(page, "service");
	for (const name of tabs) {
		await tab.getByRole("navigation", { name: "About web" }).getByRole("link", { name }).click();
		await look(page, `service-${name.toLowerCase()}`);
	}
	await tab.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "Traces" }).click();
	await tab.locator("table.traces tbody tr", { hasText: /web/ }).first().getByRole("link").click(); // not all go through it
	await tab.getByRole("button", { name: /web/ }).first().click();
	await look(page, "trace");
	await tab.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "Deployments" }).click();
	await tab.getByRole("list", { name: /Revisions/ }).getByRole("link").last().click();
	await tab.getByRole("button", { name: /Go back to/ }).click();
	await look(page, "go-back");
	await tab.keyboard.press("Escape");
	if (await tab.getByRole("dialog").count()) finding(page.mode, "Escape does not close the question");
	await notServed(page);
}

// notServed looks at what a gateway of a cluster's own leaves out, which it makes the control plane say.
async function notServed(page) {
	const tab = await page.context.newPage();
	await tab.addInitScript(() => {
		const reason = "no controller has taken the gateway: is one installed for class missing?";
		const unserved = [{ service: "web", route: "school.example.org/*", source: "compose.yaml:12:9", reason }, { route: "https", reason: "the gateway does not open it: no certificate" }];
		const real = globalThis.fetch;
		globalThis.fetch = async (path, init) => {
			const answer = await real(path, init);
			if (path !== "live") return answer;
			const told = new TransformStream({ transform: (text, to) => to.enqueue(text.replace(/"control_plane":/, `"unserved":${JSON.stringify(unserved)},$&`)) });
			return new Response(answer.body.pipeThrough(new TextDecoderStream()).pipeThrough(told).pipeThrough(new TextEncoderStream()), answer);
		};
	});
	await tab.goto(address.replace(/#.*/, "") + "#/");
	await tab.getByText("school.example.org/*").waitFor();
	await look({ ...page, tab }, "not-served");
	await tab.getByRole("link", { name: "catalog", exact: true }).click();
	await tab.getByText("no certificate").waitFor();
	if (await tab.getByText("school.example.org/*").count()) finding(page.mode, "catalog shows what is not served of web");
	await tab.close();
}

// stranger has no key.
async function stranger(browser) {
	const page = await open(browser, "stranger", address.replace(/#.*/, ""));
	await heading(page.tab, "Sign in to Trellis");
	await look(page, "sign-in");
	expected = /401/; // the browser says so of an answer
	await page.tab.getByLabel("Address or key").fill("not the key");
	await page.tab.getByRole("button", { name: "Sign in" }).click();
	await page.tab.getByRole("alert").waitFor();
	await look(page, "sign-in-refused");
	expected = /$^/;
	await page.tab.getByLabel("Address or key").fill(address);
	await page.tab.getByRole("button", { name: "Sign in" }).click();
	await heading(page.tab, "Overview");
	await page.context.close();
}

// keyboard goes to a page, into a service and through a question without a mouse.
async function keyboard(page) {
	const { tab } = page;
	await tab.goto(address.replace(/#.*/, "") + "#/");
	await heading(tab, "Overview");
	const tabTo = async (name, key = "Tab") => {
		for (let i = 0; i < 80; i++) {
			await tab.keyboard.press(key);
			const at = await tab.evaluate(() => {
				const e = document.activeElement;
				const s = e && getComputedStyle(e);
				return { text: e?.textContent?.trim() ?? "", ring: Boolean(s && s.outlineStyle !== "none" && s.outlineWidth !== "0px") };
			});
			if (at.text === name) {
				if (!at.ring) finding("keyboard", `${name} shows no focus`);
				return;
			}
		}
		finding("keyboard", `${name} cannot be reached`);
	};
	await tabTo("Events");
	await tab.keyboard.press("Enter");
	await heading(tab, "Events");
	await tabTo("Overview", "Shift+Tab"); // the other way there are as many links as events
	await tab.keyboard.press("Enter");
	await heading(tab, "Overview");
	await tabTo("catalog");
	await tab.keyboard.press("Enter");
	await heading(tab, /catalog/);
	await tabTo("Restart");
	await tab.keyboard.press("Enter");
	await tab.getByRole("dialog").waitFor();
	const inside = await tab.evaluate(() => document.querySelector("dialog")?.contains(document.activeElement));
	if (!inside) finding("keyboard", "the question does not take the focus");
	await tab.keyboard.press("Escape");
	await tab.getByRole("dialog").waitFor({ state: "detached" });
	const back = await tab.evaluate(() => document.activeElement?.textContent);
	if (back !== "Restart") finding("keyboard", `after the question the focus is at ${back}`);
}

// acts carries out what the console can do, and looks whether it was done.
async function acts(page) {
	const { tab } = page;
	const home = address.replace(/#.*/, "");
	await tab.goto(home + "#/services/catalog");
	await tab.getByRole("button", { name: "Scale" }).click();
	await tab.getByRole("spinbutton", { name: "Replicas" }).fill("3");
	await tab.getByRole("dialog").getByRole("button", { name: "Scale" }).click();
	await tab.getByText("3 of 3 ready").waitFor({ timeout: 90_000 });
	await tab.getByRole("button", { name: "Stop" }).click();
	await look(page, "question");
	await tab.getByRole("button", { name: "Cancel" }).click();
	await tab.goto(home + "#/deployments");
	await tab.getByRole("list", { name: /Revisions/ }).getByRole("link").last().click();
	await tab.getByRole("button", { name: "Go back to 1" }).click();
	await tab.getByRole("button", { name: "Deploy revision 1 again" }).click();
	await tab.getByRole("list", { name: /Revisions/ }).getByRole("link", { name: /^3/ }).waitFor({ timeout: 90_000 });
	await look(page, "went-back");
}

// flood reads 100,000 lines and types into the filter above them.
async function flood(page) {
	const { tab } = page;
	await tab.goto(address.replace(/#.*/, "") + "#/logs?service=chatty");
	const began = Date.now();
	await tab.getByText(/^100 k lines/).waitFor({ timeout: 120_000 });
	const loaded = Date.now() - began;
	const text = "<img src=x onerror=alert(1)>";
	await tab.getByText(text).first().waitFor(); // written by the service: shown as it is, and nothing more
	await tab.evaluate(() => {
		globalThis.inputs = [];
		new PerformanceObserver((list) => {
			for (const e of list.getEntries()) if (e.name === "keydown" || e.name === "input" || e.name === "keyup") globalThis.inputs.push(e.duration);
		}).observe({ type: "event", durationThreshold: 16 });
	});
	// How long it takes on this machine depends on who else uses it; how much work it is does not.
	const work = await page.context.newCDPSession(tab);
	await work.send("Performance.enable", { timeDomain: "threadTicks" });
	const spent = async () => (await work.send("Performance.getMetrics")).metrics.find((m) => m.name === "TaskDuration").value * 1000;
	await tab.getByRole("searchbox", { name: "Filter" }).click();
	const typed = "line 99999 of";
	const idle = await spent();
	await tab.keyboard.type(typed, { delay: 120 });
	const key = ((await spent()) - idle) / typed.length;
	await tab.getByText(/^1 lines? of/).waitFor();
	await tab.waitForTimeout(500);
	await look(page, "flood");
	const inputs = (await tab.evaluate(() => globalThis.inputs)).sort((a, b) => a - b);
	const median = inputs[Math.floor(inputs.length / 2)] ?? 0;
	console.log(`100,000 lines open after ${loaded} ms; ${inputs.length} inputs of 16 ms or more, median ${median} ms, longest ${inputs.at(-1) ?? 0} ms; a key is ${key.toFixed(1)} ms of work for the page`);
	if (key >= 100) finding("flood", `a key is ${key} ms of work`);
	await tab.getByRole("searchbox", { name: "Filter" }).fill("");
	const rows = await tab.locator(".log-row").count();
	if (rows > 200) finding("flood", `${rows} lines are elements of the page`);
	const jumps = 60;
	const before = await spent();
	await tab.evaluate(async (n) => {
		const box = document.querySelector(".log-box");
		for (let i = 0; i < n; i++) {
			box.scrollTop = (box.scrollHeight * ((i * 37) % n)) / n;
			await new Promise(requestAnimationFrame);
			await new Promise((done) => setTimeout(done));
		}
	}, jumps);
	const jump = ((await spent()) - before) / jumps;
	console.log(`a jump to anywhere among them is ${jump.toFixed(1)} ms of work for the page`);
	if (jump >= 50) finding("flood", `a jump is ${jump} ms of work`);
}

// tasks are what people come for. Each begins at the overview and has three clicks.
async function tasks(page) {
	const { tab } = page;
	let clicks = 0;
	const click = async (locator) => {
		clicks++;
		await locator.click();
	};
	const nav = (name) => tab.getByRole("navigation", { name: "Pages" }).getByRole("link", { name });
	const about = (name) => tab.getByRole("navigation", { name: /^About/ }).getByRole("link", { name });
	const service = (name) => tab.getByRole("link", { name, exact: true }).first();
	const all = {
		"which replica is slow": async () => {
			await click(service("web"));
			await tab.getByRole("columnheader", { name: "p99" }).waitFor();
			await tab.getByRole("row", { name: /web-1-/ }).waitFor();
		},
		"what changed at that time": async () => {
			await click(nav("Events"));
			const at = (await tab.locator(".event time").first().textContent()).slice(0, 5);
			await tab.getByRole("searchbox", { name: "Filter" }).fill(at);
			await tab.locator(".event").first().waitFor();
		},
		"what a deployment changed": async () => {
			await click(nav("Deployments"));
			await click(tab.getByRole("list", { name: /Revisions/ }).getByRole("link", { name: /^2/ }));
			await tab.getByText("services.web.environment.GREETING").waitFor();
		},
		"how to go back": async () => {
			await click(nav("Deployments"));
			await click(tab.getByRole("list", { name: /Revisions/ }).getByRole("link").last());
			await click(tab.getByRole("button", { name: /Go back to/ }));
			await tab.getByRole("dialog").waitFor();
			await tab.keyboard.press("Escape");
		},
		"why there are so many replicas": async () => {
			await click(service("catalog"));
			await click(about("Scaling"));
			await tab.getByText(/replica/).first().waitFor();
		},
		"what a service said when it failed": async () => {
			await click(service("chatty"));
			await click(about("Logs"));
			await click(tab.getByRole("checkbox", { name: "Errors only" }));
			await tab.getByText("could not be read").first().waitFor();
		},
		"who calls whom, how often, with what errors": async () => {
			await click(nav("Topology"));
			await tab.getByRole("row", { name: /web.*catalog/ }).first().waitFor();
		},
		"the slowest part of a request": async () => {
			await click(nav("Traces"));
			await click(tab.locator("table.traces tbody tr", { hasText: /(\w+, ){3}/ }).first().getByRole("link")); // across four services
			await tab.locator(".span-row").nth(3).waitFor();
		},
		"what the memory of an instance is, and was": async () => {
			await click(service("web"));
			await click(about("Metrics"));
			await tab.getByText("Memory", { exact: true }).waitFor();
		},
		"how much of the error budget is left": async () => {
			await click(nav("Alerts"));
			await tab.getByRole("region", { name: "Error budgets" }).getByRole("row", { name: /web.*availability/ }).waitFor();
		},
		"the requests of a service over an hour": async () => {
			await click(nav("Metrics"));
			await click(tab.getByRole("button", { name: "p99 by service" }));
			await tab.locator(".chart canvas").first().waitFor();
		},
	};
	for (const [name, task] of Object.entries(all)) {
		await tab.goto(address.replace(/#.*/, "") + "#/");
		await tab.getByRole("row", { name: /web/ }).first().waitFor();
		clicks = 0;
		try {
			await task();
			if (clicks > 3) finding("tasks", `${name}: ${clicks} clicks`);
			else console.log(`task: ${name}: ${clicks} ${clicks === 1 ? "click" : "clicks"}`);
		} catch (err) {
			finding("tasks", `${name}: ${String(err).split("\n")[0]}`);
			await tab.screenshot({ path: join(folder, `console-task-${name.replace(/\W+/g, "-")}.png`) });
		}
	}
}

// outage kills the control plane under an open page.
async function outage(page) {
	const { tab } = page;
	await tab.goto(address.replace(/#.*/, "") + "#/");
	await heading(tab, "Overview");
	expected = /Failed to load resource|net::ERR/;
	execSync(kill, { stdio: ["ignore", "ignore", "inherit"] });
	await tab.getByText("reconnecting").waitFor({ timeout: 30_000 });
	await tab.getByText("live", { exact: true }).waitFor({ timeout: 60_000 });
	expected = /$^/;
}

// firstPaint takes the best of five, beside a page of one line: whatever else the machine does adds to both.
async function firstPaint(page) {
	const { tab } = page;
	const painted = () => tab.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? Infinity);
	let [paint, floor] = [Infinity, Infinity];
	for (let i = 0; i < 5; i++) {
		expected = /404/;
		await tab.goto(address.replace(/#.*/, "") + "no-such-page");
		for (let n = 0; n < 100 && (await painted()) === Infinity; n++) await tab.waitForTimeout(50);
		floor = Math.min(floor, await painted());
		expected = /$^/;
		await tab.goto(address.replace(/#.*/, ""));
		await heading(tab, "Overview");
		paint = Math.min(paint, await painted());
	}
	console.log(`first paint after ${Math.round(paint)} ms, that of a page of one line after ${Math.round(floor)} ms`);
	if (!(paint - floor < 1000)) finding("light", `first paint after ${paint} ms`);
}

mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: process.getuid() === 0 ? ["--no-sandbox"] : [] });
try {
	if (asked.includes("light")) {
		await stranger(browser);
		const desk = await open(browser, "light");
		if (desk.tab.url().includes("key=")) finding("light", "the key stays in the address");
		await firstPaint(desk);
		await everything(desk);
		await tasks(desk);
		await keyboard(desk);
		await flood(desk);
		await acts(desk);
		if (kill) await outage(desk);
		await desk.context.close();
	}
	for (const mode of asked.filter((m) => m !== "light")) {
		const page = await open(browser, mode);
		await everything(page);
		await page.context.close();
	}
} finally {
	await browser.close();
}
console.log(`${looks} pages looked at, ${findings} findings; pictures in ${folder}`);
process.exit(findings ? 1 : 0);
