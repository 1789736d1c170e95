// Makes the first clicks that a project ever gets, with the console open beside, and counts the seconds until the console
// shows all of it: who calls whom, a trace across at least four services with its logs beside, and the requests' figures.
//
//   node first.mjs ADDRESS URL
//
// ADDRESS is what `trellis console` prints, URL is Evergreen's. CHROMIUM is the browser, /usr/bin/chromium if it is not set.
import { chromium } from "playwright-core";

const [address, url] = process.argv.slice(2);
if (!address || !url) {
	console.error("usage: node first.mjs ADDRESS URL");
	process.exit(64);
}
const allowed = 10_000; // ms
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: process.getuid() === 0 ? ["--no-sandbox"] : [] });
const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });

async function opened(place) {
	const tab = await context.newPage();
	await tab.goto(address);
	await tab.getByRole("heading", { level: 1, name: "Overview" }).waitFor();
	await tab.goto(`${address.replace(/#.*/, "")}#/${place}`);
	return tab;
}

const shown = {
	"who calls whom": { place: "topology", there: (tab) => tab.getByRole("row", { name: /^web progress \d/ }).waitFor() },
	"a trace across four services, and what was written meanwhile": {
		place: "traces",
		there: async (tab) => {
			await tab.locator("table.traces tbody tr", { hasText: /(\w+, ){3}/ }).first().getByRole("link").click();
			await tab.locator(".span-row").nth(3).waitFor();
			await tab.locator(".records li").first().waitFor();
		},
	},
	"how many requests a service gets": { place: "services/web?tab=metrics", there: (tab) => tab.locator(".legend li", { hasText: /^all (<0\.1|0\.[1-9]|[1-9])/ }).waitFor() },
};

let failed = false;
try {
	for (const one of Object.values(shown)) one.tab = await opened(one.place);
	const store = await context.newPage();
	await store.goto(`${url}/sign-up`);
	await store.fill("#name", "Ada Lovelace");
	await store.fill("#email", `ada-${Date.now()}@example.org`);
	await store.fill("#password", "a short sentence");
	const began = Date.now();
	await store.getByRole("button", { name: "Create account" }).click();
	await store.goto(`${url}/courses/working-with-watercolour`);
	await store.getByRole("button", { name: "Take a seat" }).click();
	await store.goto(`${url}/courses/working-with-watercolour/lessons/1`);
	await store.getByRole("button", { name: /^Done/ }).click();
	await store.waitForLoadState();
	const clicked = Date.now() - began;
	await Promise.all(Object.entries(shown).map(async ([what, { tab, there }]) => {
		tab.setDefaultTimeout(60_000);
		await there(tab);
		const took = Date.now() - began;
		if (took > allowed) failed = true;
		console.log(`${took > allowed ? "FINDING " : ""}${what}: ${took} ms after the first click, ${took - clicked} ms after the last`);
	}));
} finally {
	await browser.close();
}
process.exit(failed ? 1 : 0);
