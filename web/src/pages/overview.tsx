// Every service in a line, those that need somebody first.
import { useMemo } from "react";
import { Spark } from "../chart";
import { useConfig } from "../config";
import { goal, milliseconds, ms, percent, rate } from "../format";
import { useLive } from "../live";
import { href } from "../route";
import { summary, useServiceTraffic } from "../traffic";
import type { Config, Flow, Service } from "../types";
import { Empty, State, Title, urgency } from "../ui";
import { NotServed } from "./unserved";

export function Overview() {
  const { status, traffic } = useLive();
  const services = useMemo(
    () => [...(status?.services ?? [])].sort((a, b) => urgency(a.state) - urgency(b.state) || a.name.localeCompare(b.name)),
    [status],
  );
  const configs = useConfig(status?.revision ?? 0);
  if (!status) return null;
  const well = services.filter((s) => s.state === "healthy" || s.state === "completed").length;
  const last = traffic.at(-1)?.recent;
  const all = summary(Object.values(last?.services ?? {}).reduce<Flow>(sum, { requests: 0, failed: 0, p50_ms: 0, p99_ms: 0 }), last?.seconds ?? 0);
  return (
    <>
      <Title text="Overview" />
      <dl className="facts">
        <div><dt>Services</dt><dd>{well} of {services.length} healthy</dd></div>
        <div><dt>Revision</dt><dd>{status.revision ? <a href={href(["deployments"], { revision: String(status.revision) })}>{status.revision}</a> : "none"} {status.outcome && <State state={status.outcome} />}</dd></div>
        <div><dt>Requests to services</dt><dd>{rate(all.rate)}/s</dd></div>
        <div><dt>Errors, last 30 s</dt><dd className={all.failed > 0 ? "bad" : ""}>{all.errors === null ? "no requests" : percent(all.errors)}</dd></div>
        {status.gateway.http && <div><dt>Gateway</dt><dd><a href={status.gateway.http} rel="noreferrer" target="_blank">{status.gateway.http.replace("http://", "")}</a></dd></div>}
      </dl>
      <NotServed />
      {services.length === 0 ? (
        <Empty title="Nothing runs."><p>Type <code>trellis up -d</code> in the project's folder.</p></Empty>
      ) : (
        <table className="services">
          <thead>
            <tr>
              <th scope="col">Service</th>
              <th scope="col">Replicas</th>
              <th scope="col">Requests</th>
              <th scope="col">Errors</th>
              <th scope="col">Latency p99</th>
              <th scope="col">Objective</th>
              <th scope="col" className="num">Revision</th>
            </tr>
          </thead>
          <tbody>
            {services.map((s) => <Row key={s.name} service={s} config={configs[s.name]} />)}
          </tbody>
        </table>
      )}
    </>
  );
}

function sum(a: Flow, b: Flow): Flow {
  return { ...a, requests: a.requests + b.requests, failed: a.failed + b.failed };
}

function Row({ service: s, config }: { service: Service; config: Config | undefined }) {
  const { series, recent } = useServiceTraffic(s.name);
  const tasks = s.state === "completed" || s.state === "stopped";
  return (
    <tr>
      <th scope="row">
        <a href={href(["services", s.name])}>{s.name}</a>
        <State state={s.state} />
        {s.reason && s.state !== "healthy" && <span className="reason">{s.reason}</span>}
      </th>
      <td data-label="Replicas">
        <span className={s.ready < s.want && !tasks ? "bad" : ""}>{s.ready} of {s.want}</span>
        {s.autoscale && <span className="sub">{s.autoscale.min} to {s.autoscale.max} by load</span>}
      </td>
      <td data-label="Requests">
        <span className="measure"><Spark values={series.rate} failed={series.failed} /><span>{rate(recent.rate)}/s</span></span>
      </td>
      <td data-label="Errors"><span className={recent.failed > 0 ? "bad" : "faint"}>{recent.errors === null ? "–" : percent(recent.errors)}</span></td>
      <td data-label="Latency p99">
        <span className="measure"><Spark values={series.p99} /><span className={recent.p99 === null ? "faint" : ""}>{recent.p99 === null ? "–" : ms(recent.p99)}</span></span>
      </td>
      <td data-label="Objective"><Objective config={config} errors={recent.errors} p99={recent.p99} /></td>
      <td data-label="Revision" className="num">{s.revision || "–"}</td>
    </tr>
  );
}

function Objective({ config, errors, p99 }: { config: Config | undefined; errors: number | null; p99: number | null }) {
  const objective = config?.["x-trellis"]?.objective;
  if (!objective) return <span className="faint">none</span>;
  const bound = objective.latency?.p99;
  const missed = (objective.availability !== undefined && errors !== null && 1 - errors < objective.availability) ||
    (bound !== undefined && p99 !== null && p99 > milliseconds(bound));
  return (
    <span>
      {objective.availability !== undefined && goal(objective.availability)}
      {Object.entries(objective.latency ?? {}).map(([q, d]) => <span key={q} className="sub">{q} {d}</span>)}
      {missed && <span className="sub bad">missed in the last 30 s</span>}
    </span>
  );
}
