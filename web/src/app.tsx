// The frame around every page: who is looking, where one can go, and whether what is shown is still true.
import { type FormEvent, lazy, type ReactNode, Suspense, useEffect, useState } from "react";
import { follow, useLive } from "./live";
import { AlertsPage } from "./pages/alerts";
import { Deployments } from "./pages/deployments";
import { Events } from "./pages/events";
import { Logs } from "./pages/logs";
import { Metrics } from "./pages/metrics";
import { Overview } from "./pages/overview";
import { ServicePage } from "./pages/service";
import { Traces } from "./pages/traces";
import { href, usePlace } from "./route";
import { type Identity, keyInAddress, Refused, signIn, signOut, whoami } from "./session";
import { choose, type Choice, useChoice } from "./theme";
import { Empty, Failure, Loading, State, Title } from "./ui";

const Topology = lazy(() => import("./pages/topology"));

const pages: { path: string; label: string; icon: ReactNode }[] = [
  { path: "", label: "Overview", icon: <path d="M3 3h5v5H3zM12 3h5v5h-5zM3 12h5v5H3zM12 12h5v5h-5z" /> },
  { path: "topology", label: "Topology", icon: <path d="M10 3v4M10 7 4.5 13M10 7l5.5 6M2.5 13h4v4h-4zM13.5 13h4v4h-4z" /> },
  { path: "traces", label: "Traces", icon: <path d="M3 5h8M6 10h9M11 15h6" /> },
  { path: "logs", label: "Logs", icon: <path d="M3 4.5h14M3 8.2h10M3 11.8h14M3 15.5h7" /> },
  { path: "metrics", label: "Metrics", icon: <path d="M3 3v14h14M6 13l3.5-4 3 2.5L17 6" /> },
  { path: "alerts", label: "Alerts", icon: <path d="M10 3a4.5 4.5 0 0 1 4.5 4.5c0 4 1.5 5 1.5 6H4c0-1 1.5-2 1.5-6A4.5 4.5 0 0 1 10 3M8.5 16.5h3" /> },
  { path: "deployments", label: "Deployments", icon: <path d="M10 17V4m0 0L5.5 8.5M10 4l4.5 4.5M4 17h12" /> },
  { path: "events", label: "Events", icon: <path d="M10 3a7 7 0 1 1 0 14 7 7 0 0 1 0-14m0 3.5V10l2.5 2" /> },
];

export function App() {
  const [who, setWho] = useState<Identity | null>(null);
  const [problem, setProblem] = useState<unknown>(null);
  const [asked, setAsked] = useState(false);
  useEffect(() => {
    const key = keyInAddress();
    (key ? signIn(key) : whoami()).then(setWho, setProblem).finally(() => setAsked(true));
  }, []);
  useEffect(() => {
    if (!who) return;
    const end = new AbortController();
    void follow(end.signal, () => setWho(null));
    return () => end.abort();
  }, [who]);
  if (!asked) return null;
  if (!who) return <SignIn problem={problem} enter={setWho} />;
  return <Frame who={who} leave={() => void signOut().finally(() => location.reload())} />;
}

function SignIn({ problem, enter }: { problem: unknown; enter: (who: Identity) => void }) {
  const [key, setKey] = useState("");
  const [error, setError] = useState<unknown>(problem instanceof Refused && problem.status === 401 ? null : problem);
  const submit = (e: FormEvent) => {
    e.preventDefault();
    signIn(key).then(enter, setError);
  };
  return (
    <main className="sign-in">
      <Title text="Sign in to Trellis" />
      <p>In the project's folder, type <code>trellis console</code> and open the address that it prints. Or paste the address here.</p>
      <form onSubmit={submit}>
        <label htmlFor="key">Address or key</label>
        <input id="key" type="password" autoComplete="off" required value={key} onChange={(e) => setKey(e.target.value)} />
        {error !== null && <Failure error={error} />}
        <button type="submit" className="primary">Sign in</button>
      </form>
    </main>
  );
}

function Frame({ who, leave }: { who: Identity; leave: () => void }) {
  const place = usePlace();
  const [top = ""] = place.path;
  const here = top === "services" ? "" : top;
  return (
    <div className="frame">
      <a className="skip" href="#main" onClick={(e) => { e.preventDefault(); document.getElementById("main")?.focus(); }}>Skip to content</a>
      <header className="side">
        <p className="brand">
          <svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true" fill="none" stroke="currentColor" strokeWidth="2.2" strokeLinecap="round">
            <path d="M4 20 20 4M4 12l8-8M12 20l8-8M4 4l16 16M4 12l8 8M12 4l8 8" />
          </svg>
          <span className="brand-project">{who.project}</span>
        </p>
        <nav aria-label="Pages">
          <ul>
            {pages.map((p) => (
              <li key={p.path}>
                <a href={href(p.path ? [p.path] : [])} aria-current={here === p.path ? "page" : undefined}>
                  <svg viewBox="0 0 20 20" width="18" height="18" aria-hidden="true" fill="none" stroke="currentColor" strokeWidth="1.6" strokeLinecap="round" strokeLinejoin="round">{p.icon}</svg>
                  <span>{p.label}</span>
                </a>
              </li>
            ))}
          </ul>
        </nav>
        <div className="side-foot">
          <Connection />
          <Theme />
          <button type="button" className="quiet" onClick={leave}>Sign out</button>
        </div>
      </header>
      <main id="main" tabIndex={-1}>
        <Suspense fallback={<Loading />}>
          <Page />
        </Suspense>
      </main>
    </div>
  );
}

function Page() {
  const { path } = usePlace();
  const { status, connection } = useLive();
  const [top, name] = path;
  if (!status) {
    if (connection === "lost") {
      return <Empty title="The control plane does not answer."><p>It is tried again by itself. <code>trellis ps</code> says whether the project runs.</p></Empty>;
    }
    return <Loading />;
  }
  switch (top) {
    case undefined: return <Overview />;
    case "services": return name ? <ServicePage key={name} name={name} /> : <Overview />;
    case "topology": return <Topology />;
    case "traces": return <Traces key={name} />;
    case "metrics": return <Metrics />;
    case "alerts": return <AlertsPage />;
    case "logs": return <Logs />;
    case "deployments": return <Deployments />;
    case "events": return <Events />;
  }
  return (
    <>
      <Title text="No such page" />
      <p><a href={href([])}>The overview</a> leads everywhere.</p>
    </>
  );
}

function Connection() {
  const { connection } = useLive();
  return (
    <p className="connection" role="status">
      {connection === "live" ? <State state="ready" /> : <State state={connection === "lost" ? "unready" : "pending"} />}
      <span className="connection-text">{{ live: "live", lost: "reconnecting", connecting: "connecting" }[connection]}</span>
    </p>
  );
}

function Theme() {
  const chosen = useChoice();
  return (
    <label className="theme">
      <span className="visually-hidden">Colours</span>
      <select value={chosen} onChange={(e) => choose(e.target.value as Choice)}>
        <option value="">System</option>
        <option value="light">Light</option>
        <option value="dark">Dark</option>
      </select>
    </label>
  );
}
