// The output of all services, filtered as one types.
import { useMemo } from "react";
import { useLive } from "../live";
import { type Query, useLogs } from "../logs";
import { LogView, type Wanted } from "../logview";
import { refine, usePlace, useText } from "../route";
import { Title } from "../ui";

export function Logs() {
  const { query } = usePlace();
  const { status } = useLive();
  const service = query.get("service") ?? "";
  const instance = query.get("instance") ?? "";
  const asked: Query = useMemo(() => ({ services: service ? [service] : [], instance, tail: service ? 100_000 : 5000 }), [service, instance]);
  const ring = useLogs(asked);
  const [text, setText] = useText("filter");
  const errors = query.get("errors") === "yes";
  const wanted: Wanted = useMemo(() => ({ text, errors }), [text, errors]);
  const instances = status?.services?.find((s) => s.name === service)?.instances ?? [];
  return (
    <>
      <Title text="Logs" />
      <div className="filters" role="search">
        <label>Filter
          <input type="search" placeholder="words, or /a regular expression/" value={text} onChange={(e) => setText(e.target.value)} />
        </label>
        <label>Service
          <select value={service} onChange={(e) => refine({ service: e.target.value, instance: "" })}>
            <option value="">All</option>
            {status?.services?.map((s) => <option key={s.name}>{s.name}</option>)}
          </select>
        </label>
        {service && instances.length > 1 && (
          <label>Instance
            <select value={instance} onChange={(e) => refine({ instance: e.target.value })}>
              <option value="">All</option>
              {instances.map((i) => <option key={i.id}>{i.id}</option>)}
            </select>
          </label>
        )}
        <label className="check"><input type="checkbox" checked={errors} onChange={(e) => refine({ errors: e.target.checked ? "yes" : "" })} /> Errors only</label>
      </div>
      <LogView ring={ring} wanted={wanted} showInstance tall />
    </>
  );
}
