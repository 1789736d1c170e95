// What changes, as the control plane sends it: the project as it is now, the newest events, the last steps of traffic.
import { useSyncExternalStore } from "react";
import { events, Refused } from "./session";
import type { Event, Status, TrafficStep } from "./types";

export interface Live {
  connection: "connecting" | "live" | "lost";
  status: Status | null;
  events: Event[]; // oldest first
  traffic: TrafficStep[];
}

const keepEvents = 5000;
const keepSteps = 150;

let now: Live = { connection: "connecting", status: null, events: [], traffic: [] };
let due = false;
const listeners = new Set<() => void>();

/** change tells the pages four times a second at most. */
function change(next: Partial<Live>) {
  now = { ...now, ...next };
  if (due) return;
  due = true;
  setTimeout(() => {
    due = false;
    for (const listener of listeners) listener();
  }, 60);
}

export function useLive(): Live {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => now,
  );
}

interface Frame<T> {
  value?: T;
  error?: { message: string };
}

function receive(name: string, data: string) {
  const frame = JSON.parse(data) as Frame<unknown>;
  if (frame.value === undefined) return;
  switch (name) {
    case "status":
      change({ connection: "live", status: frame.value as Status });
      break;
    case "event":
      change({ events: [...now.events, frame.value as Event].slice(-keepEvents) });
      break;
    case "traffic": {
      const steps = [...now.traffic, ...(frame.value as TrafficStep[])].slice(-keepSteps);
      change({ traffic: steps });
    }
  }
}

/** follow keeps the store up to date until signal, and calls out when this browser is no longer signed in. */
export async function follow(signal: AbortSignal, out: () => void): Promise<void> {
  for (let pause = 500; !signal.aborted; pause = Math.min(2 * pause, 8000)) {
    // A tab that nobody looks at leaves its connection to others.
    while (document.hidden && !signal.aborted) await visible();
    const hidden = new AbortController();
    const hide = () => document.hidden && hidden.abort();
    document.addEventListener("visibilitychange", hide);
    try {
      let fresh = true;
      await events(
        "live",
        (name, data) => {
          if (fresh) {
            fresh = false;
            pause = 500;
            now = { ...now, events: [], traffic: [] }; // they come again
          }
          receive(name, data);
        },
        AbortSignal.any([signal, hidden.signal]),
      );
    } catch (err) {
      if (err instanceof Refused && err.status === 401) {
        out();
        return;
      }
    } finally {
      document.removeEventListener("visibilitychange", hide);
    }
    if (signal.aborted) return;
    if (hidden.signal.aborted) continue;
    change({ connection: "lost" });
    await new Promise((wake) => setTimeout(wake, pause));
  }
}

function visible(): Promise<void> {
  return new Promise((wake) => {
    const timer = setTimeout(done, 5000);
    function done() {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", done);
      wake();
    }
    document.addEventListener("visibilitychange", done);
  });
}
