// What was deployed, when, by whom, what came of it; and the way back.
import { useQuery } from "@tanstack/react-query";
import { useEffect } from "react";
import { useChanges } from "../config";
import { count, ms, span } from "../format";
import { useLive } from "../live";
import { href, refine, usePlace } from "../route";
import { getJSON, post } from "../session";
import type { Change, Cohort, Deployment, Rollout } from "../types";
import { Action, Empty, Failure, Loading, Section, State, Title, value, When } from "../ui";

const limit = 100;

export function useDeployments() {
  const { status } = useLive();
  const found = useQuery({ queryKey: ["deployments"], queryFn: ({ signal }) => getJSON<Deployment[]>(`v1/deployments?limit=${limit}`, signal) });
  const { refetch } = found;
  const progress = JSON.stringify([status?.revision, status?.outcome, status?.rollouts?.map((r) => r.phase)]);
  useEffect(() => void refetch(), [progress, refetch]);
  return found;
}

export function Deployments() {
  const { query } = usePlace();
  const { data, error, refetch } = useDeployments();
  if (error) return <><Title text="Deployments" /><Failure error={error} retry={() => void refetch()} /></>;
  if (!data) return <><Title text="Deployments" /><Loading /></>;
  const chosen = data.find((d) => String(d.revision) === query.get("revision")) ?? data[0];
  return (
    <>
      <Title text="Deployments" />
      {!chosen ? (
        <Empty title="Nothing was deployed yet."><p>Type <code>trellis up -d</code> in the project's folder.</p></Empty>
      ) : (
        <div className="split">
          <ol className="revisions" aria-label="Revisions, newest first">
            {data.map((d) => (
              <li key={d.revision}>
                <a href={href(["deployments"], { revision: String(d.revision) })} aria-current={d === chosen ? "true" : undefined}>
                  <span className="revision-number">{d.revision}</span>
                  <span className="revision-what">
                    <State state={d.outcome} /> <span className="faint">{d.cause}</span>
                    <span className="sub"><When at={d.applied_at} /> by {d.actor}</span>
                  </span>
                </a>
              </li>
            ))}
          </ol>
          <Revision deployment={chosen} all={data} />
        </div>
      )}
    </>
  );
}

function Revision({ deployment: d, all }: { deployment: Deployment; all: Deployment[] }) {
  const { query } = usePlace();
  const newest = all[0]!;
  const before = all.find((o) => o.revision === d.revision - 1)?.revision ?? 0;
  const against = query.has("against") ? Number(query.get("against")) : before;
  return (
    <div className="revision">
      <div className="section-head">
        <h2>Revision {d.revision}</h2>
        {d.revision !== newest.revision && (
          <Action label={`Go back to ${d.revision}`} title={`Go back to revision ${d.revision}?`} confirm={`Deploy revision ${d.revision} again`}
            run={() => post("v1/rollback", { number: d.revision })}>
            <p>It is deployed again as a new revision, {newest.revision + 1}, through the same checks, and loses no request. What runs changes like this:</p>
            <Changes from={newest.revision} to={d.revision} />
          </Action>
        )}
      </div>
      <dl className="facts">
        <div><dt>Outcome</dt><dd><State state={d.outcome} />{d.undoes ? ` undoes ${d.undoes}` : ""}</dd></div>
        <div><dt>Applied</dt><dd><When at={d.applied_at} /></dd></div>
        <div><dt>Took</dt><dd>{d.healthy_at ? span((Date.parse(d.healthy_at) - Date.parse(d.applied_at)) / 1000) : "–"}</dd></div>
        <div><dt>By</dt><dd>{d.actor} <span className="faint">{d.cause}</span></dd></div>
        {d.commit && <div><dt>Commit</dt><dd><code>{d.commit.sha.slice(0, 10)}</code>{d.commit.dirty && " with uncommitted changes"} <span className="sub">{d.commit.author}</span></dd></div>}
      </dl>
      <Section title="Rollouts">
        {d.rollouts.length === 0 ? <p className="faint">No service had instances to replace.</p> : <Rollouts rollouts={d.rollouts} />}
      </Section>
      <Section title="Changes" aside={
        <label className="inline">compared with
          <select value={against} onChange={(e) => refine({ revision: String(d.revision), against: e.target.value })}>
            {all.filter((o) => o.revision !== d.revision).map((o) => <option key={o.revision} value={o.revision}>revision {o.revision}</option>)}
            <option value={0}>nothing</option>
          </select>
        </label>}>
        <Changes from={against} to={d.revision} />
      </Section>
    </div>
  );
}

export function Changes({ from, to }: { from: number; to: number }) {
  const { data, error, refetch } = useChanges(from, to);
  if (error) return <Failure error={error} retry={() => void refetch()} />;
  if (!data) return <Loading />;
  if (data.length === 0) return <p className="faint">Nothing in the file differs.</p>;
  return <ul className="changes">{data.map((c) => <OneChange key={c.path + c.action} change={c} />)}</ul>;
}

function OneChange({ change: c }: { change: Change }) {
  const large = typeof (c.to ?? c.from) === "object" && c.path.split(".").length === 2;
  return (
    <li className={`change ${c.action}`}>
      <span className="change-path"><span className="change-sign" aria-label={c.action}>{{ add: "+", remove: "−", change: "~" }[c.action]}</span><code>{c.path}</code></span>
      {!large && (
        <span className="change-values">
          {c.action !== "add" && <del>{value(c.from)}</del>}
          {c.action === "change" && <span aria-hidden="true"> → </span>}
          {c.action !== "remove" && <ins>{value(c.to)}</ins>}
        </span>
      )}
      {c.effect !== "none" && <span className="change-effect">{effects[c.effect] ?? c.effect}</span>}
    </li>
  );
}

const effects: Record<string, string> = {
  "in-place": "carried out on what runs",
  rollout: "instances are replaced",
  "stop-first": "instances stop before their replacements start",
  "data-loss": "no service has its data any more, which stays",
};

export function Rollouts({ rollouts }: { rollouts: Rollout[] }) {
  return (
    <table className="plain">
      <thead>
        <tr><th scope="col">Service</th><th scope="col">Phase</th><th scope="col">Took</th><th scope="col" className="num">Requests</th><th scope="col" className="num">Failed</th><th scope="col">p99, old to new</th></tr>
      </thead>
      <tbody>
        {rollouts.map((r) => (
          <tr key={`${r.revision} ${r.service}`}>
            <th scope="row"><a href={href(["services", r.service], { tab: "rollouts" })}>{r.service}</a> <span className="sub">{r.from} to {r.revision}</span></th>
            <td data-label="Phase"><State state={r.phase} />{r.reason && <span className="sub">{r.reason}</span>}{r.failure?.probe && <span className="sub">last probe: {r.failure.probe}</span>}
              {r.failure?.log && r.failure.log.length > 0 && <details><summary>Last lines of {r.failure.instance || "the instance"}</summary><pre tabIndex={0}>{r.failure.log.join("\n")}</pre></details>}</td>
            <td data-label="Took">{span(((r.ended ? Date.parse(r.ended) : Date.now()) - Date.parse(r.began)) / 1000)}</td>
            <td data-label="Requests" className="num">{count(r.ledger.requests)}</td>
            <td data-label="Failed" className={r.ledger.failed > 0 ? "num bad" : "num"}>{count(r.ledger.failed)}</td>
            <td data-label="p99">{p99(r.ledger.old)} to {p99(r.ledger.new)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function p99(c: Cohort): string {
  return c.p99_ms === null ? "–" : ms(c.p99_ms);
}
