// Requests on their way through the services: found by what they did, and drawn over time.
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useMemo, useRef, useState } from "react";
import { ms, moment, request, span as duration } from "../format";
import { useLive } from "../live";
import { href, refine, usePlace } from "../route";
import { getJSON } from "../session";
import type { LogRecord, Span, Trace, TraceSummary } from "../types";
import { Empty, Failure, Loading, Section, State, Title, value, When } from "../ui";

const limit = 200;

function took(ns: number): string {
  return ns >= 1e10 ? duration(ns / 1e9) : ms(ns / 1e6);
}

export function Traces() {
  const { path } = usePlace();
  return path[1] ? <OneTrace id={path[1]} /> : <Search />;
}

export function useTraces(service: string, errors: boolean, slower: string, name: string, hours: string) {
  const asked = {
    service: service || undefined, errors: errors || undefined, name: name || undefined, limit,
    min_duration_ns: Number(slower) > 0 ? Math.round(Number(slower) * 1e6) : undefined,
  };
  const text = JSON.stringify(asked);
  return useQuery({
    queryKey: ["traces", text, hours],
    refetchInterval: 5000,
    queryFn: ({ signal }) => {
      const q = { ...asked, since: new Date(Date.now() - Number(hours || "1") * 3_600_000).toISOString() };
      return getJSON<TraceSummary[] | null>(`v1/traces?q=${encodeURIComponent(JSON.stringify(q))}`, signal);
    },
    placeholderData: keepPreviousData,
  });
}

function Search() {
  const { query } = usePlace();
  const { status } = useLive();
  const get = (key: string) => query.get(key) ?? "";
  const { data, error, refetch } = useTraces(get("service"), get("errors") === "yes", get("slower"), get("name"), get("hours"));
  return (
    <>
      <Title text="Traces" />
      <div className="filters" role="search">
        <label>Service
          <select value={get("service")} onChange={(e) => refine({ service: e.target.value })}>
            <option value="">All</option>
            {status?.services?.map((s) => <option key={s.name}>{s.name}</option>)}
          </select>
        </label>
        <label>Request <input type="search" placeholder="a part of a span's name or path" value={get("name")} onChange={(e) => refine({ name: e.target.value })} /></label>
        <label>Slower than
          <select value={get("slower")} onChange={(e) => refine({ slower: e.target.value })}>
            <option value="">any</option>
            {["10", "50", "100", "250", "500", "1000", "5000"].map((n) => <option key={n} value={n}>{ms(Number(n))}</option>)}
          </select>
        </label>
        <label>In the last
          <select value={get("hours")} onChange={(e) => refine({ hours: e.target.value })}>
            <option value="">hour</option><option value="6">6 hours</option><option value="24">day</option><option value="168">week</option>
          </select>
        </label>
        <label className="check"><input type="checkbox" checked={get("errors") === "yes"} onChange={(e) => refine({ errors: e.target.checked ? "yes" : "" })} /> Errors only</label>
      </div>
      {error ? <Failure error={error} retry={() => void refetch()} /> : data === undefined ? <Loading /> : <TraceList traces={data ?? []} />}
    </>
  );
}

export function TraceList({ traces }: { traces: TraceSummary[] }) {
  if (traces.length === 0) return <Empty title="No trace matches."><p>Every request through the gateway makes one; widen the filter, or send a request.</p></Empty>;
  const longest = Math.max(...traces.map((t) => t.duration_ns), 1);
  return (
    <table className="plain traces">
      <thead><tr><th scope="col">Request</th><th scope="col">When</th><th scope="col">Took</th><th scope="col">Services</th><th scope="col" className="num">Spans</th><th scope="col">Answer</th></tr></thead>
      <tbody>
        {traces.map((t) => (
          <tr key={t.trace_id}>
            <th scope="row"><a href={href(["traces", t.trace_id])}>{request(t.root, t.path)}</a><span className="sub">{t.service || "unknown"}</span></th>
            <td data-label="When"><When at={t.start} /></td>
            <td data-label="Took"><span className="bar-cell"><span className="bar-text">{took(t.duration_ns)}</span><span className={t.errors > 0 ? "bar bad" : "bar"} style={{ inlineSize: `${Math.max(1, (t.duration_ns / longest) * 100)}%` }} /></span></td>
            <td data-label="Services">{t.services.join(", ")}</td>
            <td data-label="Spans" className="num">{t.spans}</td>
            <td data-label="Answer">{t.errors > 0 ? <span className="bad">{t.errors} {t.errors === 1 ? "error" : "errors"}{t.http_status ? `, ${t.http_status}` : ""}</span> : t.http_status || "–"}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

interface Row {
  span: Span;
  depth: number;
  start: number; // ns from the beginning of the trace
}

/** order puts spans below the one that caused them, each generation by its start. */
function order(spans: Span[]): { rows: Row[]; total: number } {
  const begin = Math.min(...spans.map((s) => nanos(s.start)));
  const children = new Map<string, Span[]>();
  const known = new Set(spans.map((s) => s.span_id));
  for (const s of spans) {
    const parent = known.has(s.parent_id) ? s.parent_id : "";
    children.set(parent, [...(children.get(parent) ?? []), s]);
  }
  const rows: Row[] = [];
  const placed = new Set<string>();
  const place = (id: string, depth: number) => {
    for (const s of (children.get(id) ?? []).sort((a, b) => nanos(a.start) - nanos(b.start))) {
      if (placed.has(s.span_id)) continue; // spans that claim to be their own ancestors
      placed.add(s.span_id);
      rows.push({ span: s, depth, start: nanos(s.start) - begin });
      place(s.span_id, depth + 1);
    }
  };
  place("", 0);
  for (const s of spans) if (!placed.has(s.span_id)) rows.push({ span: s, depth: 0, start: nanos(s.start) - begin });
  return { rows, total: Math.max(1, ...rows.map((r) => r.start + r.span.duration_ns)) };
}

/** nanos reads a time to the nanosecond, as far as a number holds it: microseconds since 1970 are exact. */
function nanos(at: string): number {
  const fraction = /\.(\d+)/.exec(at)?.[1] ?? "";
  return Math.floor(Date.parse(at) / 1000) * 1e9 + Number(fraction.padEnd(9, "0").slice(0, 9) || "0");
}

const rowHeight = 30;

function asked(s: Span): string {
  return request(s.name, s.attributes?.["url.path"]);
}

function OneTrace({ id }: { id: string }) {
  const { data, error, refetch } = useQuery({ queryKey: ["trace", id], queryFn: ({ signal }) => getJSON<Trace>(`v1/traces/${encodeURIComponent(id)}`, signal) });
  const [chosen, setChosen] = useState<Span | null>(null);
  const { rows, total } = useMemo(() => order(data?.spans ?? []), [data]);
  const title = rows[0] ? asked(rows[0].span) : "Trace";
  const back = <span className="crumb"><a href={href(["traces"])}>Traces</a> / </span>;
  if (error) return <><Title text="Trace">{back}{id.slice(0, 8)}</Title><Failure error={error} retry={() => void refetch()} /></>;
  if (!data) return <><Title text="Trace">{back}{id.slice(0, 8)}</Title><Loading /></>;
  const services = [...new Set(rows.map((r) => r.span.service))];
  const failed = rows.filter((r) => r.span.status === "error");
  return (
    <>
      <Title text={title}>{back}{title}</Title>
      <dl className="facts">
        <div><dt>Took</dt><dd>{took(total)}</dd></div>
        {rows[0] && <div><dt>Began</dt><dd>{moment(rows[0].span.start)}</dd></div>}
        <div><dt>Services</dt><dd>{services.length} <span className="faint">{services.join(", ")}</span></dd></div>
        <div><dt>Spans</dt><dd>{rows.length}</dd></div>
        <div><dt>Errors</dt><dd className={failed.length > 0 ? "bad" : ""}>{failed.length === 0 ? "none" : failed.length}{failed[0] && <> <button type="button" className="quiet" onClick={() => setChosen(failed.at(-1)!.span)}>Show the deepest</button></>}</dd></div>
        <div><dt>Trace ID</dt><dd className="mono small">{id}</dd></div>
      </dl>
      <div className="trace">
        <div className="trace-main">
          <Waterfall rows={rows} total={total} chosen={chosen} choose={setChosen} />
          {chosen && <SpanDetail span={chosen} close={() => setChosen(null)} />}
        </div>
        <Section title="Output of this request">
          <Records records={data.records ?? []} chosen={chosen} choose={(s) => setChosen(rows.find((r) => r.span.span_id === s)?.span ?? null)} />
        </Section>
      </div>
    </>
  );
}

function Waterfall({ rows, total, chosen, choose }: { rows: Row[]; total: number; chosen: Span | null; choose: (s: Span) => void }) {
  const box = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({ count: rows.length, getScrollElement: () => box.current, estimateSize: () => rowHeight, overscan: 20 });
  return (
    <div className="waterfall" ref={box} role="group" aria-label="Spans in order of time" style={{ maxHeight: "60vh" }} tabIndex={rows.length * rowHeight > 500 ? 0 : undefined}>
      <div className="axis" aria-hidden="true">{[0, 0.25, 0.5, 0.75].map((f) => <span key={f} style={{ insetInlineStart: `${f * 100}%` }}>{took(total * f)}</span>)}</div>
      <div style={{ blockSize: virtual.getTotalSize(), position: "relative" }}>
        {virtual.getVirtualItems().map((item) => {
          const { span: s, depth, start } = rows[item.index]!;
          return (
            <button type="button" key={s.span_id} className="span-row" aria-pressed={chosen?.span_id === s.span_id} style={{ transform: `translateY(${item.start}px)` }} onClick={() => choose(s)}>
              <span className="span-name" style={{ paddingInlineStart: `${Math.min(depth, 12) * 14}px` }}>
                <b>{s.service}</b> <span className={s.status === "error" ? "bad" : ""}>{asked(s)}</span>
              </span>
              <span className="span-time">{took(s.duration_ns)}{s.status === "error" && <span className="visually-hidden">, failed</span>}</span>
              <span className="span-lane" aria-hidden="true">
                <span className={s.status === "error" ? "span-bar bad" : s.kind === "client" ? "span-bar out" : "span-bar"} style={{ insetInlineStart: `${(start / total) * 100}%`, inlineSize: `max(2px, ${(s.duration_ns / total) * 100}%)` }} />
              </span>
            </button>
          );
        })}
      </div>
    </div>
  );
}

function SpanDetail({ span: s, close }: { span: Span; close: () => void }) {
  const entries = Object.entries(s.attributes ?? {}).filter(([, v]) => v !== "").sort(([a], [b]) => a.localeCompare(b));
  return (
    <section className="span-detail" aria-label={`Span ${asked(s)}`}>
      <div className="section-head">
        <h2>{s.service}: {asked(s)}</h2>
        <button type="button" className="quiet" onClick={close}>Close</button>
      </div>
      <dl className="facts">
        <div><dt>Took</dt><dd>{took(s.duration_ns)}</dd></div>
        <div><dt>Kind</dt><dd>{s.kind}</dd></div>
        {s.status && <div><dt>Status</dt><dd>{s.status === "error" ? <State state="failed" /> : s.status}{s.message && <span className="sub">{s.message}</span>}</dd></div>}
        {s.instance && <div><dt>Instance</dt><dd><a className="mono small" href={href(["logs"], { service: s.service, instance: s.instance })}>{s.instance}</a></dd></div>}
        {s.revision ? <div><dt>Revision</dt><dd><a href={href(["deployments"], { revision: String(s.revision) })}>{s.revision}</a></dd></div> : null}
      </dl>
      {entries.length > 0 && <table className="plain pairs"><tbody>{entries.map(([k, v]) => <tr key={k}><th scope="row" className="mono">{k}</th><td className="mono">{value(v)}</td></tr>)}</tbody></table>}
      {(s.events ?? []).map((e, i) => <p key={i} className="notice"><b>{e.name}</b> {Object.entries(e.attributes ?? {}).map(([k, v]) => `${k}=${value(v)}`).join(" ")}</p>)}
    </section>
  );
}

function Records({ records, chosen, choose }: { records: LogRecord[]; chosen: Span | null; choose: (span: string) => void }) {
  if (records.length === 0) return <p className="faint">No line of output carries this trace's ID. Programs that write <code>trace_id</code> are found here.</p>;
  return (
    <ol className="records">
      {records.map((r) => (
        <li key={r.seq} className={chosen && r.span_id === chosen.span_id ? "record here" : "record"}>
          <span className="faint mono">{moment(r.time)}</span> <b>{r.service}</b>{" "}
          {r.span_id ? <button type="button" className="link" onClick={() => choose(r.span_id)}>{r.body}</button> : <span className={r.severity === "error" || r.severity === "fatal" ? "bad" : ""}>{r.body}</span>}
        </li>
      ))}
    </ol>
  );
}
