// Who this browser is to the control plane. The key comes behind the # of the address that `trellis console` prints, and is
// traded for a cookie, which scripts cannot read, and a proof that is kept for this origin alone.

const proofName = "trellis-page";

let proof = read();

function read(): string {
  try {
    return localStorage.getItem(proofName) ?? "";
  } catch {
    return "";
  }
}

function keep(value: string) {
  proof = value;
  try {
    localStorage.setItem(proofName, value);
  } catch {
    // it lasts as long as the page
  }
}

export class Refused extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** request sends a request with this browser's proof. An answer that is not 2xx becomes a Refused. */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  headers.set("X-Trellis-Page", proof);
  let answer: Response;
  try {
    answer = await fetch(path, { ...init, headers, credentials: "same-origin" });
  } catch (err) {
    if (init.signal?.aborted) throw err;
    throw new Refused(0, "The control plane does not answer.");
  }
  if (answer.ok) return answer;
  let message = `The control plane answered ${answer.status}.`;
  try {
    message = ((await answer.json()) as { message?: string }).message || message;
  } catch {
    // no reason was given
  }
  throw new Refused(answer.status, message);
}

export async function getJSON<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await request(path, { signal })).json()) as T;
}

export async function post(path: string, body: unknown): Promise<void> {
  await request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

export interface Identity {
  project: string;
  actor: string;
}

export async function signIn(key: string): Promise<Identity> {
  const answer = await request("session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ key: key.trim().replace(/^.*#key=/, "") }),
  });
  keep(((await answer.json()) as { page: string }).page);
  return whoami();
}

export async function whoami(): Promise<Identity> {
  if (!proof) throw new Refused(401, "Not signed in."); // nobody has to be asked
  return getJSON<Identity>("session");
}

export async function signOut(): Promise<void> {
  await request("session", { method: "DELETE" });
  keep("");
}

/** keyInAddress returns the key behind the # and takes it out of the address, so that it is neither copied nor kept. */
export function keyInAddress(): string {
  const found = /^#key=([A-Za-z0-9_-]+)$/.exec(location.hash);
  if (!found) return "";
  history.replaceState(null, "", location.pathname);
  return found[1] ?? "";
}

/** events reads server-sent events and calls on for each, until the stream ends. */
export async function events(path: string, on: (name: string, data: string) => void, signal: AbortSignal): Promise<void> {
  const answer = await request(path, { signal, headers: { Accept: "text/event-stream" } });
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      if (!block.startsWith("event: ")) continue; // a comment
      const at = block.indexOf("\ndata: ");
      if (at > 0) on(block.slice(7, at), block.slice(at + 7));
    }
  }
}
