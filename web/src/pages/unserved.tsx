// What a gateway of the cluster's own does not serve, and why.
import { useLive } from "../live";
import type { Unserved } from "../types";

/** NotServed says it of all routes, or of one service's and of those of the gateway itself. */
export function NotServed({ service }: { service?: string }) {
  const { status } = useLive();
  const all = status?.unserved?.filter((u) => !service || !u.service || u.service === service) ?? [];
  const reasons = new Map<string, Unserved[]>();
  for (const u of all) reasons.set(u.reason, [...(reasons.get(u.reason) ?? []), u]);
  return [...reasons].map(([reason, of]) => (
    <div key={reason} className="notice">
      <p><b>Not served:</b> {routes(of)}</p>
      <p>{reason}</p>
      {sources(of) && <p className="sub">{sources(of)}</p>}
    </div>
  ));
}

function routes(of: Unserved[]): string {
  return of.flatMap((u) => u.route ?? []).join(", ") || "every route";
}

function sources(of: Unserved[]): string {
  return [...new Set(of.flatMap((u) => u.source ?? []))].join(", ");
}
