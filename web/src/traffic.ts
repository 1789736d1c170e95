// What the steps of traffic say of one service or instance.
import { useMemo } from "react";
import { useLive } from "./live";
import type { Flow, TrafficStep } from "./types";

export interface Series {
  times: number[]; // seconds since 1970, of the end of each step
  rate: number[]; // requests a second
  failed: number[]; // failed requests a second
  p50: (number | null)[]; // ms; null where nothing was asked
  p99: (number | null)[];
}

/** Recent sums up the last half minute; what was not measured is null. */
export interface Recent {
  rate: number;
  requests: number;
  failed: number;
  errors: number | null; // share of the requests
  p50: number | null;
  p99: number | null;
}

const recentSteps = 15;

export function series(steps: TrafficStep[], of: (step: TrafficStep) => Flow | undefined): Series {
  const out: Series = { times: [], rate: [], failed: [], p50: [], p99: [] };
  for (const step of steps) {
    const flow = of(step);
    const seconds = step.seconds > 0 && step.seconds < 60 ? step.seconds : 2;
    out.times.push(Date.parse(step.time) / 1000);
    out.rate.push(flow ? flow.requests / seconds : 0);
    out.failed.push(flow ? flow.failed / seconds : 0);
    out.p50.push(flow && flow.requests > 0 ? flow.p50_ms : null);
    out.p99.push(flow && flow.requests > 0 ? flow.p99_ms : null);
  }
  return out;
}

export function recent(steps: TrafficStep[], of: (step: TrafficStep) => Flow | undefined): Recent {
  let requests = 0;
  let failed = 0;
  let seconds = 0;
  let weighted = 0;
  let p99 = 0;
  for (const step of steps.slice(-recentSteps)) {
    const flow = of(step);
    seconds += step.seconds > 0 && step.seconds < 60 ? step.seconds : 0;
    if (!flow) continue;
    requests += flow.requests;
    failed += flow.failed;
    weighted += flow.p50_ms * flow.requests;
    p99 = Math.max(p99, flow.p99_ms);
  }
  return {
    rate: seconds > 0 ? requests / seconds : 0,
    requests,
    failed,
    errors: requests > 0 ? Math.min(1, failed / requests) : null,
    p50: requests > 0 ? weighted / requests : null,
    p99: requests > 0 ? p99 : null,
  };
}

export function useServiceTraffic(service: string): { series: Series; recent: Recent } {
  const { traffic } = useLive();
  return useMemo(() => {
    const of = (step: TrafficStep) => step.services[service];
    return { series: series(traffic, of), recent: recent(traffic, of) };
  }, [traffic, service]);
}
