/** A flash as it goes: preflight, compile, upload, verify. Read from the job's log, so it is the same after a reload. */
import { html, nothing } from "../../vendor/lit.js";
import { followJob } from "../../lib/api.js";
import { duration, percent, t } from "../../lib/i18n.js";
import { ENDED, View, progressText } from "../../lib/ui.js";

/** @typedef {import("../../lib/api.js").Schemas} Schemas */
/** @typedef {"preflight" | "compile" | "upload" | "verify"} Name */
/** @typedef {"waiting" | "running" | "done" | "failed" | "stopped" | "skipped"} State */
/** @typedef {{name: Name, state: State, began: string, ended: string, text: string, share: number | null}} Step */
/** @typedef {{device: string, steps: Step[], outcome: Schemas["Flash"] | null}} Attempt */

/** @type {readonly Name[]} */
export const STEPS = ["preflight", "compile", "upload", "verify"];

/** @param {string} step of a row of the history @returns {Name} */
export const stepOf = (step) =>
  step === "return" || step === "record" ? "verify" : (STEPS.find((one) => one === step) ?? "preflight");

/**
 * @param {{stage: string, unit: string}} progress
 * @returns {Name | null} the step it belongs to; null: it says nothing about that
 */
export function stepOfProgress({ stage, unit }) {
  if (stage === "render" || stage === "preflight") return "preflight";
  if (stage === "compile" || stage === "upload" || stage === "verify") return stage;
  return stage === "flash" && unit === "s" ? "verify" : null; // it waits for the satellite to come back
}

/** @param {string} device @returns {Attempt} */
const begin = (device) => ({
  device,
  outcome: null,
  steps: STEPS.map((name) => ({ name, state: "waiting", began: "", ended: "", text: "", share: null })),
});

/** `<mww-flash-steps .job=${job}>` */
export class FlashSteps extends View {
  static properties = { job: { attribute: false }, attempts: { state: true } };

  constructor() {
    super();
    /** @type {Schemas["Job"] | null} */
    this.job = null;
    /** @type {Attempt[]} */
    this.attempts = [];
    this.followed = "";
    /** @type {(() => void) | null} */
    this.stop = null;
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.stop?.();
    this.followed = "";
  }

  /** @param {Map<string, unknown>} changed */
  willUpdate(changed) {
    const job = this.job;
    if (!changed.has("job") || !job || job.id === this.followed) return;
    this.stop?.();
    this.followed = job.id;
    const device = job.order["device"];
    this.attempts = device ? [begin(String(device))] : [];
    this.stop = followJob(job.id, (type, data) => this.listen(type, data));
  }

  /** @param {string} type @param {any} data */
  listen(type, data) {
    if (type === "progress") this.#progress(data);
    else if (type === "result") this.#result(data.result, data.at);
    else if (type === "error") this.#close("failed", data.at);
    else if (type === "state" && ENDED.includes(data.state)) {
      this.#close(data.state === "done" ? "done" : data.state === "failed" ? "failed" : "stopped", data.at);
    }
    this.requestUpdate();
  }

  /** @param {any} progress */
  #progress(progress) {
    if (progress.unit === "devices") {
      if (progress.message) {
        this.#close("done", progress.at);
        this.attempts.push(begin(progress.message));
      }
      return;
    }
    const attempt = this.attempts.at(-1);
    const name = stepOfProgress(progress);
    if (!attempt) return;
    const current = attempt.steps.find((step) => step.state === "running");
    if (!name) {
      if (current) current.text = progressText({ ...progress, stage: "" });
      return;
    }
    for (const step of attempt.steps) {
      if (step.name === name) {
        if (step.state !== "running") step.began = progress.at;
        step.state = "running";
        step.text = progressText({ ...progress, stage: "" });
        // a wait has a limit, not a length
        step.share = progress.total && progress.unit !== "s" ? Math.min(1, progress.done / progress.total) : null;
      } else if (STEPS.indexOf(step.name) < STEPS.indexOf(name)) {
        if (step.state === "running") step.ended = progress.at;
        step.state = step.state === "waiting" ? "skipped" : "done";
      } else {
        step.state = "waiting"; // tried again
      }
    }
  }

  /** @param {Schemas["Flash"] | Schemas["Flash"][] | null} result @param {string} at */
  #result(result, at) {
    for (const flash of result ? [result].flat() : []) {
      const attempt = this.attempts.find((one) => one.device === flash.device);
      if (!attempt) continue;
      attempt.outcome = flash;
      if (flash.outcome === "failed" || flash.outcome === "stopped") {
        const failed = STEPS.indexOf(stepOf(flash.step));
        attempt.steps.forEach((step, index) => {
          if (index === failed) Object.assign(step, { state: flash.outcome, text: flash.message });
          else step.state = index < failed ? "done" : "waiting";
        });
      } else {
        this.#finish(attempt, at);
      }
    }
  }

  /**
   * What is not done when an attempt has ended was not needed: a dry run, a hand-over, firmware that is there already.
   * @param {"done" | "failed" | "stopped"} state @param {string} at
   */
  #close(state, at) {
    const attempt = this.attempts.at(-1);
    const steps = attempt?.steps ?? [];
    if (!attempt || attempt.outcome || steps.some((step) => step.state === "failed" || step.state === "stopped")) return;
    if (state === "done") {
      this.#finish(attempt, at);
      return;
    }
    const current = steps.find((step) => step.state === "running") ?? steps.find((step) => step.state === "waiting");
    if (current) Object.assign(current, { state, ended: at, share: null, text: "" });
  }

  /** @param {Attempt} attempt @param {string} at */
  #finish(attempt, at) {
    for (const step of attempt.steps) {
      if (step.state === "running") Object.assign(step, { state: "done", ended: at, share: null, text: "" });
      else if (step.state === "waiting") step.state = "skipped";
    }
  }

  render() {
    const many = Boolean(this.job?.order["every"]);
    return this.attempts.map(
      (attempt) => html`<div class="attempt">
        ${many ? html`<h3><a href="#/devices/${attempt.device}">${attempt.device}</a></h3>` : nothing}
        <ol class="steps" aria-label=${t("devices.steps")}>
          ${attempt.steps.map((step) => this.#step(step))}
        </ol>
      </div>`,
    );
  }

  /** @param {Step} step */
  #step(step) {
    const took = step.began && step.ended ? (Date.parse(step.ended) - Date.parse(step.began)) / 1000 : null;
    const running = step.state === "running";
    return html`<li class=${step.state} data-step=${step.name} aria-current=${running ? "step" : "false"}>
      <span class="dot" aria-hidden="true"></span>
      <span class="name">${t(`devices.step_${step.name}`)}</span>
      <span class=${step.state === "skipped" ? "muted number" : "hidden"}>${t(`devices.step_is_${step.state}`)}</span>
      ${step.state === "skipped"
        ? nothing
        : html`<span class="muted number">
            ${running && step.share !== null ? percent(step.share) : took !== null ? duration(took) : ""}
          </span>`}
      ${step.text && step.state !== "done"
        ? html`<span class="text muted" aria-live=${running ? "polite" : "off"}>${step.text}</span>`
        : nothing}
    </li>`;
  }
}
customElements.define("mww-flash-steps", FlashSteps);
