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

/** Summary is the last half minute; what was not measured is null. */
export interface Summary {
  rate: number;
  requests: number;
  failed: number;
  errors: number | null; // share of the requests
  p50: number | null;
  p99: number | null;
}

export function series(steps: TrafficStep[], of: (step: TrafficStep) => Flow | undefined): Series {
  const out: Series = { times: [], rate: [], failed: [], p50: [], p99: [] };
  for (const step of steps) {
    const flow = of(step);
    const seconds = step.seconds > 0 ? step.seconds : 2;
    out.times.push(Date.parse(step.time) / 1000);
    out.rate.push(flow ? flow.requests / seconds : 0);
    out.failed.push(flow ? flow.failed / seconds : 0);
    out.p50.push(flow && flow.requests > 0 ? flow.p50_ms : null);
    out.p99.push(flow && flow.requests > 0 ? flow.p99_ms : null);
  }
  return out;
}

/** summary reads a flow of the last half minute. */
export function summary(flow: Flow | undefined, seconds: number): Summary {
  if (!flow || flow.requests === 0) return { rate: 0, requests: 0, failed: flow?.failed ?? 0, errors: null, p50: null, p99: null };
  return {
    rate: seconds > 0 ? flow.requests / seconds : 0,
    requests: flow.requests,
    failed: flow.failed,
    errors: Math.min(1, flow.failed / flow.requests),
    p50: flow.p50_ms,
    p99: flow.p99_ms,
  };
}

export function useServiceTraffic(service: string): { series: Series; recent: Summary } {
  const { traffic } = useLive();
  return useMemo(() => {
    const last = traffic.at(-1)?.recent;
    return { series: series(traffic, (step) => step.services[service]), recent: summary(last?.services[service], last?.seconds ?? 0) };
  }, [traffic, service]);
}
