// The page that is shown stands behind the # of the address: "#/services/web?tab=logs".
import { useEffect, useRef, useState, useSyncExternalStore } from "react";

export interface Place {
  path: string[];
  query: URLSearchParams;
}

let text = "";
let place: Place = read();

function read(): Place {
  text = location.hash;
  const [path = "", query = ""] = text.replace(/^#\/?/, "").split("?", 2);
  return { path: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(query) };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function usePlace(): Place {
  return useSyncExternalStore(
    (changed) => {
      addEventListener("hashchange", changed);
      return () => removeEventListener("hashchange", changed);
    },
    () => {
      if (location.hash !== text) place = read();
      return place;
    },
  );
}

export function href(path: string[], query: Record<string, string | undefined> = {}): string {
  const asked = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) if (value) asked.set(key, value);
  const tail = asked.toString();
  return "#/" + path.map(encodeURIComponent).join("/") + (tail ? "?" + tail : "");
}

/** refine changes the query of the page that is shown, without a step in the history. */
export function refine(query: Record<string, string | undefined>) {
  const next = new URLSearchParams(place.query);
  for (const [key, value] of Object.entries(query)) {
    if (value) next.set(key, value);
    else next.delete(key);
  }
  history.replaceState(null, "", href(place.path, Object.fromEntries(next)));
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/** useText is a text of the query that somebody types: it holds at once, and stands in the address a moment later. */
export function useText(key: string): [string, (text: string) => void] {
  const asked = usePlace().query.get(key) ?? "";
  const [text, setText] = useState(asked);
  const timer = useRef(0);
  useEffect(() => {
    if (!timer.current) setText(asked);
  }, [asked]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return [text, (next) => {
    setText(next);
    clearTimeout(timer.current);
    timer.current = window.setTimeout(() => {
      timer.current = 0;
      refine({ [key]: next });
    }, 300);
  }];
}
