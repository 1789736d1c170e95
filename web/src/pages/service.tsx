// Everything about one service.
import { useQuery } from "@tanstack/react-query";
import { useMemo, useRef, useState } from "react";
import { binary, Chart } from "../chart";
import { useConfig } from "../config";
import { bytes, ms, percent, rate, span } from "../format";
import { useLive } from "../live";
import { type Query, useLogs } from "../logs";
import { LogView, type Wanted } from "../logview";
import { href, refine, usePlace, useText } from "../route";
import { getJSON, post } from "../session";
import { summary, type Summary, useServiceTraffic } from "../traffic";
import type { Instance, Route, Service, Usage, Why } from "../types";
import { Action, Empty, Failure, Loading, Section, State, Title, When } from "../ui";
import { Rollouts, useDeployments } from "./deployments";
import { EventList } from "./events";
import { labelled, plain, useRange } from "./metrics";
import { TraceList, useTraces } from "./traces";
import { NotServed } from "./unserved";

const tabs = [
  ["", "Instances"], ["metrics", "Metrics"], ["logs", "Logs"], ["traces", "Traces"], ["why", "Why"], ["rollouts", "Rollouts"], ["scaling", "Scaling"], ["events", "Events"], ["configuration", "Configuration"],
] as const;

export function ServicePage({ name }: { name: string }) {
  const { query } = usePlace();
  const { status } = useLive();
  const tab = query.get("tab") ?? "";
  const service = status?.services?.find((s) => s.name === name);
  if (!service) {
    return <><Title text={name} /><Empty title="No such service in the revision that runs."><p><a href={href([])}>The overview</a> lists what there is.</p></Empty></>;
  }
  return (
    <>
      <Title text={name} aside={<Actions service={service} />}><span className="crumb"><a href={href([])}>Overview</a> / </span>{name}</Title>
      <Head service={service} />
      <nav aria-label={`About ${name}`} className="tabs">
        <ul>{tabs.map(([key, label]) => <li key={key}><a href={href(["services", name], { tab: key })} aria-current={tab === key ? "page" : undefined}>{label}</a></li>)}</ul>
      </nav>
      <Tab tab={tab} service={service} />
    </>
  );
}

function Tab({ tab, service }: { tab: string; service: Service }) {
  switch (tab) {
    case "metrics": return <Metrics service={service} />;
    case "logs": return <ServiceLogs service={service} />;
    case "traces": return <ServiceTraces name={service.name} />;
    case "why": return <WhyOf name={service.name} />;
    case "rollouts": return <ServiceRollouts name={service.name} />;
    case "scaling": return <Scaling service={service} />;
    case "events": return <ServiceEvents name={service.name} />;
    case "configuration": return <Configuration service={service} />;
  }
  return <Instances service={service} />;
}

function Head({ service: s }: { service: Service }) {
  const { recent } = useServiceTraffic(s.name);
  return (
    <>
      <dl className="facts">
        <div><dt>State</dt><dd><State state={s.state} /></dd></div>
        <div><dt>Replicas</dt><dd>{s.ready} of {s.want} ready</dd></div>
        <div><dt>Requests</dt><dd>{rate(recent.rate)}/s</dd></div>
        <div><dt>Errors, last 30 s</dt><dd className={recent.failed > 0 ? "bad" : ""}>{recent.errors === null ? "no requests" : percent(recent.errors)}</dd></div>
        <div><dt>Latency p50, p99</dt><dd>{recent.p50 === null ? "–" : `${ms(recent.p50)}, ${ms(recent.p99!)}`}</dd></div>
        <div><dt>Revision</dt><dd>{s.revision ? <a href={href(["deployments"], { revision: String(s.revision) })}>{s.revision}</a> : "–"}</dd></div>
      </dl>
      {s.reason && <p className="notice">{s.reason}</p>}
      <NotServed service={s.name} />
      {s.last_log && s.last_log.length > 0 && (
        <details className="last-log"><summary>Last lines of the instance that failed</summary><pre tabIndex={0}>{s.last_log.join("\n")}</pre></details>
      )}
    </>
  );
}

function Actions({ service: s }: { service: Service }) {
  const { status } = useLive();
  const [replicas, setReplicas] = useState(String(s.want));
  const open = status?.rollouts?.find((r) => r.service === s.name && (r.phase === "rolling" || r.phase === "paused"));
  const stopped = s.state === "stopped";
  const n = Number(replicas);
  return (
    <>
      {open && (
        <>
          <Action label="Promote" title={`Promote the rollout of ${s.name}?`} confirm="Promote" run={() => post("v1/rollout", { service: s.name, action: "promote" })}>
            <p>The rest of the instances is replaced at once by revision {open.revision}, and nothing is watched or taken back any more.</p>
          </Action>
          <Action label="Abort" danger title={`Abort the rollout of ${s.name}?`} confirm="Abort the rollout" run={() => post("v1/rollout", { service: s.name, action: "abort" })}>
            <p>The instances of revision {open.revision} are taken back, and revision {open.from} serves again.</p>
          </Action>
        </>
      )}
      {!stopped && (
        <Action label="Scale" title={`Scale ${s.name}`} confirm="Scale" run={() => {
          if (!Number.isInteger(n) || n < 0 || n > 1000 || replicas === "") return Promise.reject(new Error("A number from 0 to 1000."));
          return post("v1/override", { service: s.name, replicas: n });
        }}>
          <label>Replicas <input type="number" min={0} max={1000} value={replicas} onChange={(e) => setReplicas(e.target.value)} /></label>
          <p>{s.autoscale ? "It is scaled by its load: the number stands until the load asks for another." : "It holds until the file's own number changes."}
            {n === 0 && replicas !== "" && <b className="bad"> With 0 nobody is served.</b>}
            {n > 0 && n < s.ready && <> {s.ready - n} of {s.ready} instances are drained and stopped.</>}</p>
        </Action>
      )}
      {!stopped && (
        <Action label="Restart" title={`Restart ${s.name}?`} confirm="Restart" run={() => post("v1/override", { service: s.name, restart: true })}>
          <p>Every instance is replaced by a new one of the same revision. No request is lost where more than one can run at a time.</p>
        </Action>
      )}
      {stopped ? (
        <Action label="Start" title={`Start ${s.name}?`} confirm="Start" run={() => post("v1/override", { service: s.name, stopped: false })}>
          <p>Its instances are started again.</p>
        </Action>
      ) : (
        <Action label="Stop" danger title={`Stop ${s.name}?`} confirm={`Stop ${s.name}`} run={() => post("v1/override", { service: s.name, stopped: true })}>
          <p>All {s.ready} instances are drained and stopped. <b>Nobody is served by {s.name}</b> until it is started again, or deployed.</p>
        </Action>
      )}
    </>
  );
}

function Instances({ service: s }: { service: Service }) {
  const last = useLive().traffic.at(-1)?.recent;
  const use = useUsage();
  const instances = s.instances ?? [];
  if (instances.length === 0) {
    return <Empty title="No instance runs."><p>{s.autoscale?.min === 0 ? "The next request starts one." : "Start or scale the service, or look at its events."}</p></Empty>;
  }
  return (
    <table className="plain">
      <thead>
        <tr>
          <th scope="col">Instance</th><th scope="col">State</th><th scope="col" className="num">Requests</th><th scope="col" className="num">Errors</th>
          <th scope="col" className="num">p50</th><th scope="col" className="num">p99</th><th scope="col" className="num">CPU</th><th scope="col" className="num">Memory</th>
          <th scope="col" className="num">Restarts</th><th scope="col">Up for</th>
        </tr>
      </thead>
      <tbody>{instances.map((i) => <InstanceRow key={i.id} service={s} instance={i} flow={summary(last?.instances[i.id], last?.seconds ?? 0)} use={use[i.id]} />)}</tbody>
    </table>
  );
}

function InstanceRow({ service, instance: i, flow, use }: { service: Service; instance: Instance; flow: Summary; use: Use | undefined }) {
  return (
    <tr>
      <th scope="row">
        <a className="mono" href={href(["logs"], { service: service.name, instance: i.id })}>{i.id}</a>
        <span className="sub">{i.driver}{i.pid ? `, pid ${i.pid}` : ""}{i.address ? `, ${i.address}` : ""}</span>
      </th>
      <td data-label="State"><State state={i.state} />{i.exit && <span className="sub">{exit(i)}</span>}{!i.ready && i.probe && <span className="sub">{i.probe}</span>}
        {i.revision !== service.revision && <span className="sub">revision {i.revision}</span>}</td>
      <td data-label="Requests" className="num">{rate(flow.rate)}/s</td>
      <td data-label="Errors" className={flow.failed > 0 ? "num bad" : "num"}>{flow.errors === null ? "–" : percent(flow.errors)}</td>
      <td data-label="p50" className="num">{flow.p50 === null ? "–" : ms(flow.p50)}</td>
      <td data-label="p99" className="num">{flow.p99 === null ? "–" : ms(flow.p99)}</td>
      <td data-label="CPU" className="num">{use?.cpu === undefined ? "–" : percent(use.cpu)}</td>
      <td data-label="Memory" className="num">{use ? bytes(use.memory) : "–"}</td>
      <td data-label="Restarts" className={i.restarts > 0 ? "num bad" : "num"}>{i.restarts}</td>
      <td data-label="Up for">{i.started_at ? span((Date.now() - Date.parse(i.started_at)) / 1000) : "–"}</td>
    </tr>
  );
}

function exit(i: Instance): string {
  if (!i.exit) return "";
  if (i.exit.oom) return "killed: out of memory";
  return i.exit.signal ? `ended by ${i.exit.signal}` : `exit code ${i.exit.code}`;
}

interface Use {
  cpu: number | undefined; // of one core
  memory: number;
}

/** useUsage asks every three seconds what the instances use; CPU is the growth between two answers. */
function useUsage(): Record<string, Use> {
  const before = useRef<{ at: number; cpu: Record<string, number>; twice: boolean }>({ at: 0, cpu: {}, twice: false });
  const { data } = useQuery({
    queryKey: ["top"],
    refetchInterval: () => (before.current.twice ? 3000 : 1000), // the first two soon: one alone says nothing of CPU
    queryFn: async ({ signal }) => {
      const all = await getJSON<Usage[]>("v1/top", signal);
      const now = performance.now();
      const last = before.current;
      const seconds = (now - last.at) / 1000;
      const out: Record<string, Use> = {};
      const cpu: Record<string, number> = {};
      for (const u of all ?? []) {
        cpu[u.instance] = u.usage.CPU;
        const was = last.cpu[u.instance];
        out[u.instance] = { memory: u.usage.Memory, cpu: was === undefined || seconds <= 0 ? undefined : Math.max(0, (u.usage.CPU - was) / 1e9 / seconds) };
      }
      before.current = { at: now, cpu, twice: last.at > 0 };
      return out;
    },
  });
  return data ?? {};
}

const ranges: [string, string, number][] = [["", "5 minutes", 0], ["1h", "hour", 3600], ["24h", "day", 86400], ["7d", "week", 604800]];

function Metrics({ service: s }: { service: Service }) {
  const { query } = usePlace();
  const range = ranges.find(([key]) => key === (query.get("range") ?? "")) ?? ranges[0]!;
  return (
    <>
      <div className="section-head">
        <label className="inline">Last
          <select value={range[0]} onChange={(e) => refine({ range: e.target.value })}>{ranges.map(([key, label]) => <option key={key} value={key}>{label}</option>)}</select>
        </label>
        <a href={href(["metrics"], { q: `sum by (caller) (rate(trellis_requests_total{service="${s.name}"}[1m]))` })}>Ask in PromQL</a>
      </div>
      <div className="charts">
        {range[2] === 0 ? <LiveCharts name={s.name} /> : <KeptCharts name={s.name} seconds={range[2]} />}
        <Kept title="In flight by caller" seconds={range[2] || 300} format={plain} parts={[["", `label_replace(sum by (caller) (trellis_requests_in_flight{service="${s.name}"}), "caller", "clients", "caller", "")`]]} />
        <Kept title="CPU, cores" seconds={range[2] || 300} format={plain} parts={[["", `sum by (instance) (rate(trellis_instance_cpu_seconds_total{service="${s.name}"}[1m]))`]]} />
        <Kept title="Memory" seconds={range[2] || 300} format={bytes} steps={binary} parts={[["", `sum by (instance) (trellis_instance_memory_bytes{service="${s.name}"})`]]} />
      </div>
    </>
  );
}

function LiveCharts({ name }: { name: string }) {
  const { series } = useServiceTraffic(name);
  const requests = useMemo(() => [{ label: "all", values: series.rate, tone: "main" as const }, { label: "failed", values: series.failed, tone: "bad" as const }], [series]);
  const latency = useMemo(() => [{ label: "p50", values: series.p50, tone: "second" as const }, { label: "p99", values: series.p99, tone: "main" as const }], [series]);
  return (
    <>
      <Chart title="Requests a second" times={series.times} lines={requests} format={rate} />
      <Chart title="Time to the answer" times={series.times} lines={latency} format={ms} />
    </>
  );
}

function KeptCharts({ name, seconds }: { name: string; seconds: number }) {
  const quantile = (q: number) => `1000 * histogram_quantile(${q}, sum(rate(trellis_request_duration_seconds{service="${name}"}[5m])))`;
  return (
    <>
      <Kept title="Requests a second" seconds={seconds} format={rate} parts={[["all", `sum(rate(trellis_requests_total{service="${name}"}[5m]))`], ["failed", `sum(rate(trellis_request_failures_total{service="${name}"}[5m]))`]]} />
      <Kept title="Time to the answer" seconds={seconds} format={ms} parts={[["p50", quantile(0.5)], ["p99", quantile(0.99)]]} />
    </>
  );
}

/** Kept draws expressions from the metrics store; a part without a name shows a line for each series. */
function Kept({ title, seconds, format, steps, parts }: { title: string; seconds: number; format: (v: number) => string; steps?: number[]; parts: [string, string][] }) {
  const first = useRange(parts[0]![1], seconds);
  const second = useRange(parts[1]?.[1] ?? "", seconds);
  const lines = useMemo(() => [first, second].flatMap((found, i) => (found.data?.curves ?? []).slice(0, 12).map((c) => ({
    label: parts[i]?.[0] || labelled(c.labels), values: c.values, tone: parts[i]?.[0] === "failed" ? "bad" as const : parts[i]?.[0] === "p50" ? "second" as const : undefined,
  }))), [first.data, second.data, parts[0]![0]]);
  const error = first.error ?? second.error;
  if (error) return <Failure error={error} retry={() => void first.refetch()} />;
  if (lines.length === 0) return <figure className="chart"><figcaption><span className="chart-title">{title}</span></figcaption><p className="faint">{first.isPending ? "Loading…" : "Nothing was measured in this time."}</p></figure>;
  return <Chart title={title} times={first.data?.times ?? []} lines={lines} format={format} steps={steps} legend={lines.length <= 6} />;
}

function ServiceTraces({ name }: { name: string }) {
  const { query } = usePlace();
  const errors = query.get("errors") === "yes";
  const { data, error, refetch } = useTraces(name, errors, "", "", "1");
  return (
    <>
      <div className="filters">
        <label className="check"><input type="checkbox" checked={errors} onChange={(e) => refine({ errors: e.target.checked ? "yes" : "" })} /> Errors only</label>
        <a href={href(["traces"], { service: name })}>Search further</a>
      </div>
      {error ? <Failure error={error} retry={() => void refetch()} /> : <TraceList traces={data ?? []} />}
    </>
  );
}

function WhyOf({ name }: { name: string }) {
  const { data, error, refetch } = useQuery({ queryKey: ["why", name], queryFn: ({ signal }) => getJSON<Why>(`v1/why/${encodeURIComponent(name)}`, signal) });
  if (error) return <Failure error={error} retry={() => void refetch()} />;
  if (!data) return <Loading />;
  const findings = data.findings ?? [];
  if (findings.length === 0) return <Empty title={`Nothing happened to ${name} that needs explaining.`}><p>A restart, a rollback, a change of its replicas, errors or slowness appear here with what led to them.</p></Empty>;
  return (
    <ol className="findings">
      {findings.map((f, i) => (
        <li key={i} className="finding">
          <h2>{f.title}</h2>
          <p>{f.cause || "What is known does not tell why."} <span className="faint"><When at={f.time} /></span></p>
          <ol className="chain">
            {(f.chain ?? []).map((e, j) => (
              <li key={j}><span className="faint"><When at={e.time} /> {e.kind}</span> {e.text}
                {e.ref && e.kind === "metric" && <> <a href={href(["metrics"], { q: e.ref })}>see the metric</a></>}
                {e.ref && e.kind === "trace" && <> <a href={href(["traces", e.ref])}>see the trace</a></>}
                {e.ref && e.kind === "revision" && <> <a href={href(["deployments"], { revision: e.ref })}>see the revision</a></>}</li>
            ))}
          </ol>
        </li>
      ))}
    </ol>
  );
}

function ServiceLogs({ service: s }: { service: Service }) {
  const { query } = usePlace();
  const asked: Query = useMemo(() => ({ services: [s.name], instance: "", tail: 5000 }), [s.name]);
  const ring = useLogs(asked);
  const [text, setText] = useText("filter");
  const errors = query.get("errors") === "yes";
  const wanted: Wanted = useMemo(() => ({ text, errors }), [text, errors]);
  return (
    <>
      <div className="filters" role="search">
        <label>Filter <input type="search" placeholder="words, or /a regular expression/" value={text} onChange={(e) => setText(e.target.value)} /></label>
        <label className="check"><input type="checkbox" checked={errors} onChange={(e) => refine({ errors: e.target.checked ? "yes" : "" })} /> Errors only</label>
      </div>
      <LogView ring={ring} wanted={wanted} showInstance />
    </>
  );
}

function ServiceRollouts({ name }: { name: string }) {
  const { data, error, refetch } = useDeployments();
  if (error) return <Failure error={error} retry={() => void refetch()} />;
  const own = (data ?? []).flatMap((d) => d.rollouts).filter((r) => r.service === name);
  if (own.length === 0) return <Empty title="No rollout yet."><p>The next deploy that changes {name} is one: its instances are replaced under traffic, watched, and taken back if they do worse.</p></Empty>;
  return <Rollouts rollouts={own} />;
}

function Scaling({ service: s }: { service: Service }) {
  const { events } = useLive();
  const own = useMemo(() => events.filter((e) => e.service === s.name && e.kind === "service.scaled").reverse(), [events, s.name]);
  return (
    <>
      {s.autoscale ? (
        <p className="lead">Between {s.autoscale.min} and {s.autoscale.max} replicas by its load; {s.want} at the moment.
          {s.autoscale.reason && <> Last decision{s.autoscale.decided_at && <>, <When at={s.autoscale.decided_at} /></>}: {s.autoscale.reason}.</>}</p>
      ) : (
        <p className="lead">{s.want} {s.want === 1 ? "replica" : "replicas"}, as the file or the last <code>scale</code> says. With <code>deploy.x-trellis.autoscale</code> the load decides.</p>
      )}
      {own.length > 0 ? <EventList events={own} bare /> : <Empty title="Nothing was decided yet."><p>Each decision appears here with the reason for it.</p></Empty>}
    </>
  );
}

function ServiceEvents({ name }: { name: string }) {
  const { events } = useLive();
  const own = useMemo(() => events.filter((e) => e.service === name).reverse().slice(0, 300), [events, name]);
  return <EventList events={own} bare />;
}

function Configuration({ service: s }: { service: Service }) {
  const { status } = useLive();
  const config = useConfig(status?.revision ?? 0)[s.name];
  const { data: routes } = useQuery({ queryKey: ["routes"], queryFn: ({ signal }) => getJSON<Route[]>("v1/routes", signal) });
  const own = (routes ?? []).filter((r) => r.service === s.name);
  return (
    <>
      {own.length > 0 && (
        <Section title="Routes">
          <table className="plain">
            <thead><tr><th scope="col">Path</th><th scope="col">Methods</th><th scope="col">Port</th><th scope="col">Auth</th><th scope="col">From</th></tr></thead>
            <tbody>{own.map((r) => <tr key={r.host + r.path + r.methods.join()}><th scope="row" className="mono">{r.host}{r.path}</th><td data-label="Methods">{r.methods.join(", ") || "all"}</td><td data-label="Port">{r.port}</td><td data-label="Auth">{r.auth || "–"}</td><td data-label="From" className="mono">{r.source}</td></tr>)}</tbody>
          </table>
        </Section>
      )}
      {(s.ports ?? []).some((p) => p.published) && (
        <Section title="Published ports">
          <ul className="list">{(s.ports ?? []).filter((p) => p.published).map((p) => <li key={`${p.published}${p.protocol}`} className="mono">{p.host_ip || "0.0.0.0"}:{p.published} → {p.target}/{p.protocol}</li>)}</ul>
        </Section>
      )}
      <Section title={`As revision ${status?.revision} has it`}>
        {config ? <pre className="config" tabIndex={0}>{yaml(config)}</pre> : <p className="faint">It is being read.</p>}
      </Section>
    </>
  );
}

/** yaml writes plain data the way the file has it. */
function yaml(v: unknown, indent = ""): string {
  if (Array.isArray(v)) {
    if (v.length === 0) return " []";
    return v.map((e) => {
      if (e === null || typeof e !== "object") return `\n${indent}- ${scalar(e)}`;
      return `\n${indent}- ${yaml(e, indent + "  ").replace(/^\n\s*/, "")}`;
    }).join("");
  }
  if (v !== null && typeof v === "object") {
    const entries = Object.entries(v);
    if (entries.length === 0) return " {}";
    const text = entries.map(([k, e]) => {
      if (e === null || typeof e !== "object") return `\n${indent}${k}: ${scalar(e)}`;
      return `\n${indent}${k}:${yaml(e, indent + "  ")}`;
    }).join("");
    return indent === "" ? text.slice(1) : text;
  }
  return " " + scalar(v);
}

function scalar(v: unknown): string {
  if (typeof v !== "string") return String(v);
  return /^[\w./@%*-][^#\n]*$/.test(v) && !/: |^(true|false|null|~|yes|no)$|^[\d.]+$/.test(v) ? v : JSON.stringify(v);
}
