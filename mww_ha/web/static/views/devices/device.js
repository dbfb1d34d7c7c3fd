/** One satellite: what it says, capturing, flash with its steps, the way back, a trial, its history. */
import { html, nothing } from "../../vendor/lit.js";
import { Problem, get, post, put, query, remove } from "../../lib/api.js";
import { ago, duration, moment, number, t } from "../../lib/i18n.js";
import { ENDED, Loaded, View, attempt, confirm, empty, go, note, showProblem, start, watchJobs } from "../../lib/ui.js";
import "./form.js";
import { STEPS, stepOf } from "./steps.js";

/** @typedef {import("../../lib/api.js").Schemas} Schemas */
/** @typedef {{id: string, offered?: boolean, deleted?: unknown[], comparison?: {reason?: string}}} Model */

/** Kinds of jobs that go to a satellite. */
export const FLASHES = ["flash", "rollback", "canary", "confirm"];
const HOURS = [1, 8, 24, 72, 168, 336];

/**
 * What a satellite says when it is asked.
 * @param {View} host @param {() => string} name
 * @returns {Loaded<Schemas["LiveDevice"]>}
 */
export const readLive = (host, name) =>
  new Loaded(host, (signal) => /** @type {Promise<Schemas["LiveDevice"]>} */ (get(`api/devices/${name()}/live`, signal)));

/** @param {Schemas["DeviceState"]} state @returns {string} the model it runs, as far as is known */
export const sayModel = ({ verified }) => verified?.model || t("devices.no_model");

/** @param {Model | undefined} model @returns {boolean} whether nobody should flash it by accident */
const isDoubtful = (model) => model?.offered === false || Boolean(model?.deleted?.length);

class DevicePage extends View {
  static properties = {
    name: { attribute: false }, editing: { type: Boolean }, chosen: { state: true }, sure: { state: true },
    dry: { state: true }, busy: { state: true }, trial: { state: true },
  };

  constructor() {
    super();
    this.name = "";
    this.editing = false;
    this.chosen = "";
    this.trial = "";
    this.sure = false;
    this.dry = false;
    this.busy = false;
    this.shown = "";
    this.devices = new Loaded(
      this, (signal) => /** @type {Promise<Schemas["DeviceState"][]>} */ (get("api/devices", signal)),
    );
    this.flashes = new Loaded(
      this, (signal) => /** @type {Promise<Schemas["Flash"][]>} */ (
        get(`api/flashes${query({ device: this.name, limit: 50 })}`, signal)
      ),
    );
    this.options = new Loaded(
      this, (signal) => /** @type {Promise<Schemas["DeviceOptions"]>} */ (get("api/devices/options", signal)),
    );
    this.models = new Loaded(this, (signal) => /** @type {Promise<Model[]>} */ (get("api/models", signal)));
    this.counts = new Loaded(
      this, (signal) => /** @type {Promise<Schemas["CaptureCount"][]>} */ (get("api/review/counts", signal)),
    );
    this.live = readLive(this, () => this.name);
    this.jobs = watchJobs(this, FLASHES);
  }

  connectedCallback() {
    super.connectedCallback();
    this.hear(["devices"], () => this.devices.soon(50));
    this.hear(["capture", "judged", "deleted", "expired"], () => this.counts.soon(1000));
    this.hear(["job"], (job) => {
      if (job && (!ENDED.includes(job.state) || !this.#isMine(job))) {
        if (job.kind === "export" || job.kind === "retrain" || job.kind === "run") this.models.soon();
        return;
      }
      for (const one of [this.devices, this.flashes, this.options, this.live]) one.soon();
    });
  }

  /** A link from elsewhere names the model: `?model=ID` to flash, `?canary=ID` to try. @param {Map<string, unknown>} changed */
  willUpdate(changed) {
    if (!changed.has("params")) return;
    this.chosen = this.params["model"] ?? this.chosen;
    this.trial = this.params["canary"] ?? this.trial;
  }

  /** @param {Map<string, unknown>} _changed */
  updated(_changed) {
    const wanted = this.params["model"] ? "flash" : this.params["canary"] ? "canary" : "";
    const heading = wanted && wanted !== this.shown && this.models.value ? this.querySelector(`#${wanted}`) : null;
    if (!heading) return;
    this.shown = wanted; // once: whoever scrolls away stays there
    heading.scrollIntoView({ block: "center" });
  }

  /** @param {Schemas["Job"]} job */
  #isMine(job) {
    return FLASHES.includes(job.kind) && (job.order["device"] === this.name || Boolean(job.order["every"]));
  }

  render() {
    return this.devices.show((devices) => {
      const state = devices.find((one) => one.device.name === this.name);
      if (!state) {
        return empty(
          t("devices.unknown", { name: this.name }), t("devices.unknown_text"),
          html`<a class="button" href="#/devices">${t("devices.all")}</a>`,
        );
      }
      if (this.editing) return html`<mww-device-form .device=${state.device}></mww-device-form>`;
      return html`
        <div class="row between devices-head">
          <a href="#/devices">‹ ${t("devices.all")}</a>
          <span class="row">
            <a class="button" href="#/devices/${this.name}/edit">${t("devices.edit")}</a>
            <button type="button" class="danger" @click=${() => this.#remove(state.device)}>
              ${t("devices.remove")}
            </button>
          </span>
        </div>
        <div class="stack">
          ${this.#job(state)}
          <div class="split">${this.#about(state)} ${this.#capture(state)}</div>
          <div class="split">
            ${this.#flash(state)}
            <div class="stack">${this.#canary(state)} ${this.#back(state)}</div>
          </div>
          ${this.#history()}
        </div>
      `;
    });
  }

  // --- what it says --------------------------------------------------------------------------------------------------

  /** @param {Schemas["DeviceState"]} state */
  #about(state) {
    const { device, verified } = state;
    const live = this.live.value;
    const board = this.options.value?.boards.find((one) => one.id === device.template);
    const other = live?.reachable && live.told_name !== device.name ? live.told_name : "";
    const expected = verified?.wake_model ?? "";
    return html`<section class="card" aria-labelledby="about">
      <header>
        <h2 id="about">${device.friendly_name || device.name}</h2>
        ${state.room ? html`<span class="muted">${state.room}</span>` : nothing}
        <span aria-live="polite">
          ${this.live.loading && !live
            ? html`<span class="tag">${t("devices.asking")}</span>`
            : live?.reachable
              ? html`<span class="tag good">${t("devices.reachable")}</span>`
              : html`<span class="tag bad">${t("devices.not_reachable")}</span>`}
        </span>
      </header>
      ${live && !live.reachable ? showProblem(new Problem(live.message, { hint: live.hint })) : nothing}
      ${!live && this.live.problem ? showProblem(this.live.problem) : nothing}
      ${other ? html`<p class="warning">${t("devices.other_name", { name: other })}</p>` : nothing}
      ${live?.wake_model && expected && live.wake_model !== expected
        ? html`<p class="warning">${t("devices.other_model", { says: live.wake_model, expected })}</p>`
        : nothing}
      <dl class="facts">
        <dt>${t("devices.runs")}</dt>
        <dd class="mono">${live?.wake_model || "–"}</dd>
        <dt>${t("devices.model")}</dt>
        <dd>${verified
          ? html`<a class="mono" href="#/models/${verified.model}">${verified.model}</a>`
          : sayModel(state)}</dd>
        <dt>${t("devices.slot")}</dt>
        <dd>${verified?.canary
          ? html`${t("devices.slot_canary")} <span class="mono">${verified.canary}</span>`
          : device.near_miss ? t("devices.slot_near_miss") : t("devices.slot_empty")}</dd>
        <dt>ESPHome</dt>
        <dd>${live?.esphome_version || verified?.esphome_version || "–"}</dd>
        ${live?.build_time ? html`<dt>${t("devices.build")}</dt><dd>${live.build_time}</dd>` : nothing}
        <dt>${t("devices.board")}</dt>
        <dd>${board?.title ?? device.template}${live?.board ? html` <small>${live.board}</small>` : nothing}</dd>
        <dt>${t("devices.name")}</dt>
        <dd>${device.name}</dd>
        <dt>${t("devices.address")}</dt>
        <dd class="mono">${live?.address || device.address || `${device.name}.local`}</dd>
        ${live?.mac ? html`<dt>MAC</dt><dd class="mono">${live.mac}</dd>` : nothing}
        <dt>${t("devices.backend")}</dt>
        <dd>${t(`devices.backend_${device.backend}`)}${device.serial ? html` · <span class="mono">${device.serial}</span>` : nothing}</dd>
      </dl>
      <p class="row foot">
        <button type="button" ?disabled=${this.live.loading} @click=${() => this.live.load()}>
          ${this.live.loading ? t("devices.asking") : t("devices.ask_again")}
        </button>
        ${live ? html`<small>${t("devices.asked", { when: ago(live.asked_at) })}</small>` : nothing}
      </p>
    </section>`;
  }

  // --- capturing -----------------------------------------------------------------------------------------------------

  /** @param {Schemas["DeviceState"]} state */
  #capture({ device, waiting }) {
    const live = this.live.value;
    const capture = live?.capture;
    return html`<section class="card" aria-labelledby="capture">
      <header>
        <h2 id="capture">${t("devices.capture")}</h2>
        ${capture
          ? html`<span class="tag ${capture.on ? "warn" : ""}">${capture.on ? t("devices.on") : t("devices.off")}</span>`
          : nothing}
      </header>
      ${capture
        ? this.#captureSwitch(capture)
        : html`<p class="muted">
            ${!device.capture_url
              ? t("devices.capture_no_url")
              : live?.reachable ? t("devices.capture_not_yet") : t("devices.capture_unknown")}
          </p>
          ${device.capture_url
            ? nothing
            : html`<p><a href="#/devices/${device.name}/edit">${t("devices.capture_set")}</a></p>`}`}
      ${waiting
        ? html`<p><a href="#/review?device=${device.name}">${t("devices.to_review", { count: waiting })}</a></p>`
        : nothing}
      <p><small>${t("devices.capture_privacy")}</small></p>
    </section>`;
  }

  /** @param {Schemas["LiveCapture"]} capture */
  #captureSwitch(capture) {
    const left = capture.hours_left;
    const until = left === null ? "" : moment(new Date(Date.now() + left * 3600_000).toISOString());
    const hours = [...new Set([...HOURS, capture.hours ?? 24])].sort((one, other) => one - other);
    return html`
      ${capture.on
        ? html`<p aria-live="polite">
            ${left === null ? t("devices.capture_on") : t("devices.capture_until", { when: until, left: duration(left * 3600) })}
          </p>
          <button type="button" ?disabled=${this.busy} @click=${() => this.#switch(false)}>${t("devices.switch_off")}</button>`
        : html`<form class="row" @submit=${this.#switchOn}>
            <label class="row">
              ${t("devices.for")}
              <span><select name="hours">
                ${hours.map((one) => html`<option value=${one} .selected=${one === (capture.hours ?? 24)}>
                  ${one < 48 ? t("devices.hours", { count: one }) : t("devices.days", { count: one / 24 })}
                </option>`)}
              </select></span>
            </label>
            <button class="primary" ?disabled=${this.busy}>${t("devices.switch_on")}</button>
          </form>`}
      <div class="counts">
        ${this.#count("detections", capture.detections)}
        ${this.#count("near_misses", capture.near_misses)}
        ${this.#count("listening_hours", capture.listening_hours, 1)}
        ${this.#count("queue", capture.queue)}
        ${this.#count("dropped", capture.dropped)}
      </div>
      <dl class="facts">
        <dt>${t("devices.capture_state")}</dt><dd>${capture.state || "–"}</dd>
        <dt>${t("devices.last_upload")}</dt><dd>${capture.last_upload || "–"}</dd>
      </dl>
    `;
  }

  /** @param {string} name @param {number | null} value */
  #count(name, value, digits = 0) {
    return html`<div><div class="figure">${value === null ? "–" : number(value, digits)}</div>
      <small>${t(`devices.count_${name}`)}</small></div>`;
  }

  /** @param {SubmitEvent} event */
  #switchOn(event) {
    event.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
    void this.#switch(true, Number(form.get("hours")));
  }

  /** @param {boolean} on */
  async #switch(on, hours = 24) {
    this.busy = true;
    const live = await attempt(() => put(`api/devices/${this.name}/capture`, { on, hours }));
    if (live) this.live.value = /** @type {Schemas["LiveDevice"]} */ (live);
    this.busy = false;
  }

  // --- flash ---------------------------------------------------------------------------------------------------------

  /** What goes on, or how the last one ended. @param {Schemas["DeviceState"]} state */
  #job({ newest }) {
    const job = (this.jobs.value ?? []).find((one) => this.#isMine(one));
    const handed = newest?.outcome === "handed over";
    const unsure = newest && ["failed", "stopped"].includes(newest.outcome) && stepOf(newest.step) === "verify";
    if (!job && !handed && !unsure) return nothing;
    const running = job && !ENDED.includes(job.state);
    return html`<section class="card" aria-label=${t("devices.last_job")}>
      ${job
        ? html`<mww-flash-steps .job=${job}></mww-flash-steps>
            ${job.state === "done" ? this.#outcome(/** @type {Schemas["Flash"] | Schemas["Flash"][] | null} */ (job.result)) : nothing}
            <mww-job .job=${job}></mww-job>`
        : nothing}
      ${!running && (handed || unsure)
        ? html`<div class="warning">
            <p><strong>${handed ? t("devices.handed_over") : t("devices.unsure")}</strong></p>
            ${handed ? html`<p>${newest?.message}</p>` : nothing}
            <button type="button" class="primary" @click=${() => this.#start({ kind: "confirm", device: this.name })}>
              ${t("devices.confirm")}
            </button>
          </div>`
        : nothing}
    </section>`;
  }

  /** @param {Schemas["Flash"] | Schemas["Flash"][] | null} result */
  #outcome(result) {
    const flash = [result].flat().find((one) => one?.device === this.name);
    if (!flash) return nothing;
    if (flash.outcome === "verified") {
      return html`<p class="good" role="status">
        <strong>${t("devices.verified", { model: flash.model })}</strong>
        ${flash.message ? html`<br />${flash.message}` : nothing}
      </p>`;
    }
    return flash.outcome === "planned" ? html`<p role="status">${flash.message}</p>` : nothing;
  }

  /** @param {Schemas["DeviceState"]} state */
  #flash(state) {
    const { device, verified } = state;
    return html`<section class="card" aria-labelledby="flash">
      <h2 id="flash">${t("devices.flash")}</h2>
      ${this.options.value ? html`<mww-secrets .secrets=${this.options.value.secrets} @filled=${() => this.options.load()}></mww-secrets>` : nothing}
      ${this.#way(device)}
      ${this.models.show((models) => {
        if (!models.length) return empty(t("devices.no_models"), t("devices.no_models_text"));
        const sorted = [...models].sort((one, other) => Number(isDoubtful(one)) - Number(isDoubtful(other)));
        const chosen = sorted.find((one) => one.id === (this.chosen || this.params["model"])) ?? sorted[0];
        const doubtful = isDoubtful(chosen);
        return html`<form @submit=${(/** @type {SubmitEvent} */ event) => this.#send(event, chosen?.id ?? "")}>
          <label>
            ${t("devices.model")}
            <select name="model" @change=${(/** @type {any} */ event) => {
              this.chosen = event.target.value;
              this.sure = false;
            }}>
              ${sorted.map((one) => html`<option value=${one.id} .selected=${one.id === chosen?.id}>
                ${one.id}${one.id === verified?.model ? ` · ${t("devices.runs_now")}` : ""}${one.offered === false
                  ? ` · ${t("devices.worse")}`
                  : one.deleted?.length ? ` · ${t("devices.marked")}` : ""}
              </option>`)}
            </select>
          </label>
          ${doubtful
            ? html`<div class="warning">
                <p>${chosen?.offered === false
                  ? chosen.comparison?.reason || t("devices.worse_text")
                  : t("devices.marked_text")}</p>
                <label class="choice">
                  <input type="checkbox" name="sure" .checked=${this.sure}
                    @change=${(/** @type {any} */ event) => (this.sure = event.target.checked)} />
                  <span>${t("devices.all_the_same")}</span>
                </label>
              </div>`
            : nothing}
          <label>
            ${t("devices.by")}
            <select name="serial">
              <option value="as">${device.serial ? t("devices.by_cable", { port: device.serial }) : t("devices.over_the_air")}</option>
              ${device.serial ? html`<option value="">${t("devices.over_the_air")}</option>` : nothing}
              ${(this.options.value?.serial_ports ?? []).filter((port) => port.path !== device.serial).map(
                (port) => html`<option value=${port.path}>
                  ${t("devices.by_cable", { port: port.path })} ${port.title}
                </option>`,
              )}
            </select>
            <small>${t("devices.by_hint")}</small>
          </label>
          <label class="choice">
            <input type="checkbox" name="dry" .checked=${this.dry}
              @change=${(/** @type {any} */ event) => (this.dry = event.target.checked)} />
            <span>${t("devices.dry_run")}<small>${t("devices.dry_run_hint")}</small></span>
          </label>
          <details>
            <summary>${t("devices.force_title")}</summary>
            <label class="choice">
              <input type="checkbox" name="force" />
              <span>${t("devices.force")}<small>${t("devices.force_hint")}</small></span>
            </label>
          </details>
          <div class="row">
            <button class="primary" ?disabled=${this.#isBusy() || (doubtful && !this.sure)}>
              ${this.dry ? t("devices.check") : t("devices.flash_it")}
            </button>
          </div>
        </form>`;
      })}
    </section>`;
  }

  /** @param {Schemas["DeviceState"]} state */
  #back({ earlier }) {
    return html`<section class="card" aria-labelledby="back">
      <h2 id="back">${t("devices.back")}</h2>
      <p class="muted">${earlier ? t("devices.back_text", { model: earlier }) : t("devices.back_none")}</p>
      <button type="button" ?disabled=${!earlier || this.#isBusy()} @click=${() => this.#rollback(earlier)}>
        ${t("devices.rollback")}
      </button>
    </section>`;
  }

  /** @param {Schemas["Device"]} device */
  #way(device) {
    const way = this.options.value?.backends.find((one) => one.name === device.backend);
    return way && !way.ready
      ? html`<div class="warning"><p><strong>${way.message}</strong></p><p>${way.hint}</p></div>`
      : nothing;
  }

  #isBusy() {
    return this.busy || (this.jobs.value ?? []).some((job) => this.#isMine(job) && !ENDED.includes(job.state));
  }

  /** @param {SubmitEvent} event @param {string} model */
  #send(event, model) {
    event.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
    const serial = String(form.get("serial") ?? "as");
    void this.#start({
      kind: "flash", device: this.name, model, dry_run: form.has("dry"), force: form.has("force"),
      all_the_same: form.has("sure"), ...(serial === "as" ? {} : { serial }),
    });
  }

  /** @param {Record<string, unknown>} order */
  async #start(order) {
    this.busy = true;
    const job = await start(order);
    if (job) {
      this.jobs.value = [job, ...(this.jobs.value ?? []).filter((one) => one.id !== job.id)];
      await this.updateComplete;
      /** @type {HTMLElement | null} */ (this.querySelector("mww-flash-steps"))?.scrollIntoView({ block: "nearest" });
    }
    this.busy = false;
  }

  /** @param {string} model */
  async #rollback(model) {
    const sure = await confirm({
      title: t("devices.rollback_title", { name: this.name }), text: t("devices.rollback_text", { model }),
      yes: t("devices.rollback"),
    });
    if (sure) await this.#start({ kind: "rollback", device: this.name });
  }

  // --- the next model on trial ---------------------------------------------------------------------------------------

  /** @param {Schemas["DeviceState"]} state */
  #canary(state) {
    const { device, verified } = state;
    return html`<section class="card" aria-labelledby="canary">
      <h2 id="canary">${t("devices.canary")}</h2>
      <p class="muted">${t("devices.canary_text")}</p>
      ${verified?.canary ? this.#onTrial(verified) : this.#chooseTrial(device, verified)}
    </section>`;
  }

  /** @param {Schemas["Flash"]} verified */
  #onTrial(verified) {
    const heard = (this.counts.value ?? []).filter((one) => one.device === this.name && one.kind === "canary");
    const captured = heard.reduce((sum, one) => sum + one.captures, 0);
    const right = heard.filter((one) => one.verdict === "wake" || one.verdict === "missed_wake");
    const wrong = heard.filter((one) => one.verdict === "false_accept");
    const sum = (/** @type {typeof heard} */ some) => some.reduce((total, one) => total + one.captures, 0);
    const kept = (this.models.value ?? []).some((one) => one.id === verified.canary);
    return html`
      <p><strong>${t("devices.on_trial")}:</strong> <a class="mono" href="#/models/${verified.canary}">${verified.canary}</a></p>
      <div class="counts">
        ${this.#count("canary", this.live.value?.capture?.canary_detections ?? null)}
        ${this.#count("canary_captures", captured)}
        ${this.#count("canary_right", sum(right))}
        ${this.#count("canary_wrong", sum(wrong))}
      </div>
      <p>${t("devices.canary_ends")}</p>
      <div class="row">
        <button type="button" class="primary" ?disabled=${!kept || this.#isBusy()} @click=${() => this.#take(verified.canary, true)}>
          ${t("devices.canary_take")}
        </button>
        <button type="button" ?disabled=${this.#isBusy()} @click=${() => this.#take(verified.model, false)}>
          ${t("devices.canary_end")}
        </button>
      </div>
    `;
  }

  /** @param {string} model @param {boolean} next */
  async #take(model, next) {
    const sure = await confirm({
      title: next ? t("devices.canary_take") : t("devices.canary_end"),
      text: t("devices.flash_text", { model, name: this.name }), yes: t("devices.flash_it"),
    });
    // somebody has just read which one it is
    if (sure) await this.#start({ kind: "flash", device: this.name, model, all_the_same: true });
  }

  /** @param {Schemas["Device"]} device @param {Schemas["Flash"] | null} verified */
  #chooseTrial(device, verified) {
    const board = this.options.value?.boards.find((one) => one.id === device.template);
    if (!device.capture_url) return html`<p>${t("devices.canary_no_url")}</p>`;
    if (board && !board.has_slot) return html`<p>${t("devices.canary_no_slot", { board: board.title })}</p>`;
    if (!verified) return html`<p>${t("devices.canary_first")}</p>`;
    return this.models.show((models) => {
      const others = models.filter((one) => one.id !== verified.model);
      if (!others.length) return html`<p>${t("devices.canary_none")}</p>`;
      const chosen = others.find((one) => one.id === (this.trial || this.params["canary"])) ?? others[0];
      return html`<form @submit=${(/** @type {SubmitEvent} */ event) => {
        event.preventDefault();
        void this.#start({ kind: "canary", device: this.name, model: chosen?.id });
      }}>
        <label>
          ${t("devices.canary_model")}
          <select name="trial" @change=${(/** @type {any} */ event) => (this.trial = event.target.value)}>
            ${others.map((one) => html`<option value=${one.id} .selected=${one.id === chosen?.id}>
              ${one.id}${one.offered === false ? ` · ${t("devices.worse")}` : ""}
            </option>`)}
          </select>
        </label>
        ${device.near_miss ? html`<p><small>${t("devices.canary_near_miss")}</small></p>` : nothing}
        <button ?disabled=${this.#isBusy()}>${t("devices.canary_start")}</button>
      </form>`;
    });
  }

  // --- history, and the end ------------------------------------------------------------------------------------------

  #history() {
    return html`<section class="card" aria-labelledby="history">
      <h2 id="history">${t("devices.history")}</h2>
      ${this.flashes.show((flashes) => flashes.length
        ? html`<div class="wide" tabindex="0" role="region" aria-labelledby="history"><table>
            <thead><tr>
              <th>${t("devices.when")}</th><th>${t("devices.model")}</th><th>${t("devices.outcome")}</th>
              <th class="number">${t("devices.took")}</th><th>${t("devices.said")}</th>
            </tr></thead>
            <tbody>${flashes.map((one) => this.#row(one))}</tbody>
          </table></div>`
        : empty(t("devices.history_none"), t("devices.history_none_text")))}
    </section>`;
  }

  /** @param {Schemas["Flash"]} flash */
  #row(flash) {
    const known = STEPS.some((one) => one === stepOf(flash.step));
    const bad = flash.outcome === "failed" || flash.outcome === "stopped";
    const tone = flash.outcome === "verified" ? "good" : bad ? "bad" : "warn";
    return html`<tr>
      <td class="when">${moment(flash.started_at)}</td>
      <td class="mono">${flash.model || "–"}${flash.canary
        ? html`<br /><small>${t("devices.slot_canary")} ${flash.canary}</small>`
        : nothing}</td>
      <td>
        <span class="tag ${tone}">${t(`devices.outcome_${flash.outcome.replaceAll(" ", "_")}`)}</span>
        ${bad && known ? html`<br /><small>${t(`devices.step_${stepOf(flash.step)}`)}</small>` : nothing}
      </td>
      <td class="number">${flash.duration_s ? duration(flash.duration_s) : "–"}</td>
      <td class="said">${flash.message.length > 90
        ? html`<details><summary>${flash.message.split("\n")[0]?.slice(0, 80)} …</summary>
            <p>${flash.message}</p></details>`
        : flash.message}</td>
    </tr>`;
  }

  /** @param {Schemas["Device"]} device */
  async #remove(device) {
    const sure = await confirm({
      title: t("devices.remove_title", { name: device.name }), text: t("devices.remove_text"),
      yes: t("devices.remove"), danger: true,
    });
    if (!sure) return;
    const was = await attempt(() => remove(`api/devices/${device.name}`));
    if (!was) return;
    this.dispatchEvent(new CustomEvent("removed"));
    go("#/devices");
    note(t("devices.removed", { name: device.name }), { undo: () => this.#putBack(/** @type {any} */ (was)) });
  }

  /** @param {Schemas["Device"]} device */
  async #putBack({ name, substitutions, ...entry }) {
    const given = Object.entries(substitutions).map(([key, value]) => ({ name: key, value }));
    await attempt(() => post("api/devices", { name, entry: { ...entry, substitutions: given } }));
  }
}
customElements.define("mww-device", DevicePage);
