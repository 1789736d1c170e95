// What happened, newest first.
import { useDeferredValue, useMemo } from "react";
import { date, time } from "../format";
import { useLive } from "../live";
import { href, refine, usePlace, useText } from "../route";
import type { Event } from "../types";
import { Empty, Title } from "../ui";

const shown = 500;

export function Events() {
  const { query } = usePlace();
  const { events, status } = useLive();
  const service = query.get("service") ?? "";
  const [text, setText] = useText("filter");
  const filter = useDeferredValue(text);
  const found = useMemo(() => select(events, service, filter), [events, service, filter]);
  return (
    <>
      <Title text="Events" />
      <div className="filters" role="search">
        <label>Filter
          <input type="search" placeholder="words, or a time such as 14:02" value={text} onChange={(e) => setText(e.target.value)} />
        </label>
        <label>Service
          <select value={service} onChange={(e) => refine({ service: e.target.value })}>
            <option value="">All</option>
            {status?.services?.map((s) => <option key={s.name}>{s.name}</option>)}
          </select>
        </label>
      </div>
      <EventList events={found.slice(0, shown)} />
      {found.length > shown && <p className="faint">The newest {shown} of {found.length} are shown; filter for older ones.</p>}
    </>
  );
}

function select(events: Event[], service: string, filter: string): Event[] {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  return events
    .filter((e) => !service || e.service === service)
    .filter((e) => {
      if (words.length === 0) return true;
      const text = `${time(e.time)} ${date(e.time)} ${e.kind} ${e.service} ${e.instance} ${e.reason} ${e.message} ${e.actor}`.toLowerCase();
      return words.every((w) => text.includes(w));
    })
    .reverse();
}

/** troubles says whether an event is one that somebody would rather not have seen. */
function troubles(e: Event): boolean {
  if (e.kind === "instance.exited") return e.reason !== "stopped" && !/ code 0$/.test(e.message);
  return /failed|crash|unready|taken-back|incomplete|rolled-back/.test(e.kind);
}

export function EventList({ events, bare }: { events: Event[]; bare?: boolean }) {
  if (events.length === 0) {
    return <Empty title="No events."><p>Deploys, starts, exits and scaling decisions appear here as they happen.</p></Empty>;
  }
  let day = "";
  return (
    <ol className="events">
      {events.map((e, i) => {
        const d = date(e.time);
        const first = d !== day;
        day = d;
        return (
          <li key={`${e.time} ${e.kind} ${e.instance} ${i}`} className={troubles(e) ? "event trouble" : "event"}>
            <span className="event-when"><time dateTime={e.time} title={new Date(e.time).toLocaleString()}>{time(e.time)}</time>{first && <span className="sub">{d}</span>}</span>
            <span className="event-what">
              <b>{e.kind}</b>
              {!bare && e.service && <> <a href={href(["services", e.service])}>{e.service}</a></>}
              {e.instance && <span className="mono"> {e.instance}</span>}
              {e.reason && <span className="faint"> {e.reason}</span>}
            </span>
            {e.message && <span className="event-why">{e.message}</span>}
            {e.actor !== "trellis" && <span className="event-who">{e.actor}</span>}
          </li>
        );
      })}
    </ol>
  );
}
