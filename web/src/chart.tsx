// Lines over time: a small one inside a row, and a large one with axes.
import { useEffect, useMemo, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { date, time } from "./format";
import { useTheme } from "./theme";

/** Spark is a line without axes; the number beside it says the same. */
export function Spark({ values, failed, width = 112, height = 26 }: { values: (number | null)[]; failed?: number[]; width?: number; height?: number }) {
  const { line, area, bars } = useMemo(() => {
    const shown = values.slice(-75);
    const top = Math.max(...shown.map((v) => v ?? 0), 1e-9);
    const x = (i: number) => (shown.length < 2 ? width : (i / (shown.length - 1)) * width);
    const y = (v: number) => height - 1.5 - (v / top) * (height - 4);
    let line = "";
    let open = false;
    shown.forEach((v, i) => {
      if (v === null) {
        open = false;
        return;
      }
      line += `${open ? "L" : "M"}${x(i).toFixed(1)} ${y(v).toFixed(1)}`;
      open = true;
    });
    const whole = shown.every((v) => v !== null);
    const area = whole && line ? `${line}L${width} ${height}L0 ${height}Z` : "";
    const bad = failed?.slice(-75) ?? [];
    const bars = bad.map((v, i) => (v > 0 ? `M${x(i).toFixed(1)} ${height}V${Math.min(y(v), height - 3).toFixed(1)}` : "")).join("");
    return { line, area, bars };
  }, [values, failed, width, height]);
  if (values.length < 2) return <span className="spark-none" aria-hidden="true" />;
  return (
    <svg className="spark" width={width} height={height} viewBox={`0 0 ${width} ${height}`} aria-hidden="true">
      {area && <path className="spark-area" d={area} />}
      <path className="spark-line" d={line} />
      {bars && <path className="spark-bad" d={bars} />}
    </svg>
  );
}

/** stamps writes the times of an axis, with seconds only where they differ in them. */
function stamps(at: number[]): string[] {
  const step = at.length > 1 ? at[1]! - at[0]! : 60;
  return at.map((t) => {
    const text = time(t * 1000);
    return step >= 86400 ? date(t * 1000) : step % 60 === 0 ? text.slice(0, 5) : text;
  });
}

export interface Line {
  label: string;
  values: (number | null)[];
  tone?: "main" | "second" | "bad" | "warn";
}

const toneColor = { main: "--chart-1", second: "--chart-2", bad: "--bad", warn: "--warn" };
const palette = ["--chart-1", "--chart-2", "--chart-3", "--chart-4", "--chart-5", "--chart-6"];

/** binary are the distances that an axis of bytes may have between its marks. */
export const binary = Array.from({ length: 50 }, (_, i) => 2 ** i);

// bridged is how many steps a line goes on without a value: what is away for longer was not measured.
const bridged = 4;

/** bridge leaves of the gaps in a line those that nothing leads across. */
function bridge(u: uPlot, gaps: [number, number][]) {
  const times = u.data[0];
  const step = times.length > 1 ? times[1]! - times[0]! : 1;
  return gaps.filter(([from, to]) => u.posToVal(to, "x", true) - u.posToVal(from, "x", true) > (bridged + 0.5) * step);
}

/** alone are the values without a neighbour that a line could lead to. */
function alone(u: uPlot, series: number): number[] {
  const values = u.data[series]!;
  const near = (i: number, way: number) => {
    for (let n = 1; n <= bridged; n++) if (values[i + way * n] !== null && values[i + way * n] !== undefined) return true;
    return false;
  };
  const found: number[] = [];
  values.forEach((v, i) => v !== null && v !== undefined && !near(i, 1) && !near(i, -1) && found.push(i));
  return found;
}

/** Chart draws lines over time. What it shows is in its table too, for whoever does not see it. */
export function Chart({ title, times, lines, format, steps, height = 180, legend = true }: { title: string; times: number[]; lines: Line[]; format: (v: number) => string; steps?: number[]; height?: number; legend?: boolean }) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const theme = useTheme();
  const shape = lines.map((l) => l.label + (l.tone ?? "")).join("\n");
  const data = useMemo(() => [times, ...lines.map((l) => l.values)] as uPlot.AlignedData, [times, lines]);
  const latest = useRef(data);
  latest.current = data;

  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const css = getComputedStyle(document.documentElement);
    const color = (name: string) => css.getPropertyValue(name).trim();
    const stroke = (line: Line, i: number) => color(line.tone ? toneColor[line.tone] : palette[i % palette.length]!);
    const axis = { stroke: color("--muted"), grid: { stroke: color("--grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const chart = new uPlot(
      {
        width: element.clientWidth || 300,
        height,
        legend: { show: false },
        padding: [10, 12, 0, 0],
        cursor: { y: false, points: { size: 6 } },
        scales: { y: { range: (_u, _min, max) => [0, max > 0 ? max * 1.1 : 1] } },
        axes: [{ ...axis, size: 28, space: 80, values: (_u, at) => stamps(at) },
          { ...axis, size: 62, values: (_u, at) => at.map(format), ...(steps && { incrs: steps }) }],
        series: [{}, ...lines.map((line, i) => ({ label: line.label, stroke: stroke(line, i), width: 1.6, dash: !line.tone && i >= palette.length ? [6, 4] : undefined, points: { show: true, size: 4, filter: alone }, gaps: (u: uPlot, _series: number, _from: number, _to: number, gaps: [number, number][]) => bridge(u, gaps) }))],
      },
      latest.current,
      element,
    );
    plot.current = chart;
    const size = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height }));
    size.observe(element);
    return () => {
      size.disconnect();
      chart.destroy();
      plot.current = null;
    };
    // The lines' values change all the time; only their names make another chart.
  }, [shape, theme, height, format, steps]);

  useEffect(() => plot.current?.setData(data), [data]);

  const last = (values: (number | null)[]) => {
    for (let i = values.length - 1; i >= Math.max(0, values.length - 15); i--) {
      const v = values[i];
      if (v !== null && v !== undefined) return format(v);
    }
    return "–";
  };
  return (
    <figure className="chart">
      <figcaption>
        <span className="chart-title">{title}</span>
        {legend && <ul className="legend">
          {lines.map((line, i) => (
            <li key={line.label}>
              <span className={`swatch ${line.tone ?? "p" + (i % palette.length)}${!line.tone && i >= palette.length ? " dashed" : ""}`} aria-hidden="true" />
              {line.label} <b>{last(line.values)}</b>
            </li>
          ))}
        </ul>}
      </figcaption>
      <div ref={box} className="chart-box" aria-hidden="true" />
    </figure>
  );
}
