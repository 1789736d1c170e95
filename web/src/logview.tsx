// Lines of output, of which only those in view are elements of the page.
import { useVirtualizer } from "@tanstack/react-virtual";
import { useDeferredValue, useEffect, useMemo, useRef, useState } from "react";
import { count, moment } from "./format";
import { capacity, type Kept, levelOf, type Ring } from "./logs";
import { Empty, Failure } from "./ui";

export interface Wanted {
  text: string;
  errors: boolean; // only what was written to stderr, or names itself an error
}

/** matcher returns what a filter lets through; "/…/" is a regular expression. */
function matcher(wanted: Wanted): { test: (line: Kept) => boolean; problem: string } {
  const only = (line: Kept) => !wanted.errors || line.stream === "stderr" || levelOf(line) === "error";
  const pattern = /^\/(.+)\/$/.exec(wanted.text);
  if (pattern) {
    try {
      const re = new RegExp(pattern[1]!, "i");
      return { test: (line) => only(line) && re.test(line.text), problem: "" };
    } catch (err) {
      return { test: only, problem: String(err instanceof Error ? err.message : err) };
    }
  }
  const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
  return { test: (line) => only(line) && words.every((w) => line.lower.includes(w)), problem: "" };
}

/** useFiltered filters what is new only, as long as the filter stays. */
function useFiltered(ring: Ring, wanted: Wanted): { lines: Kept[]; problem: string } {
  const { test, problem } = useMemo(() => matcher(wanted), [wanted]);
  const memory = useRef<{ ring: Ring | null; order: number; test: unknown; seen: number; lines: Kept[]; first: number }>({ ring: null, order: 0, test: null, seen: -1, lines: [], first: 0 });
  const m = memory.current;
  const all = ring.all();
  if (m.ring !== ring || m.test !== test || m.order !== ring.order) {
    memory.current = { ring, order: ring.order, test, seen: all.at(-1)?.key ?? -1, lines: all.filter(test), first: all[0]?.key ?? 0 };
    return { lines: memory.current.lines, problem };
  }
  const oldest = all[0]?.key ?? 0;
  const fresh = all.slice(Math.max(0, m.seen + 1 - oldest)).filter(test);
  let lines = m.lines;
  if (oldest > m.first) lines = lines.filter((l) => l.key >= oldest);
  if (fresh.length > 0) lines = lines.concat(fresh);
  memory.current = { ring, order: ring.order, test, seen: all.at(-1)?.key ?? m.seen, lines, first: oldest };
  return { lines, problem };
}

const rowHeight = 21;

export function LogView({ ring, wanted, showInstance, tall }: { ring: Ring; wanted: Wanted; showInstance: boolean; tall?: boolean }) {
  const deferred = useDeferredValue(wanted);
  const { lines, problem } = useFiltered(ring, deferred);
  const box = useRef<HTMLDivElement>(null);
  const [following, setFollowing] = useState(true);
  const [open, setOpen] = useState<Kept | null>(null);
  const rows = useVirtualizer({ count: lines.length, getScrollElement: () => box.current, estimateSize: () => rowHeight, overscan: 8 });

  useEffect(() => {
    const element = box.current;
    if (following && element) element.scrollTop = element.scrollHeight;
  }, [following, lines]);

  const scrolled = () => {
    const element = box.current;
    if (!element) return;
    setFollowing(element.scrollHeight - element.scrollTop - element.clientHeight < 2 * rowHeight);
  };

  return (
    <div className="log">
      <p className="log-count" role="status">
        {count(lines.length)} {lines.length === 1 ? "line" : "lines"}
        {lines.length !== ring.all().length && ` of ${count(ring.all().length)}`}
        {ring.dropped > 0 && `; the newest ${count(capacity)} are kept`}
        {problem && <span className="bad"> {problem}</span>}
      </p>
      {ring.error !== null && <Failure error={ring.error} />}
      <div className={tall ? "log-box tall" : "log-box"} ref={box} onScroll={scrolled} tabIndex={0} role="group" aria-label="Lines of output">
        {lines.length === 0 ? (
          <Empty title={ring.all().length === 0 ? "No output yet." : "No line matches the filter."}>
            <p>{ring.all().length === 0 ? "Lines appear here as the instances write them." : "Several words must all be in a line; /…/ is a regular expression."}</p>
          </Empty>
        ) : (
          <div className="log-rows" style={{ height: rows.getTotalSize() }}>
            {rows.getVirtualItems().map((row) => {
              const line = lines[row.index]!;
              return (
                <div key={line.key} className={`log-row ${levelOf(line)} ${line.stream === "stderr" ? "stderr" : ""}`} style={{ transform: `translateY(${row.start}px)` }} onClick={() => setOpen(line)}>
                  <time dateTime={line.time}>{stamp(line.time)}</time>
                  {showInstance && <span className="log-instance" title={line.instance}>{line.instance.replace(/-[0-9a-f]{8}$/, "")}</span>}
                  <span className="log-text">{readable(line.text, line.instance)}</span>
                </div>
              );
            })}
          </div>
        )}
      </div>
      {!following && (
        <button type="button" className="log-follow primary" onClick={() => setFollowing(true)}>Follow the newest</button>
      )}
      {open && (
        <div className="log-open">
          <div className="log-open-head">
            <b>{moment(open.time)}</b> {open.instance} · {open.stream}
            <button type="button" className="quiet" onClick={() => setOpen(null)}>Close</button>
          </div>
          <pre tabIndex={0}>{pretty(open.text)}</pre>
        </div>
      )}
    </div>
  );
}

/** readable writes a line of JSON the way people read it: level, message, the rest as key=value, but what stands before it. */
function readable(text: string, instance: string): string {
  if (!text.startsWith("{") || !text.endsWith("}")) return text;
  try {
    const { time, ts, timestamp, level, severity, lvl, msg, message, ...rest } = JSON.parse(text) as Record<string, unknown>;
    void [time, ts, timestamp]; // the line has its own
    const said = msg ?? message;
    if (typeof said !== "string") return text;
    const more = Object.entries(rest).filter(([k, v]) => k !== "service" || !instance.startsWith(`${String(v)}-`)).map(([k, v]) => `${k}=${typeof v === "string" && !/\s/.test(v) ? v : JSON.stringify(v)}`);
    return [level ?? severity ?? lvl ?? "", said, ...more].filter((part) => part !== "").join("  ");
  } catch {
    return text;
  }
}

function stamp(at: string): string {
  const d = new Date(at);
  const two = (n: number) => String(n).padStart(2, "0");
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${String(d.getMilliseconds()).padStart(3, "0")}`;
}

function pretty(text: string): string {
  if (!text.startsWith("{")) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
