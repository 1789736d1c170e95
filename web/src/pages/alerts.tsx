// What is wrong, what of the error budgets is left, and who has asked not to be told.
import { useQuery } from "@tanstack/react-query";
import { percent } from "../format";
import { href } from "../route";
import { getJSON, post, request } from "../session";
import type { Alert, Alerts } from "../types";
import { Action, Empty, Failure, Loading, Section, State, Title, When } from "../ui";

export function useAlerts() {
  return useQuery({ queryKey: ["alerts"], queryFn: ({ signal }) => getJSON<Alerts>("v1/alerts", signal), refetchInterval: 5000 });
}

export function AlertsPage() {
  const { data, error, refetch } = useAlerts();
  if (error) return <><Title text="Alerts" /><Failure error={error} retry={() => void refetch()} /></>;
  if (!data) return <><Title text="Alerts" /><Loading /></>;
  const alerts = data.alerts ?? [];
  const again = () => void refetch();
  return (
    <>
      <Title text="Alerts" />
      {data.failing && <p className="notice">Alerts do not reach {data.receiver}: {data.failing}. {data.waiting} wait and are sent when it answers.</p>}
      {alerts.length === 0 ? (
        <Empty title="Nothing is wrong.">
          <p>{data.receiver ? <>What happens is sent to {data.receiver}.</> : <>Alerts appear here only. With <code>x-trellis.alerts.webhook</code> they are sent as well.</>}</p>
        </Empty>
      ) : (
        <table className="plain">
          <thead><tr><th scope="col">Alert</th><th scope="col">State</th><th scope="col">Service</th><th scope="col">Since</th><th scope="col">Silence</th></tr></thead>
          <tbody>{alerts.map((a) => <Row key={a.name + JSON.stringify(a.labels)} alert={a} again={again} />)}</tbody>
        </table>
      )}
      <Budgets alerts={data} />
      {(data.silences ?? []).length > 0 && (
        <Section title="Silences">
          <table className="plain">
            <thead><tr><th scope="col">Silenced</th><th scope="col">Until</th><th scope="col">By</th><th scope="col">End</th></tr></thead>
            <tbody>
              {(data.silences ?? []).map((s) => (
                <tr key={s.id}>
                  <th scope="row" className="mono">{Object.entries(s.labels).map(([k, v]) => `${k}="${v}"`).join(", ")}{s.comment && <span className="sub">{s.comment}</span>}</th>
                  <td data-label="Until"><When at={s.ends} /></td>
                  <td data-label="By">{s.actor}</td>
                  <td><Action label="End now" title="End this silence?" confirm="End it" run={async () => { await request(`v1/silences/${encodeURIComponent(s.id)}`, { method: "DELETE" }); again(); }}><p>Alerts that it held back are sent from now on.</p></Action></td>
                </tr>
              ))}
            </tbody>
          </table>
        </Section>
      )}
    </>
  );
}

function Row({ alert: a, again }: { alert: Alert; again: () => void }) {
  const silence = async () => {
    await post("v1/silences", { id: "", labels: { alertname: a.name, ...(a.service ? { service: a.service } : {}) }, ends: new Date(Date.now() + 3_600_000).toISOString(), comment: "from the console", actor: "" });
    again();
  };
  return (
    <tr>
      <th scope="row"><b>{a.name}</b><span className="sub">{a.summary}</span>{a.query && <a className="sub" href={href(["metrics"], { q: a.query })}>its expression</a>}</th>
      <td data-label="State"><State state={a.state} /><span className="sub">{a.severity}</span></td>
      <td data-label="Service">{a.service ? <a href={href(["services", a.service])}>{a.service}</a> : "–"}</td>
      <td data-label="Since"><When at={a.since} /></td>
      <td>{a.silenced ? "silenced" : (
        <Action label="Silence" title={`Silence ${a.name}?`} confirm="Silence for an hour" run={silence}>
          <p>For one hour nobody is told of {a.name}{a.service ? ` of ${a.service}` : ""}. It stays in this list.</p>
        </Action>
      )}</td>
    </tr>
  );
}

function Budgets({ alerts }: { alerts: Alerts }) {
  const budgets = alerts.budgets ?? [];
  return (
    <Section title="Error budgets">
      {budgets.length === 0 ? (
        <Empty title="No service has an objective."><p><code>x-trellis.objective: {"{availability: 99.9%, latency: {p99: 250ms}}"}</code> at a service makes one.</p></Empty>
      ) : (
        <table className="plain">
          <thead><tr><th scope="col">Service</th><th scope="col">Objective</th><th scope="col" className="num">Good</th><th scope="col">Budget left</th><th scope="col" className="num">Burn, last hour</th><th scope="col">Measured over</th></tr></thead>
          <tbody>
            {budgets.map((b) => (
              <tr key={b.service + b.objective}>
                <th scope="row"><a href={href(["services", b.service])}>{b.service}</a></th>
                <td data-label="Objective">{b.objective}</td>
                <td data-label="Good" className="num">{b.good === null ? "no requests" : percent(b.good)}</td>
                <td data-label="Left">{b.left === null ? "–" : (
                  <span className="bar-cell"><span className={b.left <= 0 ? "bar-text bad" : "bar-text"}>{b.left < 0 ? `spent ${(1 - b.left).toFixed(1)} times` : percent(b.left)}</span>{b.left > 0 && <span className={b.left < 0.25 ? "bar bad" : "bar"} style={{ inlineSize: `${Math.min(1, b.left) * 100}%` }} />}</span>
                )}</td>
                <td data-label="Burn" className={b.burn !== null && b.burn > 1 ? "num bad" : "num"}>{b.burn === null ? "–" : `${b.burn.toFixed(1)}×`}</td>
                <td data-label="Measured over">{b.window}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Section>
  );
}
