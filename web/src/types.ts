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
