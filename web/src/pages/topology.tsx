// Who calls whom, as measured.
import dagre from "@dagrejs/dagre";
import { useQuery } from "@tanstack/react-query";
import { Background, BaseEdge, Controls, type Edge, type EdgeProps, Handle, MarkerType, type Node, type NodeProps, Position, ReactFlow, useReactFlow, useStore } from "@xyflow/react";
import "@xyflow/react/dist/base.css";
import { useCallback, useEffect, useMemo } from "react";
import { ms, percent, rate } from "../format";
import { useLive } from "../live";
import { href, refine, usePlace } from "../route";
import { getJSON } from "../session";
import type { Graph, GraphEdge } from "../types";
import { Empty, Failure, Loading, Section, State, Title } from "../ui";

const windows: [string, string][] = [["1m", "last minute"], ["5m", "last 5 minutes"], ["1h", "last hour"]];
const outside = "clients";

interface Card extends Record<string, unknown> {
  name: string;
  state: string;
  ready: number;
  want: number;
  rate: number;
  errors: number;
}

interface Way extends Record<string, unknown> {
  path: string;
  x: number; // of the label's middle
  y: number;
}

const nodeTypes = { card: CardNode };
const edgeTypes = { way: WayEdge };
const width = 184;
const height = 56;
const label = { width: 76, height: 20, labelpos: "c" };
const smallest = 0.75; // of its size the map is still read; where there is no room for that it is scrolled
const around = 24; // the room between the map's edge and what is in it

export default function Topology() {
  const { query } = usePlace();
  const { status } = useLive();
  const window = query.get("window") ?? "1m";
  const { data, error, refetch } = useQuery({
    queryKey: ["graph", window],
    queryFn: ({ signal }) => getJSON<Graph>(`v1/graph?window=${window}`, signal),
    refetchInterval: 3000,
  });
  return (
    <>
      <Title text="Topology" aside={
        <label className="inline">Calls in the
          <select value={window} onChange={(e) => refine({ window: e.target.value })}>
            {windows.map(([value, label]) => <option key={value} value={value}>{label}</option>)}
          </select>
        </label>} />
      {error ? <Failure error={error} retry={() => void refetch()} /> : !data ? <Loading /> : data.nodes.length === 0 ? (
        <Empty title="Nothing runs."><p>Type <code>trellis up -d</code> in the project's folder.</p></Empty>
      ) : (
        <>
          <Map graph={{ ...data, nodes: data.nodes.map((n) => ({ ...n, ...status?.services?.find((s) => s.name === n.service) })) }} />
          <Calls edges={data.edges} ours={new Set(status?.services?.map((s) => s.name))} />
        </>
      )}
    </>
  );
}

function Map({ graph }: { graph: Graph }) {
  // The places depend on who calls whom, not on how often, so that nothing moves while one looks.
  const shape = JSON.stringify([graph.nodes.map((n) => n.service), graph.edges.map((e) => [e.caller, e.callee])]);
  const { places, ways, wide, tall } = useMemo(() => arrange(graph), [shape]);
  const nodes: Node<Card>[] = useMemo(() => graph.nodes.map((n) => {
    const into = graph.edges.filter((e) => e.callee === n.service);
    const asked = n.service === "" ? graph.edges.filter((e) => e.caller === "") : into;
    return {
      id: n.service || outside,
      type: "card",
      position: places[n.service || outside] ?? { x: 0, y: 0 },
      data: { name: n.service, state: n.state, ready: n.ready, want: n.want, rate: total(asked, (e) => e.rate), errors: total(asked, (e) => e.error_rate) },
      draggable: false,
      connectable: false,
      selectable: false,
    };
  }), [graph, places]);
  const edges: Edge<Way>[] = useMemo(() => graph.edges.map((e) => {
    const bad = e.error_rate > 0;
    const quiet = e.rate === 0;
    return {
      id: `${e.caller}>${e.callee}`,
      type: "way",
      data: ways[`${e.caller}>${e.callee}`],
      source: e.caller || outside,
      target: e.callee,
      label: quiet ? undefined : bad ? `${rate(e.rate)}/s, ${percent(e.error_rate / e.rate)} err` : `${rate(e.rate)}/s`,
      ariaLabel: said(e),
      className: quiet ? "edge-quiet" : bad ? "edge-bad" : "edge",
      markerEnd: { type: MarkerType.ArrowClosed, color: bad ? "var(--bad)" : "var(--edge)", markerUnits: "userSpaceOnUse", width: 14, height: 14 },
      style: { strokeWidth: quiet ? 1 : 1.2 + Math.min(3.5, Math.log10(1 + e.rate)) },
    };
  }), [graph, ways]);
  // Fingers move the room and the whole page, as everywhere.
  const fingers = matchMedia("(pointer: coarse)").matches;
  const middle = useCallback((room: HTMLDivElement | null) => { if (room) room.scrollLeft = (room.scrollWidth - room.clientWidth) / 2; }, []);
  return (
    <div className="map-room" ref={middle} role="region" aria-label="Map of the services; the table below says the same">
      <div className="map" style={{ minInlineSize: `${Math.round(wide * smallest)}px`, maxBlockSize: `${Math.round(tall)}px`, aspectRatio: `${Math.round(wide)} / ${Math.round(tall)}` }}>
        <ReactFlow key={shape} nodes={nodes} edges={edges} nodeTypes={nodeTypes} edgeTypes={edgeTypes} minZoom={0.2} panOnDrag={!fingers} zoomOnPinch={!fingers} nodesFocusable={false} edgesFocusable nodesConnectable={false} elementsSelectable={false} zoomOnScroll={false} preventScrolling={false} proOptions={{ hideAttribution: true }}>
          <Background gap={24} />
          <Fitted wide={wide} tall={tall} />
        </ReactFlow>
      </div>
    </div>
  );
}

/** Fitted shows the whole map, the ways around the services too, whenever its room changes, and on demand. */
function Fitted({ wide, tall }: { wide: number; tall: number }) {
  const { fitBounds } = useReactFlow();
  const room = useStore((s) => `${s.width} ${s.height}`);
  const fit = useCallback(() => void fitBounds({ x: 0, y: 0, width: wide, height: tall }, { padding: 0 }), [fitBounds, wide, tall]);
  useEffect(fit, [fit, room]);
  return <Controls showInteractive={false} position="bottom-right" onFitView={fit} />;
}

function CardNode({ data }: NodeProps<Node<Card>>) {
  const body = (
    <>
      <span className="card-name"><b>{data.name || "Clients"}</b>{data.errors > 0 && <span className="card-rate bad">{percent(data.errors / data.rate)} errors</span>}</span>
      <span className="card-facts">
        {data.state ? <span><State state={data.state} /> <span className="faint">{data.ready}/{data.want}</span></span> : <span className="faint">{data.name ? "outside of the project" : "from outside"}</span>}
        <span>{rate(data.rate)}/s</span>
      </span>
    </>
  );
  return (
    <>
      <Handle type="target" position={Position.Top} />
      {data.state ? <a className="card nopan" href={href(["services", data.name])}>{body}</a> : <div className="card">{body}</div>}
      <Handle type="source" position={Position.Bottom} />
    </>
  );
}

// WayEdge goes where the layout has made room for it, around the services between its ends, and so does its label.
function WayEdge({ id, data, label, markerEnd, style }: EdgeProps<Edge<Way>>) {
  if (!data) return null;
  return <BaseEdge id={id} path={data.path} labelX={data.x} labelY={data.y} label={label} labelBgPadding={[4, 1]} labelBgBorderRadius={3} markerEnd={markerEnd} style={style} />;
}

interface Arranged {
  places: Record<string, { x: number; y: number }>;
  ways: Record<string, Way>;
  wide: number;
  tall: number;
}

function arrange(graph: Graph): Arranged {
  const g = new dagre.graphlib.Graph();
  g.setGraph({ rankdir: "TB", nodesep: 28, edgesep: 16, ranksep: 30, marginx: around, marginy: around });
  for (const n of graph.nodes) g.setNode(n.service || outside, { width, height });
  for (const e of graph.edges) g.setEdge(e.caller || outside, e.callee, { ...label });
  dagre.layout(g);
  const size = g.graph();
  return {
    places: Object.fromEntries(graph.nodes.map((n) => {
      const at = g.node(n.service || outside);
      return [n.service || outside, { x: at.x - width / 2, y: at.y - height / 2 }];
    })),
    ways: Object.fromEntries(graph.edges.map((e) => {
      const at = g.edge(e.caller || outside, e.callee) as { points: Point[]; x: number; y: number };
      return [`${e.caller}>${e.callee}`, { path: curve(at.points), x: at.x, y: at.y }];
    })),
    wide: size.width ?? width,
    tall: size.height ?? height,
  };
}

interface Point {
  x: number;
  y: number;
}

// curve goes through all points, of which each is below the one before (or each above): as cubics of x over y whose slopes
// keep them between their ends (Fritsch and Carlson, 1980; the means are Steffen's, 1990).
function curve(points: Point[]): string {
  const at = (x: number, y: number) => `${x.toFixed(1)},${y.toFixed(1)}`;
  const p = points.filter((one, i) => i === 0 || one.y !== points[i - 1]!.y);
  const last = p.length - 1;
  const gap = p.slice(1).map((one, i) => one.y - p[i]!.y);
  const rise = p.slice(1).map((one, i) => (one.x - p[i]!.x) / gap[i]!);
  const slope = p.map((_, i) => {
    const before = rise[i - 1], after = rise[i];
    if (before === undefined || after === undefined || before * after <= 0) return 0;
    const mean = (before * gap[i]! + after * gap[i - 1]!) / (gap[i - 1]! + gap[i]!);
    return Math.sign(before) * 2 * Math.min(Math.abs(before), Math.abs(after), Math.abs(mean) / 2);
  });
  for (const [end, inner, over] of [[0, 1, rise[0]], [last, last - 1, rise[last - 1]]] as const) slope[end] = last < 1 ? 0 : (3 * over! - slope[inner]!) / 2;
  return p.slice(1).reduce((path, to, i) => {
    const third = gap[i]! / 3;
    return `${path}C${at(p[i]!.x + slope[i]! * third, p[i]!.y + third)} ${at(to.x - slope[i + 1]! * third, to.y - third)} ${at(to.x, to.y)}`;
  }, `M${at(p[0]!.x, p[0]!.y)}`);
}

function Calls({ edges, ours }: { edges: GraphEdge[]; ours: Set<string> }) {
  const named = (service: string) => (ours.has(service) ? <a href={href(["services", service])}>{service}</a> : service); // a database outside has no page
  const sorted = [...edges].sort((a, b) => b.error_rate - a.error_rate || b.rate - a.rate);
  return (
    <Section title="Calls">
      <table className="plain">
        <thead><tr><th scope="col">From</th><th scope="col">To</th><th scope="col" className="num">Rate</th><th scope="col" className="num">Errors</th><th scope="col" className="num">p50</th><th scope="col" className="num">p99</th></tr></thead>
        <tbody>
          {sorted.map((e) => (
            <tr key={`${e.caller}>${e.callee}`}>
              <th scope="row">{e.caller ? named(e.caller) : "Clients"}</th>
              <td data-label="To">{named(e.callee)}</td>
              <td data-label="Rate" className="num">{e.rate === 0 ? <span className="faint">declared, not seen</span> : `${rate(e.rate)}/s`}</td>
              <td data-label="Errors" className={e.error_rate > 0 ? "num bad" : "num"}>{e.rate === 0 ? "–" : percent(e.error_rate / e.rate)}</td>
              <td data-label="p50" className="num">{e.p50_seconds === null ? "–" : ms(e.p50_seconds * 1000)}</td>
              <td data-label="p99" className="num">{e.p99_seconds === null ? "–" : ms(e.p99_seconds * 1000)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Section>
  );
}

function total(edges: GraphEdge[], of: (e: GraphEdge) => number): number {
  return edges.reduce((sum, e) => sum + of(e), 0);
}

function said(e: GraphEdge): string {
  const who = `${e.caller || "Clients"} to ${e.callee}`;
  if (e.rate === 0) return `${who}: declared, no call seen`;
  return `${who}: ${rate(e.rate)} calls a second, ${percent(e.error_rate / e.rate)} errors${e.p99_seconds === null ? "" : `, p99 ${ms(e.p99_seconds * 1000)}`}`;
}
