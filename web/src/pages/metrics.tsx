// Any PromQL expression over time.
import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useEffect, useMemo, useState } from "react";
import { Chart, type Line } from "../chart";
import { refine, usePlace } from "../route";
import { getJSON } from "../session";
import { Empty, Failure, Loading, Section, Title } from "../ui";

const examples: [string, string][] = [
  ["Requests by service", "sum by (service) (rate(trellis_requests_total[1m]))"],
  ["Failures by service", "sum by (service) (rate(trellis_request_failures_total[1m]))"],
  ["p99 by service", "histogram_quantile(0.99, sum by (service) (rate(trellis_request_duration_seconds[1m])))"],
  ["In flight by route", "sum by (service, route) (trellis_requests_in_flight)"],
  ["CPU by instance", "sum by (instance) (rate(trellis_instance_cpu_seconds_total[1m]))"],
  ["Memory by instance", "sum by (instance) (trellis_instance_memory_bytes)"],
  ["Retries by service", "sum by (service) (rate(trellis_retries_total[1m]))"],
  ["Replicas ready", "trellis_replicas_ready"],
];

const ranges: [string, string, number][] = [["15m", "15 minutes", 900], ["1h", "hour", 3600], ["6h", "6 hours", 21600], ["24h", "day", 86400], ["7d", "week", 604800]];

interface Result {
  resultType: string;
  result: { metric: Record<string, string>; values?: [number, string][]; value?: [number, string] }[];
  warnings?: string[];
}

export interface Curve {
  labels: Record<string, string>;
  values: (number | null)[];
}

/** useRange evaluates an expression from seconds ago until now. */
export function useRange(query: string, seconds: number) {
  return useQuery({
    queryKey: ["metrics", query, seconds],
    enabled: query.trim() !== "",
    refetchInterval: seconds <= 3600 ? 5000 : 30_000,
    queryFn: async ({ signal }) => {
      const step = Math.max(5, Math.ceil(seconds / 240));
      const end = Math.floor(Date.now() / 1000 / step) * step;
      const start = end - Math.floor(seconds / step) * step;
      const q = { query, start: new Date(start * 1000).toISOString(), end: new Date(end * 1000).toISOString(), step: step * 1e9 };
      const answer = await getJSON<Result>(`v1/metrics?q=${encodeURIComponent(JSON.stringify(q))}`, signal);
      const times: number[] = [];
      for (let t = start; t <= end; t += step) times.push(t);
      const curves: Curve[] = (answer.result ?? []).map((r) => {
        const at = new Map((r.values ?? []).map(([t, v]) => [Math.round(t), Number(v)]));
        return { labels: r.metric, values: times.map((t) => finite(at.get(t))) };
      });
      return { times, curves, warnings: answer.warnings ?? [] };
    },
  });
}

function finite(v: number | undefined): number | null {
  return v === undefined || !Number.isFinite(v) ? null : v;
}

export function labelled(labels: Record<string, string>): string {
  const { __name__: name = "", ...rest } = labels;
  const pairs = Object.entries(rest);
  if (pairs.length === 0) return name || "value";
  if (!name && pairs.length === 1) return pairs[0]![1];
  return `${name}{${pairs.map(([k, v]) => `${k}="${v}"`).join(", ")}}`;
}

/** plain writes a number whose unit is not known. */
export function plain(v: number): string {
  const a = Math.abs(v);
  if (a === 0) return "0";
  if (a >= 1e9) return `${(v / 1e9).toFixed(2)} G`;
  if (a >= 1e6) return `${(v / 1e6).toFixed(2)} M`;
  if (a >= 1e4) return `${(v / 1e3).toFixed(1)} k`;
  if (a >= 100) return v.toFixed(0);
  if (a >= 1e-6) return String(Number(v.toPrecision(a >= 0.001 ? 3 : 2)));
  return v.toExponential(1);
}

const drawn = 20;

export function Metrics() {
  const { query } = usePlace();
  const asked = query.get("q") ?? examples[0]![1];
  const [text, setText] = useState(asked);
  useEffect(() => setText(asked), [asked]);
  const range = ranges.find(([key]) => key === query.get("range")) ?? ranges[0]!;
  const { data, error, refetch } = useRange(asked, range[2]);
  const submit = (e?: FormEvent) => {
    e?.preventDefault();
    if (text === asked) void refetch();
    else refine({ q: text });
  };
  const lines: Line[] = useMemo(() => (data?.curves ?? []).slice(0, drawn).map((c) => ({ label: labelled(c.labels), values: c.values })), [data]);
  return (
    <>
      <Title text="Metrics" />
      <form className="promql" onSubmit={submit}>
        <label htmlFor="promql">PromQL</label>
        <textarea id="promql" className="mono" rows={2} spellCheck={false} value={text} onChange={(e) => setText(e.target.value)} onKeyDown={(e) => { if (e.key === "Enter" && !e.shiftKey) { e.preventDefault(); submit(); } }} />
        <div className="promql-foot">
          <label className="inline">Last
            <select value={range[0]} onChange={(e) => refine({ range: e.target.value })}>{ranges.map(([key, label]) => <option key={key} value={key}>{label}</option>)}</select>
          </label>
          <button type="submit" className="primary">Evaluate</button>
        </div>
      </form>
      <ul className="chips" aria-label="Examples">
        {examples.map(([label, q]) => <li key={q}><button type="button" aria-pressed={q === asked} onClick={() => refine({ q })}>{label}</button></li>)}
      </ul>
      {error ? <Failure error={error} retry={() => void refetch()} /> : !data ? <Loading /> : data.curves.length === 0 ? (
        <Empty title="The expression has no value."><p>No series matches, or nothing happened in this time.</p></Empty>
      ) : (
        <>
          <Chart title={asked.length > 90 ? "Result" : asked} times={data.times} lines={lines} format={plain} height={320} legend={lines.length <= 8} />
          {data.warnings.map((w) => <p key={w} className="notice">{w}</p>)}
          <Section title={data.curves.length > drawn ? `${data.curves.length} series, of which ${drawn} are drawn` : data.curves.length === 1 ? "1 series" : `${data.curves.length} series`}>
            <table className="plain">
              <thead><tr><th scope="col">Series</th><th scope="col" className="num">Now</th><th scope="col" className="num">Least</th><th scope="col" className="num">Most</th></tr></thead>
              <tbody>{data.curves.slice(0, 200).map((c) => <SeriesRow key={labelled(c.labels)} curve={c} />)}</tbody>
            </table>
          </Section>
        </>
      )}
    </>
  );
}

function SeriesRow({ curve }: { curve: Curve }) {
  const there = curve.values.filter((v): v is number => v !== null);
  const say = (v: number | undefined) => (v === undefined ? "–" : plain(v));
  return (
    <tr>
      <th scope="row" className="mono">{labelled(curve.labels)}</th>
      <td data-label="Now" className="num">{say(there.at(-1))}</td>
      <td data-label="Least" className="num">{there.length ? say(Math.min(...there)) : "–"}</td>
      <td data-label="Most" className="num">{there.length ? say(Math.max(...there)) : "–"}</td>
    </tr>
  );
}
