// Numbers and times as people read them.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

export function time(at: string | number | Date): string {
  return clock.format(new Date(at));
}

export function date(at: string | number | Date): string {
  return day.format(new Date(at));
}

export function moment(at: string): string {
  const today = new Date().toDateString() === new Date(at).toDateString();
  return today ? time(at) : `${date(at)}, ${time(at)}`;
}

/** span writes a number of seconds: "12 s", "3 min", "2 h 5 min", "4 d". */
export function span(seconds: number): string {
  if (seconds < 0) seconds = 0;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d`;
}

export function count(n: number): string {
  if (n >= 1e6) return `${(n / 1e6).toFixed(1)} M`;
  if (n >= 1e4) return `${(n / 1e3).toFixed(0)} k`;
  return n.toLocaleString();
}

export function rate(perSecond: number): string {
  if (perSecond === 0) return "0";
  if (perSecond < 0.05) return "<0.1";
  if (perSecond < 10) return perSecond.toFixed(1);
  return count(Math.round(perSecond));
}

export function ms(value: number): string {
  if (value === 0) return "0 ms";
  if (value >= 10_000) return `${(value / 1000).toFixed(0)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  if (value >= 10) return `${value.toFixed(0)} ms`;
  return `${value.toFixed(1)} ms`;
}

export function percent(share: number): string {
  if (share === 0 || share === 1) return `${share * 100} %`;
  const p = share * 100;
  if (p < 0.01) return "< 0.01 %";
  if (p > 99.99) return "> 99.99 %";
  if (p < 1 || p > 99) return `${p.toFixed(2)} %`;
  return `${p.toFixed(1)} %`;
}

export function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) {
    n /= 1024;
    i++;
  }
  return `${n >= 100 || i === 0 ? n.toFixed(0) : n.toFixed(1)} ${units[i]}`;
}

/** request says what was asked for: the name of a span has a route where many paths go. */
export function request(name: string, path: unknown): string {
  const method = /^[A-Z]+(?= )/.exec(name)?.[0];
  return method && typeof path === "string" && path !== "" ? `${method} ${path}` : name;
}

/** goal writes the share that is aimed at, with all its nines. */
export function goal(share: number): string {
  return `${Number((share * 100).toFixed(6))} %`;
}

/** milliseconds reads a duration as Compose writes it: "250ms", "1m30s". */
export function milliseconds(text: string): number {
  const unit: Record<string, number> = { us: 0.001, ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
  let sum = 0;
  for (const [, n, u] of text.matchAll(/([\d.]+)(us|ms|s|m|h)/g)) sum += Number(n) * (unit[u!] ?? 0);
  return sum;
}
