// Light or dark: as the system is, unless somebody chose.
import { useSyncExternalStore } from "react";

const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set<() => void>();

export type Choice = "" | "light" | "dark";

export function choice(): Choice {
  return (document.documentElement.dataset.theme ?? "") as Choice;
}

export function choose(next: Choice) {
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  try {
    if (next) localStorage.setItem("trellis-theme", next);
    else localStorage.removeItem("trellis-theme");
  } catch {
    // it lasts as long as the page
  }
  for (const listener of listeners) listener();
}

function subscribe(listener: () => void) {
  listeners.add(listener);
  system.addEventListener("change", listener);
  return () => {
    listeners.delete(listener);
    system.removeEventListener("change", listener);
  };
}

/** useTheme returns the colours that are shown: "light" or "dark". */
export function useTheme(): "light" | "dark" {
  return useSyncExternalStore(subscribe, () => (choice() || (system.matches ? "dark" : "light")) as "light" | "dark");
}

export function useChoice(): Choice {
  return useSyncExternalStore(subscribe, choice);
}
