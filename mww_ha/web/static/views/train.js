/** Learning: what it will use and cost, how it goes while it runs, and how trainings and retrainings came out. */
import { html, nothing } from "../vendor/lit.js";
import { get, put } from "../lib/api.js";
import { duration, interval, moment, number, percent, size, t } from "../lib/i18n.js";
import {
  labelName, originName, outcomeClass, outcomeName, proposalCard, trainingCharts, weightsName, measured,
} from "../lib/training.js";
import { ENDED, Loaded, View, attempt, confirm, empty, go, note, start, watchJobs } from "../lib/ui.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */
/** @typedef {Schemas["Job"]} Job */

const KINDS = ["run", "synthesize", "prepare", "train", "evaluate", "export", "retrain", "install_training"];
const SIDES = /** @type {const} */ (["train", "validation", "test", ""]);
const LOOK_EVERY_MS = 1000;

class Train extends View {
  static properties = { chosen: { state: true } };

  constructor() {
    super();
    /** @type {string[]} trainings to compare */
    this.chosen = [];
    this.jobs = watchJobs(this, KINDS);
    this.stages = new Loaded(this, (signal) => /** @type {Promise<Schemas["StageState"][]>} */ (get("api/stages", signal)));
    this.data = new Loaded(this, (signal) => /** @type {Promise<Schemas["DataOverview"]>} */ (get("api/data", signal)));
    this.training = new Loaded(this, (signal) => /** @type {Promise<Schemas["TrainingState"]>} */ (get("api/training", signal)));
    this.efforts = new Loaded(this, (signal) => /** @type {Promise<Schemas["EffortView"][]>} */ (get("api/efforts", signal)));
    this.journal = new Loaded(this, (signal) => /** @type {Promise<Schemas["RunEntry"][]>} */ (get("api/journal", signal)));
    this.retrainings = new Loaded(
      this, (signal) => /** @type {Promise<Schemas["ProposalView"][]>} */ (get("api/retrainings", signal)),
    );
    this.curve = new Loaded(this, (signal) => this.#readCurve(signal));
    this.comparison = new Loaded(this, (signal) => this.#readComparison(signal));
  }

  connectedCallback() {
    super.connectedCallback();
    const timer = setInterval(() => this.#look(), LOOK_EVERY_MS);
    this.ends.push(() => clearInterval(timer));
    this.hear(["job"], (job) => {
      if (!job || (KINDS.includes(job.kind) && ENDED.includes(job.state))) this.#readAll();
    });
    this.hear(["judged", "deleted"], () => this.data.soon());
    this.hear(["settings"], () => {
      this.efforts.soon();
      this.stages.soon();
    });
  }

  /** @param {Map<string, unknown>} changed */
  willUpdate(changed) {
    if (!this.hasUpdated || !(changed.has("path") || changed.has("params"))) return;
    void this.curve.load();
    void this.comparison.load();
  }

  #readAll() {
    for (const one of [this.training, this.stages, this.data, this.efforts, this.journal, this.retrainings, this.curve]) one.soon();
  }

  /** @returns {Job | undefined} what works on the stages now */
  get #running() {
    return this.jobs.value?.find((job) => job.state === "running");
  }

  get #busy() {
    return this.jobs.value?.find((job) => !ENDED.includes(job.state));
  }

  /** While something runs its curve grows. */
  #look() {
    if (!this.#running || document.hidden) return;
    if (!this.journal.loading) void this.journal.load();
    if (!this.curve.loading) void this.curve.load();
  }

  /** @param {AbortSignal} signal @returns {Promise<Schemas["RunCurve"] | null>} of the run in the address, or the newest */
  async #readCurve(signal) {
    const id = this.path[0] ?? /** @type {Schemas["RunEntry"][]} */ (await get("api/journal", signal))[0]?.id;
    return id ? await get(`api/runs/${id}/curve`, signal) : null;
  }

  /** @param {AbortSignal} signal @returns {Promise<Schemas["RunComparison"] | null>} */
  async #readComparison(signal) {
    const { a, b } = this.params;
    return a && b ? await get(`api/runs/${encodeURIComponent(a)}/compare/${encodeURIComponent(b)}`, signal) : null;
  }

  render() {
    if (this.path[0]) return this.#runPage();
    if (this.params["a"] && this.params["b"]) return this.#comparePage();
    return html`<div class="stack">
      ${this.#install()} ${this.#jobCards()} ${this.#newest()}
      <div class="split train-split">${this.#makeCard()} ${this.#retrainCard()}</div>
      ${this.#dataCard()} ${this.#journalCard()} ${this.#retrainingsCard()}
    </div>`;
  }

  // --- now ---------------------------------------------------------------------------------------------------------

  #install() {
    const state = this.training.value;
    if (!state || state.state === "built_in" || state.state === "installed") return nothing;
    const impossible = state.state === "impossible";
    const installing = this.jobs.value?.some((job) => job.kind === "install_training" && !ENDED.includes(job.state));
    return html`<section class="card" id="install">
      <header><h2>${t(state.state === "outdated" ? "train.renew" : "train.install")}</h2></header>
      <p>
        ${impossible
          ? t("train.install_impossible")
          : t("train.install_text", {
              download: size((state.download_mb ?? 0) * 1e6), disk: size((state.needed_disk_mb ?? 0) * 1e6),
              free: size((state.free_disk_mb ?? 0) * 1e6),
            })}
      </p>
      ${state.obstacle ? html`<p class="warning">${state.obstacle}</p>` : nothing}
      ${impossible
        ? html`<p><code>pip install '.[train,tts]'</code></p>`
        : html`<div class="row end">
            <button
              class="primary"
              type="button"
              ?disabled=${Boolean(state.obstacle) || installing}
              @click=${() => start({ kind: "install_training" })}
            >
              ${t("train.install_now")}
            </button>
          </div>`}
    </section>`;
  }

  #jobCards() {
    const jobs = this.jobs.value ?? [];
    const open = jobs.filter((job) => !ENDED.includes(job.state));
    const last = jobs.find((job) => ENDED.includes(job.state));
    const shown = open.length || !last ? open : [last];
    if (!shown.length) return nothing;
    return html`<section aria-label=${t("train.now")} class="stack">
      ${shown.map((job) => html`<mww-job .job=${job}></mww-job>`)}
    </section>`;
  }

  #newest() {
    const curve = this.curve.value;
    if (!curve) return nothing;
    return html`<section class="card" id="curve">
      <header>
        <h2>${t(this.#isLive(curve.run) ? "train.live" : "train.newest")}</h2>
        <a href="#/train/${curve.run.id}">${curve.run.id}</a>
        ${this.#outcome(curve.run)}
      </header>
      ${this.#curves(curve)}
    </section>`;
  }

  /** @param {Schemas["RunEntry"]} run */
  #isLive(run) {
    return run.outcome === "running" && Boolean(this.#running);
  }

  /** @param {Schemas["RunEntry"]} run a run whose process was killed says that it runs; its job knows better */
  #outcome(run) {
    const outcome = run.outcome === "running" && !this.#running ? "broken_off" : run.outcome;
    return html`<span class="tag ${outcomeClass(outcome)}">${outcomeName(outcome)}</span>`;
  }

  /** @param {Schemas["RunCurve"]} curve */
  #curves(curve) {
    if (!curve.series.length) {
      return html`<p class="muted" role="status">${t(this.#isLive(curve.run) ? "train.no_points_yet" : "train.no_points")}</p>`;
    }
    return html`<p class="muted">${t("train.step_of", { step: curve.step, steps: curve.run.steps })}</p>
      <div class="plots">${trainingCharts(curve.series, curve.run.steps)}</div>`;
  }

  // --- start -------------------------------------------------------------------------------------------------------

  #makeCard() {
    const busy = this.#busy;
    return html`<section class="card">
      <header><h2>${t("train.make")}</h2></header>
      ${this.efforts.show((efforts) => this.#effortDial(efforts))}
      ${this.stages.show(
        (stages) => html`<h3 class="spaced">${t("train.stages")}</h3>
          <ol class="stages">
            ${stages.map((stage) => this.#stageRow(stage, Boolean(busy)))}
          </ol>
          <div class="row end">
            <button class="primary" type="button" ?disabled=${Boolean(busy)} @click=${() => start({ kind: "run" })}>
              ${t(stages.every((stage) => stage.state === "never") ? "train.start" : "train.start_due")}
            </button>
          </div>
          ${busy ? html`<p class="muted">${t("train.busy")}</p>` : nothing}`,
      )}
    </section>`;
  }

  /** @param {Schemas["StageState"]} stage @param {boolean} busy */
  #stageRow(stage, busy) {
    const state = { "current": "good", "out of date": "warn", "never": "", "unknown": "bad" }[stage.state];
    return html`<li>
      <span class="grow"
        >${t(`job.${stage.stage}`)} <small class="muted">${t(`train.stage_${stage.stage}`)}</small>
        ${stage.message ? html`<small class="bad">${stage.message}</small>` : nothing}</span
      >
      <span class="tag ${state}">${t(`train.state_${stage.state.replaceAll(" ", "_")}`)}</span>
      <button
        type="button"
        class="plain"
        ?disabled=${busy}
        aria-label=${t("train.run_stage", { stage: t(`job.${stage.stage}`) })}
        @click=${() => start({ kind: stage.stage })}
      >
        ${t("train.run_one")}
      </button>
    </li>`;
  }

  /** @param {Schemas["EffortView"][]} efforts */
  #effortDial(efforts) {
    const chosen = efforts.find((one) => one.chosen);
    return html`<fieldset class="dial">
        <legend>${t("train.effort")}</legend>
        ${efforts.map(
          (one) => html`<label class="choice">
            <input
              type="radio"
              name="effort"
              value=${one.effort}
              .checked=${one.chosen}
              @change=${() => this.#setEffort(one.effort, chosen?.effort)}
            />
            <span>${t(`effort.${one.effort}`)}<small>${t(`effort.${one.effort}_text`)}</small></span>
          </label>`,
        )}
      </fieldset>
      ${chosen ? this.#effortFacts(chosen) : nothing}`;
  }

  /** @param {Schemas["EffortView"]} one */
  #effortFacts(one) {
    return html`<dl class="facts effort-facts" aria-live="polite">
      <dt>${t("train.costs")}</dt>
      <dd>
        ${t("train.costs_text", {
          clips: one.wake_clips, speech: one.speech_hours, hours: one.rendered_hours, steps: one.steps,
        })}
        ${one.last_training_s === null
          ? nothing
          : html`<small class="muted">${t("train.took", { time: duration(one.last_training_s) })}</small>`}
      </dd>
      <dt>${t("train.gives")}</dt>
      <dd>
        ${one.least_per_hour === null
          ? t("train.gives_nothing")
          : t("train.gives_text", { hours: one.held_out_hours, least: number(one.least_per_hour, one.least_per_hour < 10 ? 2 : 0) })}
      </dd>
    </dl>`;
  }

  /** @param {string} effort @param {string | undefined} before */
  async #setEffort(effort, before) {
    const done = await attempt(async () => {
      await put("api/settings", { changes: [{ key: "effort", value: effort }] });
      return true;
    });
    await Promise.all([this.efforts.load(), this.stages.load()]);
    if (done && before) {
      note(t("train.effort_set", { effort: t(`effort.${effort}`) }), { undo: () => this.#setEffort(before, undefined) });
    }
  }

  #retrainCard() {
    return html`<section class="card">
      <header><h2>${t("train.retrain")}</h2></header>
      <p>${t("train.retrain_text")}</p>
      ${this.data.show(({ captures }) => {
        const enough = Boolean(captures.due);
        return html`<p class="figure">${t("train.verdicts", { new: captures.new, needed: captures.needed })}</p>
          <progress
            max=${captures.needed}
            .value=${Math.min(captures.new, captures.needed)}
            aria-label=${t("train.verdicts", { new: captures.new, needed: captures.needed })}
          ></progress>
          <p class="muted">
            ${enough ? t("train.due", { why: captures.due }) : captures.new ? t("train.not_due") : t("train.no_verdicts")}
          </p>
          <p class="muted">
            ${t("train.captures", {
              judged: captures.judged, wrong: captures.false_accepts, clips: captures.clips,
              share: percent(captures.largest_share, 1),
            })}
          </p>
          <div class="row end">
            <a class="button" href="#/review">${t("train.to_review")}</a>
            <button
              type="button"
              class=${enough ? "primary" : ""}
              ?disabled=${Boolean(this.#busy)}
              @click=${() => this.#retrain(enough)}
            >
              ${t(enough ? "train.retrain_now" : "train.retrain_all_the_same")}
            </button>
          </div>`;
      })}
    </section>`;
  }

  /** @param {boolean} enough */
  async #retrain(enough) {
    if (!enough) {
      const sure = await confirm({
        title: t("train.retrain_sure"), text: t("train.retrain_sure_text"), yes: t("train.retrain_now"),
      });
      if (!sure) return;
    }
    await start(enough ? { kind: "retrain" } : { kind: "retrain", force: true });
  }

  // --- data --------------------------------------------------------------------------------------------------------

  #dataCard() {
    return html`<section class="card" id="data">
      <header><h2>${t("train.data")}</h2></header>
      ${this.data.show((data) =>
        data.groups.length
          ? html`${this.#lacks(data)} ${this.#dataTable(data)}`
          : html`${empty(t("train.no_data"), t("train.no_data_text"))} ${this.#lacks(data)}`,
      )}
    </section>`;
  }

  /** @param {Schemas["DataOverview"]} data */
  #lacks(data) {
    if (!data.lacks.length) return nothing;
    return html`<div class="warning">
      <strong>${t("train.lacks")}</strong>
      <ul class="notes-list">
        ${data.lacks.map(
          (lack) => html`<li>
            ${t(`train.lack_${lack}`)}
            ${lack.startsWith("no_person") ? html`<a href="#/record">${t("nav.record")}</a>` : nothing}
            ${lack === "no_captures" ? html`<a href="#/review">${t("nav.review")}</a>` : nothing}
          </li>`,
        )}
      </ul>
    </div>`;
  }

  /** @param {Schemas["DataOverview"]} data one line for a source, its sides beside each other */
  #dataTable(data) {
    /** @type {Map<string, {group: Schemas["ClipGroup"], sides: Map<string, {clips: number, seconds: number}>, voices: number}>} */
    const rows = new Map();
    for (const group of data.groups) {
      const key = JSON.stringify([group.label, group.origin, group.source]);
      const row = rows.get(key) ?? { group, sides: new Map(), voices: 0 };
      row.sides.set(group.side, { clips: group.clips, seconds: group.duration_s });
      row.voices += group.voices;
      rows.set(key, row);
    }
    const sides = SIDES.filter((side) => side || data.undecided);
    return html`${data.feature_set ? nothing : html`<p class="muted">${t("train.sides_later")}</p>`}
      <div class="wide" tabindex="0" role="group" aria-label=${t("train.data")}>
        <table class="data">
          <thead>
            <tr>
              <th scope="col">${t("train.what")}</th>
              <th scope="col">${t("train.by")}</th>
              <th scope="col">${t("train.origin")}</th>
              ${sides.map((side) => html`<th scope="col" class="number">${t(`train.side_${side || "none"}`)}</th>`)}
              <th scope="col" class="number">${t("train.sum")}</th>
            </tr>
          </thead>
          <tbody>
            ${[...rows.values()].map(({ group, sides: own, voices }) => {
              const all = [...own.values()];
              return html`<tr>
                <th scope="row">${labelName(group.label)}</th>
                <td>
                  ${group.source || t("train.nobody")}
                  ${voices > 1 ? html`<small class="muted">${t("train.voices", { count: voices })}</small>` : nothing}
                </td>
                <td>${originName(group.origin)}</td>
                ${sides.map((side) => html`<td class="number">${this.#amount(own.get(side))}</td>`)}
                <td class="number">
                  ${this.#amount({
                    clips: all.reduce((sum, one) => sum + one.clips, 0),
                    seconds: all.reduce((sum, one) => sum + one.seconds, 0),
                  })}
                </td>
              </tr>`;
            })}
          </tbody>
        </table>
      </div>`;
  }

  /** @param {{clips: number, seconds: number} | undefined} amount */
  #amount(amount) {
    if (!amount) return html`<span class="muted">–</span>`;
    return html`${number(amount.clips, 0)}<small class="muted amount">${duration(amount.seconds)}</small>`;
  }

  // --- journal -----------------------------------------------------------------------------------------------------

  #journalCard() {
    return html`<section class="card" id="journal">
      <header><h2>${t("train.journal")}</h2></header>
      ${this.journal.show((runs) => (runs.length ? this.#journalTable(runs) : empty(t("train.no_runs"), t("train.no_runs_text"))))}
    </section>`;
  }

  /** @param {Schemas["RunEntry"][]} runs */
  #journalTable(runs) {
    return html`<div class="wide" tabindex="0" role="group" aria-label=${t("train.journal")}>
        <table>
          <thead>
            <tr>
              ${runs.length > 1 ? html`<th scope="col">${t("train.pick")}</th>` : nothing}
              <th scope="col">${t("train.run")}</th>
              <th scope="col">${t("train.started")}</th>
              <th scope="col">${t("measured.outcome")}</th>
              <th scope="col">${t("train.effort")}</th>
              <th scope="col" class="number">${t("measured.steps")}</th>
              <th scope="col" class="number">${t("train.took_column")}</th>
              <th scope="col" class="number">${t("train.missed")}</th>
              <th scope="col">${t("train.model")}</th>
            </tr>
          </thead>
          <tbody>
            ${runs.map(
              (run) => html`<tr>
                ${runs.length > 1
                  ? html`<td>
                      <input
                        type="checkbox"
                        aria-label=${t("train.pick_run", { id: run.id })}
                        .checked=${this.chosen.includes(run.id)}
                        @change=${() => this.#pick(run.id)}
                      />
                    </td>`
                  : nothing}
                <td><a href="#/train/${run.id}">${run.id}</a></td>
                <td>${moment(run.started_at)}</td>
                <td>${this.#outcome(run)}</td>
                <td>${run.effort ? t(`effort.${run.effort}`) : "–"}</td>
                <td class="number">${number(run.steps, 0)}</td>
                <td class="number">${duration(run.duration_s)}</td>
                <td class="number">${run.misses === null ? "–" : percent(run.misses, 1)}</td>
                <td>${run.model ? html`<a href="#/models/${run.model}">${run.model}</a>` : "–"}</td>
              </tr>`,
            )}
          </tbody>
        </table>
      </div>
      <p class="muted">${t("train.missed_note")}</p>
      ${runs.length > 1
        ? html`<div class="row end">
            <button type="button" ?disabled=${this.chosen.length !== 2} @click=${() => this.#compare(runs)}>
              ${t("train.compare")}
            </button>
          </div>`
        : nothing}`;
  }

  /** @param {string} id the two that were picked last */
  #pick(id) {
    this.chosen = this.chosen.includes(id) ? this.chosen.filter((one) => one !== id) : [...this.chosen.slice(-1), id];
  }

  /** @param {Schemas["RunEntry"][]} runs the older one first */
  #compare(runs) {
    const [newer, older] = runs.filter((run) => this.chosen.includes(run.id)).map((run) => run.id);
    go(`#/train?a=${older}&b=${newer}`);
  }

  #comparePage() {
    return html`<p><a href="#/train">${t("train.back")}</a></p>
      ${this.comparison.show((found) =>
        found
          ? html`<section class="card">
              <header><h2>${t("train.compared")}</h2></header>
              <div class="wide" tabindex="0" role="group" aria-label=${t("train.compared")}>
                <table class="compared">
                  <thead>
                    <tr>
                      <th scope="col"></th>
                      ${[found.one, found.other].map(
                        (run) => html`<th scope="col"><a href="#/train/${run.id}">${run.id}</a></th>`,
                      )}
                    </tr>
                  </thead>
                  <tbody>
                    <tr>
                      <th scope="row">${t("train.validation_rate")}</th>
                      ${[found.one, found.other].map((run) => html`<td>${interval(run.false_accepts)}</td>`)}
                    </tr>
                    ${found.differences.map(
                      (row) => html`<tr>
                        <th scope="row"><code>${row.key}</code></th>
                        <td>${shown(row.one)}</td>
                        <td>${shown(row.other)}</td>
                      </tr>`,
                    )}
                  </tbody>
                </table>
              </div>
            </section>`
          : nothing,
      )}`;
  }

  #runPage() {
    return html`<p><a href="#/train">${t("train.back")}</a></p>
      ${this.curve.show((curve) => {
        if (!curve || curve.run.id !== this.path[0]) return html`<p class="loading" role="status">${t("app.loading")}</p>`;
        const { run } = curve;
        return html`<div class="stack">
          <section class="card">
            <header><h2>${t("train.run_title", { id: run.id })}</h2>${this.#outcome(run)}</header>
            <dl class="facts">
              <dt>${t("train.started")}</dt><dd>${moment(run.started_at)}, ${duration(run.duration_s)}</dd>
              <dt>${t("train.effort")}</dt><dd>${run.effort ? t(`effort.${run.effort}`) : "–"}</dd>
              <dt>${t("train.began_with")}</dt>
              <dd>${run.start ? html`<a href="#/train/${run.start}">${run.start}</a>` : t("train.from_the_beginning")}</dd>
              <dt>${t("train.learned_from")}</dt><dd>${number(run.learned_from_captures, 0)}</dd>
              <dt>${t("train.features")}</dt><dd><code>${run.feature_set}</code></dd>
              ${run.deleted_clips
                ? html`<dt>${t("train.deleted")}</dt><dd class="warn">${t("train.deleted_text", { count: run.deleted_clips })}</dd>`
                : nothing}
              <dt>${t("train.model")}</dt>
              <dd>${run.model ? html`<a href="#/models/${run.model}">${run.model}</a>` : t("train.no_model")}</dd>
            </dl>
          </section>
          <section class="card"><header><h2>${t("train.curves")}</h2></header>${this.#curves(curve)}</section>
          ${curve.candidates.length ? this.#candidates(curve) : nothing}
        </div>`;
      })}`;
  }

  /** @param {Schemas["RunCurve"]} curve */
  #candidates(curve) {
    const conditions = Object.keys(curve.candidates[0]?.recalls ?? {});
    return html`<section class="card">
      <header><h2>${t("train.candidates")}</h2></header>
      <p class="muted">${t("train.candidates_text")}</p>
      <div class="wide" tabindex="0" role="group" aria-label=${t("train.candidates")}>
        <table>
          <thead>
            <tr>
              <th scope="col">${t("train.weights")}</th>
              <th scope="col" class="number">${t("train.missed")}</th>
              ${conditions.map((name) => html`<th scope="col" class="number">${measured(name)}</th>`)}
              <th scope="col">${t("train.validation_rate")}</th>
            </tr>
          </thead>
          <tbody>
            ${curve.candidates.map(
              (one) => html`<tr>
                <th scope="row">
                  ${weightsName(one.name)}
                  ${one.name === curve.run.chosen ? html`<span class="tag good">${t("train.chosen")}</span>` : nothing}
                </th>
                <td class="number">${one.misses === null ? "–" : percent(one.misses, 1)}</td>
                ${conditions.map((name) => {
                  const recall = one.recalls[name];
                  return html`<td class="number">${recall === null || recall === undefined ? "–" : percent(recall, 1)}</td>`;
                })}
                <td>${interval(one.false_accepts)}</td>
              </tr>`,
            )}
          </tbody>
        </table>
      </div>
    </section>`;
  }

  #retrainingsCard() {
    const found = this.retrainings.value ?? [];
    if (!found.length) return nothing;
    return html`<section class="card" id="retrainings">
      <header><h2>${t("train.retrainings")}</h2></header>
      ${found.slice(0, 5).map(proposalCard)}
    </section>`;
  }
}
customElements.define("mww-train", Train);

/** @param {unknown} value @returns {string} a value of the journal */
function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") return number(value, 6);
  if (typeof value === "string") return value;
  return JSON.stringify(value);
}
