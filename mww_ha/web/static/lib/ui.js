/** What views are made of: an element in the light tree, data that loads, dialogs, notes, jobs. */
import { LitElement, html, nothing } from "../vendor/lit.js";
import { Problem, followJob, get, live, post } from "./api.js";
import { duration, moment, number, percent, t } from "./i18n.js";

/** @typedef {import("../vendor/lit.js").TemplateResult} TemplateResult */
/** @typedef {import("./api.js").Schemas} Schemas */
/** @typedef {Schemas["Job"]} Job */

/** An element of the panel: one style sheet for all, so no shadow; drawn anew when the language changes. */
export class View extends LitElement {
  /**
   * The rest of the address behind the view's name: "#/models/x?run=y" → ["x"], {run: "y"}.
   * @type {import("../vendor/lit.js").PropertyDeclarations}
   */
  static properties = { path: { attribute: false }, params: { attribute: false } };

  constructor() {
    super();
    /** @type {string[]} */
    this.path = [];
    /** @type {Record<string, string>} */
    this.params = {};
    /** @type {(() => void)[]} */
    this.ends = [];
  }

  /** @returns {any} */
  createRenderRoot() {
    return this;
  }

  /** @returns {unknown} */
  render() {
    return nothing;
  }

  connectedCallback() {
    super.connectedCallback();
    this.while(window, "mww-language", () => this.requestUpdate());
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    for (const end of this.ends.splice(0)) end();
  }

  /**
   * Hears `type` for as long as this element is in the page.
   * @param {EventTarget} target
   * @param {string} type
   * @param {(event: any) => void} hear
   */
  while(target, type, hear) {
    target.addEventListener(type, hear);
    this.ends.push(() => target.removeEventListener(type, hear));
  }

  /**
   * Calls `react` with what the service tells of these types, and on "reset".
   * @param {string[]} types
   * @param {(data: any, type: string) => void} react
   */
  hear(types, react) {
    for (const type of [...types, "reset"]) {
      this.while(live, type, (event) => react(/** @type {CustomEvent} */ (event).detail, type));
    }
  }
}

/**
 * Something that is read from the service, and read again: `loading` | `value` | `problem`.
 * @template T
 */
export class Loaded {
  /** @param {LitElement} host @param {(signal: AbortSignal) => Promise<T>} read */
  constructor(host, read) {
    this.host = host;
    this.read = read;
    /** @type {T | undefined} */
    this.value = undefined;
    /** @type {Problem | null} */
    this.problem = null;
    this.loading = false;
    this.abort = new AbortController();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    host.addController(this);
  }

  hostConnected() {
    void this.load();
  }

  hostDisconnected() {
    this.abort.abort();
    clearTimeout(this.timer);
  }

  /** Reads again; the old value stays until the new one is there. */
  async load() {
    this.abort.abort();
    const abort = (this.abort = new AbortController());
    this.loading = true;
    this.host.requestUpdate();
    try {
      const value = await this.read(abort.signal);
      if (abort.signal.aborted) return;
      this.value = value;
      this.problem = null;
    } catch (error) {
      if (abort.signal.aborted) return;
      this.problem = asProblem(error);
    }
    this.loading = false;
    this.host.requestUpdate();
  }

  /** Reads again soon, once for many calls. */
  soon(wait_ms = 250) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.load(), wait_ms);
  }

  /**
   * @param {(value: T) => unknown} draw
   * @returns {unknown} what `draw` makes of the value; before there is one, that it is coming, or why not
   */
  show(draw) {
    if (this.value !== undefined) {
      return html`${this.problem ? showProblem(this.problem, () => void this.load()) : nothing}${draw(this.value)}`;
    }
    if (this.problem) return showProblem(this.problem, () => void this.load());
    return html`<p class="loading" role="status">${t("app.loading")}</p>`;
  }
}

/** @param {unknown} error @returns {Problem} */
export function asProblem(error) {
  if (error instanceof Problem) {
    if (error.error !== "Offline") return error;
    return new Problem(t("app.offline"), { hint: t("app.offline_hint"), error: "Offline" });
  }
  console.error(error);
  return new Problem(error instanceof Error ? error.message : String(error));
}

/** @param {Problem} problem @param {() => void} [again] @returns {TemplateResult} */
export function showProblem(problem, again) {
  return html`<div class="problem" role="alert">
    <p><strong>${problem.message}</strong></p>
    ${problem.hint ? html`<p>${problem.hint}</p>` : nothing}
    ${again ? html`<button type="button" @click=${again}>${t("app.again")}</button>` : nothing}
  </div>`;
}

/**
 * An empty state teaches: what would be here, and how it comes here.
 * @param {string} title @param {string} text @param {unknown} [action]
 * @returns {TemplateResult}
 */
export const empty = (title, text, action = nothing) =>
  html`<div class="empty"><h3>${title}</h3><p>${text}</p>${action}</div>`;

/**
 * A short note at the bottom of the page; with a way back where there is one. Of notes with the same `place` the newest
 * is shown.
 * @param {string} text
 * @param {{undo?: () => unknown, undoText?: string, bad?: boolean, stay_ms?: number, place?: string}} [options]
 */
export function note(text, options = {}) {
  window.dispatchEvent(new CustomEvent("mww-note", { detail: { text, ...options } }));
}

/**
 * Runs what was clicked; says what went wrong instead of failing silently.
 * @template T @param {() => Promise<T>} action @returns {Promise<T | undefined>}
 */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    const problem = asProblem(error);
    note([problem.message, problem.hint].filter(Boolean).join(" – "), { bad: true });
    return undefined;
  }
}

/**
 * Asks once, in a dialog that Escape closes. Resolves to whether the answer was yes.
 * @param {{title: string, text?: string, yes: string, danger?: boolean}} question
 * @returns {Promise<boolean>}
 */
export function confirm({ title, text = "", yes, danger = false }) {
  return new Promise((resolve) => {
    const dialog = document.createElement("dialog");
    dialog.className = "ask";
    const heading = document.createElement("h2");
    heading.textContent = title;
    heading.id = `ask-${Date.now()}`;
    dialog.setAttribute("aria-labelledby", heading.id);
    const body = document.createElement("p");
    body.textContent = text;
    const row = document.createElement("div");
    row.className = "row end";
    const no = document.createElement("button");
    no.textContent = t("app.cancel");
    const go = document.createElement("button");
    go.textContent = yes;
    go.className = danger ? "danger" : "primary";
    no.addEventListener("click", () => dialog.close("no"));
    go.addEventListener("click", () => dialog.close("yes"));
    row.append(no, go);
    dialog.append(heading, ...(text ? [body] : []), row);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.returnValue = "no";
    dialog.showModal();
    no.focus();
  });
}

/** @param {string} text */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    note(t("app.copied"));
  } catch {
    note(t("app.not_copied"), { bad: true });
  }
}

/** @param {string} hash "#/review" */
export function go(hash) {
  location.hash = hash;
}

// --- jobs ------------------------------------------------------------------------------------------------------------

export const ENDED = ["done", "failed", "cancelled", "interrupted"];

/** @param {Record<string, unknown>} order @returns {Promise<Job | undefined>} the job, or nothing: a note says why */
export const start = (order) => attempt(() => post("api/jobs", order));

/** @param {Job} job @returns {string} the kind of a job in words */
export const jobName = (job) => t(`job.${job.kind}`);

/** @param {Job} job @returns {string} */
export function jobState(job) {
  if (job.stopping && !ENDED.includes(job.state)) return t("job.stopping");
  return t(`job.state_${job.state}`);
}

/** @param {Job["progress"]} progress @returns {string} "train: 400 of 1600 steps" */
export function progressText(progress) {
  if (!progress) return "";
  const amount = progress.total
    ? t("job.amount", { done: number(progress.done, 0), total: number(progress.total, 0), unit: progress.unit })
    : "";
  return [progress.stage, progress.message, amount].filter(Boolean).join(" · ");
}

/**
 * A job while it runs and after: state, bar, log, cancel, again. `<mww-job .job=${job}>`; it follows the job by itself.
 * "changed" is told when its state has changed.
 */
export class JobCard extends View {
  static properties = { job: { attribute: false }, open: { type: Boolean }, lines: { state: true } };

  constructor() {
    super();
    /** @type {Job | null} */
    this.job = null;
    this.open = false;
    /** @type {string[]} */
    this.lines = [];
    /** @type {(() => void) | null} */
    this.stop = null;
    this.followed = "";
  }

  connectedCallback() {
    super.connectedCallback();
    this.hear(["job"], (told) => {
      if (told && this.job && told.id === this.job.id) this.take(told);
    });
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.stop?.();
    this.stop = null;
    this.followed = "";
  }

  /** @param {Job} job */
  take(job) {
    if (job.id === this.job?.id && this.job.finished_at && !job.finished_at) return; // told late: it has ended since
    const changed = job.state !== this.job?.state;
    this.job = job;
    if (changed) this.dispatchEvent(new CustomEvent("changed", { detail: job, bubbles: true }));
  }

  /** @param {Map<string, unknown>} _changed */
  updated(_changed) {
    if (this.open && this.job && this.followed !== this.job.id) {
      this.stop?.();
      this.lines = [];
      this.followed = this.job.id;
      this.stop = followJob(this.job.id, (type, data) => this.listen(type, data));
    }
    const log = this.querySelector("pre");
    if (log) log.scrollTop = log.scrollHeight;
  }

  /** @param {string} type @param {any} data */
  listen(type, data) {
    /** @type {Record<string, () => string>} */
    const words = {
      log: () => data.text,
      progress: () => progressText(data),
      error: () => [data.message, data.hint].filter(Boolean).join(" – "),
      gap: () => "…",
    };
    const text = words[type]?.();
    if (!text) return;
    const last = this.lines.at(-1);
    // Progress counts up on one line.
    const rest = type === "progress" && last?.startsWith("\u2009") ? this.lines.slice(0, -1) : this.lines;
    this.lines = [...rest.slice(-999), (type === "progress" ? "\u2009" : "") + text];
  }

  render() {
    const job = this.job;
    if (!job) return nothing;
    const ended = ENDED.includes(job.state);
    const progress = job.progress;
    const share = progress?.total ? Math.min(1, progress.done / progress.total) : null;
    return html`<section class="job ${job.state}" aria-label=${jobName(job)}>
      <div class="row">
        <strong>${jobName(job)}${job.order["device"] ? ` · ${String(job.order["device"])}` : nothing}</strong>
        <span class="tag ${job.state}">${jobState(job)}</span>
        <span class="muted grow">${this.#when(job)}</span>
        <button type="button" aria-expanded=${this.open} @click=${() => (this.open = !this.open)}>
          ${t("job.log")}
        </button>
        ${ended
          ? job.state === "done"
            ? nothing
            : html`<button type="button" @click=${() => this.#again(job)}>${t("job.again")}</button>`
          : html`<button type="button" ?disabled=${job.stopping} @click=${() => this.#cancel(job)}>
              ${t("app.cancel")}
            </button>`}
      </div>
      ${ended || job.state === "queued"
        ? nothing
        : html`<div class="row progress">
            <progress
              aria-label=${jobName(job)}
              max="1"
              .value=${share ?? 0}
              class=${share === null ? "unknown" : ""}
            ></progress>
            <span class="number">${share === null ? "" : percent(share)}</span>
          </div>`}
      ${!ended && progress ? html`<p class="muted">${progressText(progress)}</p>` : nothing}
      ${job.state === "failed"
        ? showProblem(new Problem(job.message || t("job.failed"), { hint: job.hint }))
        : job.state === "interrupted"
          ? html`<p class="muted">${t("job.interrupted_text")}</p>`
          : nothing}
      ${this.open
        ? html`<pre class="log" tabindex="0" aria-label=${t("job.log")}>${this.lines.join("\n") || "…"}</pre>`
        : nothing}
    </section>`;
  }

  /** @param {Job} job */
  #when(job) {
    if (job.finished_at && job.started_at) {
      const took = (Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000;
      return `${moment(job.finished_at)} · ${duration(took)}`;
    }
    return moment(job.started_at || job.queued_at);
  }

  /** @param {Job} job */
  async #cancel(job) {
    const told = await attempt(() => post(`api/jobs/${job.id}/cancel`));
    if (told) this.take(/** @type {Job} */ (told));
  }

  /** @param {Job} job */
  async #again(job) {
    const told = await attempt(() => post(`api/jobs/${job.id}/retry`));
    if (told) {
      this.followed = "";
      this.take(/** @type {Job} */ (told));
    }
  }
}
customElements.define("mww-job", JobCard);

/**
 * The jobs there are, kept up to date.
 * @param {View} host
 * @param {string[]} kinds those that are wanted; none: all
 * @returns {Loaded<Job[]>}
 */
export function watchJobs(host, kinds = []) {
  const loaded = new Loaded(host, async (signal) => {
    const jobs = /** @type {Job[]} */ (await get("api/jobs?limit=50", signal));
    return jobs.filter((job) => !kinds.length || kinds.includes(job.kind));
  });
  /** @param {any} told @param {string} type */
  const react = (told, type) => {
    const known = loaded.value;
    if (type === "reset" || !known || !known.some((job) => job.id === told.id)) {
      if (type === "reset" || !kinds.length || kinds.includes(told.kind)) loaded.soon(50);
      return;
    }
    loaded.value = known.map((job) => (job.id === told.id ? told : job));
    host.requestUpdate();
  };
  host.addController({ hostConnected: () => host.hear(["job"], react) });
  return loaded;
}
