// The control plane's answers, as package api of the control plane writes them.

export interface Status {
  project: string;
  revision: number;
  engine: string;
  services: Service[] | null;
  settled: boolean;
  outcome: string;
  rollouts?: Rollout[];
  control_plane: { pid: number };
  proxy: { pid: number };
  gateway: { http: string | null; https: string | null };
  prometheus: string | null;
  otlp: { grpc: string | null; http: string | null };
  unserved?: Unserved[];
}

/** Unserved is a route that nobody reaches by a gateway of the cluster's own; without a route it is all of them. */
export interface Unserved {
  service?: string;
  route?: string;
  source?: string;
  reason: string;
}

export interface Service {
  name: string;
  state: string;
  want: number;
  ready: number;
  revision: number;
  ports: Port[] | null;
  instances: Instance[] | null;
  reason?: string;
  last_log?: string[];
  autoscale?: { min: number; max: number; reason?: string; decided_at?: string };
}

export interface Port {
  target: number;
  published: number;
  host_ip: string;
  protocol: string;
}

export interface Instance {
  id: string;
  slot: number;
  driver: string;
  pid: number;
  state: string;
  ready: boolean;
  restarts: number;
  address: string;
  revision: number;
  started_at?: string;
  exit?: { code: number; signal?: string; oom?: boolean };
  probe?: string;
}

export interface Cohort {
  requests: number;
  failed: number;
  p50_ms: number | null;
  p99_ms: number | null;
}

export interface Rollout {
  revision: number;
  service: string;
  from: number;
  phase: string;
  reason?: string;
  actor?: string;
  began: string;
  ended?: string;
  share?: number;
  step?: number;
  steps?: number;
  ledger: { requests: number; failed: number; old: Cohort; new: Cohort };
  failure?: { instance?: string; probe?: string; log?: string[] };
}

export interface Event {
  time: string;
  actor: string;
  project: string;
  service: string;
  instance: string;
  kind: string;
  reason: string;
  message: string;
  revision: number;
}

export interface Deployment {
  revision: number;
  commit: { sha: string; author: string; committed_at: string; dirty?: boolean } | null;
  applied_at: string;
  healthy_at: string | null;
  outcome: string;
  cause: string;
  actor: string;
  undoes?: number;
  services: string[];
  rollouts: Rollout[];
}

export interface Change {
  path: string;
  action: "add" | "change" | "remove";
  from: unknown;
  to: unknown;
  effect: string;
}

export interface Flow {
  requests: number;
  failed: number;
  p50_ms: number;
  p99_ms: number;
}

export interface TrafficStep {
  time: string;
  seconds: number;
  services: Record<string, Flow>;
  recent?: Recent; // of the newest step only
}

export interface Recent {
  seconds: number;
  services: Record<string, Flow>;
  instances: Record<string, Flow>;
}

export interface Usage {
  service: string;
  instance: string;
  usage: { CPU: number; Memory: number; Processes: number; ReadBytes: number; WriteBytes: number };
}

// Config is a service of a revision, as far as the pages look into it.
export interface Config {
  image?: string;
  deploy?: { replicas?: number };
  "x-trellis"?: { objective?: { availability?: number; latency?: Record<string, string> } };
  [key: string]: unknown;
}

export interface LogLine {
  time: string;
  service: string;
  instance: string;
  stream: string;
  text: string;
}

export interface Route {
  host: string;
  path: string;
  methods: string[];
  service: string;
  port: number;
  auth: string;
  source: string;
  address: string;
}

export interface Graph {
  window_ns: number;
  nodes: { service: string; state: string; want: number; ready: number }[];
  edges: GraphEdge[];
}

export interface GraphEdge {
  caller: string; // "" is from outside
  callee: string;
  rate: number;
  error_rate: number;
  p50_seconds: number | null;
  p99_seconds: number | null;
  declared: boolean;
}

export interface TraceSummary {
  trace_id: string;
  start: string;
  duration_ns: number;
  root: string;
  path: string;
  service: string;
  services: string[];
  spans: number;
  errors: number;
  status: string;
  http_status: number;
  revision: number;
}

export interface Span {
  trace_id: string;
  span_id: string;
  parent_id: string;
  service: string;
  instance?: string;
  revision?: number;
  name: string;
  kind: string;
  start: string;
  duration_ns: number;
  status: string;
  message?: string;
  scope?: string;
  attributes?: Record<string, unknown>;
  events?: { time: string; name: string; attributes?: Record<string, unknown> }[];
}

export interface LogRecord {
  seq: number;
  time: string;
  service: string;
  instance?: string;
  stream: string;
  severity: string;
  body: string;
  trace_id: string;
  span_id: string;
  attributes?: Record<string, unknown>;
}

export interface Trace {
  trace_id: string;
  spans: Span[] | null;
  records: LogRecord[] | null;
}

export interface Alert {
  name: string;
  state: string;
  service: string;
  severity: string;
  summary: string;
  since: string;
  value: number;
  labels: Record<string, string>;
  annotations: Record<string, string> | null;
  silenced: boolean;
  query: string;
  source: string;
}

export interface Alerts {
  alerts: Alert[] | null;
  silences: { id: string; labels: Record<string, string>; starts?: string; ends: string; comment?: string; actor: string }[] | null;
  budgets: { service: string; objective: string; target: number; window: string; good: number | null; left: number | null; burn: number | null }[] | null;
  receiver: string | null;
  failing?: string;
  waiting: number;
}

export interface Why {
  service: string;
  state: string;
  findings: { what: string; title: string; time: string; cause: string; kind: string; chain: { time: string; kind: string; text: string; ref?: string }[] | null }[] | null;
}
