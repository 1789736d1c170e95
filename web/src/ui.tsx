// The parts that pages are made of.
import { type ReactNode, useEffect, useId, useRef, useState } from "react";
import { moment } from "./format";

type Tone = "ok" | "warn" | "bad" | "busy" | "off";

const tones: Record<string, Tone> = {
  healthy: "ok", completed: "ok", ready: "ok", promoted: "ok",
  firing: "bad",
  starting: "busy", pending: "busy", rolling: "busy", draining: "busy",
  degraded: "warn", unready: "warn", paused: "warn", superseded: "off", overtaken: "off",
  "crash-looping": "bad", failed: "bad", "rolled-back": "bad", "taken-back": "bad", incomplete: "bad",
  stopped: "off", exited: "off",
};

/** urgency orders states: what needs somebody comes first. */
export function urgency(state: string): number {
  return { bad: 0, warn: 1, busy: 2, ok: 3, off: 4 }[tones[state] ?? "off"];
}

export function isTrouble(state: string): boolean {
  const tone = tones[state];
  return tone === "bad" || tone === "warn";
}

// Each tone has a shape of its own, so that none is told by its colour alone.
const marks: Record<Tone, ReactNode> = {
  ok: <circle cx="6" cy="6" r="4" />,
  busy: <path d="M6 1.5a4.5 4.5 0 1 0 4.5 4.5" fill="none" stroke="currentColor" strokeWidth="2" strokeLinecap="round" />,
  warn: <path d="M6 1.2 11.2 10.4H.8z" />,
  bad: <path d="m2.2 2.2 7.6 7.6m0-7.6-7.6 7.6" fill="none" stroke="currentColor" strokeWidth="2.4" strokeLinecap="round" />,
  off: <rect x="2.5" y="2.5" width="7" height="7" fill="none" stroke="currentColor" strokeWidth="1.6" />,
};

export function State({ state }: { state: string }) {
  const tone = tones[state] ?? "off";
  return (
    <span className={`state ${tone}`}>
      <svg viewBox="0 0 12 12" width="11" height="11" aria-hidden="true" fill="currentColor">{marks[tone]}</svg>
      {state}
    </span>
  );
}

export function When({ at }: { at: string }) {
  return <time dateTime={at} title={new Date(at).toLocaleString()}>{moment(at)}</time>;
}

/** Empty says what is not there, and what to do so that it is. */
export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="empty">
      <p className="empty-title">{title}</p>
      {children && <div className="empty-more">{children}</div>}
    </div>
  );
}

export function Failure({ error, retry }: { error: unknown; retry?: () => void }) {
  return (
    <div className="failure" role="alert">
      <p>{sentence(error instanceof Error ? error.message : String(error))}</p>
      {retry && <button type="button" onClick={retry}>Try again</button>}
    </div>
  );
}

/** sentence writes a message of the API as people write: it begins with a capital letter, and what is code looks like it. */
function sentence(text: string): ReactNode {
  const parts = (text.charAt(0).toUpperCase() + text.slice(1)).split("`");
  return parts.map((part, i) => (i % 2 === 1 && i < parts.length - 1 ? <code key={i}>{part}</code> : part));
}

export function Loading() {
  return <p className="loading" role="status">Loading…</p>;
}

export function Section({ title, aside, children }: { title: string; aside?: ReactNode; children: ReactNode }) {
  const id = useId();
  return (
    <section aria-labelledby={id} className="section">
      <div className="section-head">
        <h2 id={id}>{title}</h2>
        {aside}
      </div>
      {children}
    </section>
  );
}

export function Code({ children }: { children: ReactNode }) {
  return <code>{children}</code>;
}

/** Title is a page's heading: it takes the focus when the page comes up, so that a screen reader says where it is. */
export function Title({ children, text, aside }: { children?: ReactNode; text: string; aside?: ReactNode }) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${text} · Trellis`;
    heading.current?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, [text]);
  return (
    <div className="title">
      <h1 ref={heading} tabIndex={-1}>{children ?? text}</h1>
      {aside && <div className="actions">{aside}</div>}
    </div>
  );
}

interface Ask {
  label: string; // of the button that asks
  title: string;
  danger?: boolean;
  disabled?: boolean;
  confirm: string; // of the button that does it
  run: () => Promise<void>;
  children: ReactNode; // what it will do
}

/** Action is a button that says what it is going to do before it does it. */
export function Action({ label, title, danger, disabled, confirm, run, children }: Ask) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [open, setOpen] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const id = useId();
  useEffect(() => {
    if (open) dialog.current?.showModal();
  }, [open]);
  const close = () => {
    dialog.current?.close();
    setOpen(false);
    setError(null);
  };
  const act = async () => {
    setBusy(true);
    setError(null);
    try {
      await run();
      close();
    } catch (err) {
      setError(err);
    } finally {
      setBusy(false);
    }
  };
  return (
    <>
      <button type="button" disabled={disabled} onClick={() => setOpen(true)}>{label}</button>
      {open && (
        <dialog ref={dialog} aria-labelledby={id} onClose={close}>
          <h2 id={id}>{title}</h2>
          <div className="dialog-body">{children}</div>
          {error !== null && <Failure error={error} />}
          <div className="dialog-buttons">
            <button type="button" onClick={close}>Cancel</button>
            <button type="button" className={danger ? "primary danger" : "primary"} disabled={busy} onClick={() => void act()}>
              {busy ? "Working…" : confirm}
            </button>
          </div>
        </dialog>
      )}
    </>
  );
}

/** Value writes a value of a file: short ones in one line. */
export function value(v: unknown): string {
  if (v === null || v === undefined) return "";
  if (typeof v === "string") return v;
  return JSON.stringify(v);
}
