// The configuration of a revision, with secrets masked.
import { useQuery } from "@tanstack/react-query";
import { getJSON } from "./session";
import type { Change, Config } from "./types";

const none: Record<string, Config> = {};

/** useConfig returns the services of a revision by name; none while they are not there. */
export function useConfig(revision: number): Record<string, Config> {
  const { data } = useQuery({
    queryKey: ["changes", 0, revision],
    queryFn: ({ signal }) => getJSON<Change[]>(`v1/changes?from=0&to=${revision}`, signal),
    enabled: revision > 0,
    staleTime: Infinity, // a revision never changes
    select: services,
  });
  return data ?? none;
}

function services(changes: Change[]): Record<string, Config> {
  const found: Record<string, Config> = {};
  for (const c of changes) {
    const name = /^services\.([^.[]+)$/.exec(c.path)?.[1] ?? /^services\["(.+)"\]$/.exec(c.path)?.[1];
    if (name) found[name] = c.to as Config;
  }
  return found;
}

export function useChanges(from: number, to: number, wanted = true) {
  return useQuery({
    queryKey: ["changes", from, to],
    queryFn: ({ signal }) => getJSON<Change[]>(`v1/changes?from=${from}&to=${to}`, signal),
    enabled: wanted,
    staleTime: Infinity,
  });
}
