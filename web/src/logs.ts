// The output of instances as it comes, in a ring of lines that pages look into.
import { useEffect, useRef, useState, useSyncExternalStore } from "react";
import { events, Refused } from "./session";
import type { LogLine } from "./types";

export const capacity = 100_000;

/** disorder is how many milliseconds a line may be older than the one before it without being moved. */
const disorder = 1000;

export interface Kept extends LogLine {
  key: number; // counted up in the order that is shown
  at: number;
  lower: string; // what a filter looks into
}

/** Ring keeps the newest lines. What it holds is read by position, 0 being the oldest. */
export class Ring {
  private lines: Kept[] = [];
  private fresh: Kept[] = []; // not shown yet
  private next = 0;
  private due = 0;
  private listeners = new Set<() => void>();
  version = 0;
  order = 0; // counted up when lines were put in another order
  dropped = 0;
  error: unknown = null;

  add(line: LogLine) {
    this.fresh.push({ ...line, key: 0, at: Date.parse(line.time), lower: `${line.instance} ${line.text}`.toLowerCase() });
    this.changed();
  }

  fail(error: unknown) {
    this.error = error;
    this.changed();
  }

  all(): Kept[] {
    return this.lines;
  }

  /** newest is the time of the newest line that was added, shown or not; "" before the first one. */
  newest(): string {
    const shown = this.lines.at(-1);
    return this.fresh.reduce((last, line) => (!last || line.at >= last.at ? line : last), shown)?.time ?? "";
  }

  /** changed tells who looks, at most ten times a second however fast lines come. */
  private changed() {
    if (this.due) return;
    this.due = window.setTimeout(() => {
      this.due = 0;
      this.take();
      if (this.lines.length > capacity * 1.1) { // not line by line, which would move all of them each time
        this.dropped += this.lines.length - capacity;
        this.lines = this.lines.slice(-capacity);
      }
      this.version++;
      for (const listener of this.listeners) listener();
    }, 100);
  }

  /** take shows what is fresh. The past of several instances comes one after the other, and is put in order of time. */
  private take() {
    const newest = this.lines.at(-1)?.at ?? 0;
    const late = this.fresh.some((l) => l.at < newest - disorder);
    this.fresh.sort((a, b) => a.at - b.at);
    for (const line of this.fresh) {
      line.key = this.next++;
      this.lines.push(line);
    }
    this.fresh = [];
    if (!late) return;
    this.lines.sort((a, b) => a.at - b.at);
    this.lines.forEach((line, i) => (line.key = i));
    this.next = this.lines.length;
    this.order++;
  }

  subscribe = (listener: () => void) => {
    this.listeners.add(listener);
    return () => {
      this.listeners.delete(listener);
    };
  };
}

export interface Query {
  services: string[];
  instance: string;
  tail: number; // lines of each instance to begin with
}

/** useLogs follows what the query asks for. Another query begins anew. */
export function useLogs(query: Query): Ring {
  const text = JSON.stringify({ services: query.services.length ? query.services : undefined, instance: query.instance || undefined, tail: query.tail, follow: true });
  const [ring, setRing] = useState(() => new Ring());
  const first = useRef(true);
  useEffect(() => {
    let mine = ring;
    if (!first.current) {
      mine = new Ring();
      setRing(mine);
    }
    first.current = false;
    const end = new AbortController();
    void (async () => {
      let asked = text;
      for (let pause = 500; !end.signal.aborted; pause = Math.min(2 * pause, 8000)) {
        try {
          await events(`live/logs?q=${encodeURIComponent(asked)}`, (name, data) => {
            if (name === "error") {
              mine.fail(new Error((JSON.parse(data) as { message?: string }).message ?? "The output cannot be read."));
              return;
            }
            mine.error = null;
            pause = 500;
            mine.add(JSON.parse(data) as LogLine);
          }, end.signal);
        } catch (err) {
          if (end.signal.aborted) return;
          mine.fail(err);
          if (err instanceof Refused && err.status !== 0) return;
        }
        // It goes on where it stopped.
        const last = mine.newest();
        if (last) asked = JSON.stringify({ ...(JSON.parse(text) as object), tail: undefined, since: justAfter(last) });
        await new Promise((wake) => setTimeout(wake, pause));
      }
    })();
    return () => end.abort();
    // The first ring is the one that was made with the page.
  }, [text]);
  useSyncExternalStore(ring.subscribe, () => ring.version);
  return ring;
}

/** justAfter is a nanosecond after a time as the API writes it: a Date would take away what is less than a millisecond. */
function justAfter(time: string): string {
  const [, seconds, fraction = "", zone] = /^([^.]*?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)$/.exec(time) ?? [];
  const nanoseconds = fraction.padEnd(9, "0").slice(0, 9);
  if (!seconds || nanoseconds === "999999999") return new Date(Date.parse(time) + 1).toISOString();
  return `${seconds}.${String(Number(nanoseconds) + 1).padStart(9, "0")}${zone}`;
}

/** levelOf reads the level that a line names itself, by the words that loggers use. */
export function levelOf(line: LogLine): "error" | "warn" | "" {
  const head = line.text.slice(0, 200);
  if (/\b(ERROR|FATAL|PANIC|error|fatal|panic|CRITICAL)\b/.test(head)) return "error";
  if (/\b(WARN|WARNING|warn|warning)\b/.test(head)) return "warn";
  return "";
}
