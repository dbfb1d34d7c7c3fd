/** Models: what each can, how sure that is, what it missed and what woke it, what it was made of, and its files. */
import { html, nothing } from "../vendor/lit.js";
import { get, query } from "../lib/api.js";
import { bars } from "../lib/charts.js";
import { ago, duration, interval, language, moment, number, percent, size, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import "../lib/play.js";
import {
  labelName, measured, originName, outcomeClass, outcomeName, proposalCard, trainingCharts,
} from "../lib/training.js";
import { Loaded, View, attempt, copy, empty, go } from "../lib/ui.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */
/** @typedef {Schemas["CurveView"]} Curve */
/** @typedef {Schemas["Interval"]} Interval */
/** @typedef {import("../lib/charts.js").Chart} Chart */

const TABS = /** @type {const} */ (["report", "sounds", "origins", "files"]);
const LEVELS = /** @type {const} */ (["low", "medium", "high"]);
const LOWEST = 1;
const HIGHEST = 254;
const FEW = 12;
const PAGE = 50;

/** @param {Curve} curve @param {number} index @returns {Interval | null} */
function recallAt(curve, index) {
  if (!curve.trials) return null;
  return {
    value: Number(curve.hits[index]) / curve.trials, low: Number(curve.recall_low[index]),
    high: Number(curve.recall_high[index]), events: Number(curve.hits[index]), exposure: curve.trials, unit: "share",
  };
}

/** @param {Curve} curve @param {number} index @returns {Interval | null} per hour */
function rateAt(curve, index) {
  if (!(curve.hours > 0)) return null;
  return {
    value: Number(curve.false_accepts[index]) / curve.hours, low: Number(curve.rate_low[index]),
    high: Number(curve.rate_high[index]), events: Number(curve.false_accepts[index]), exposure: curve.hours,
    unit: "per hour",
  };
}

/** @param {number} value a rate in few digits, whatever its size */
const few = (value) => number(value, value >= 100 ? 0 : value >= 10 ? 1 : 2);

/** @param {number} value @returns {string} a score, so that scores stand under each other */
const score = (value) =>
  new Intl.NumberFormat(language, { minimumFractionDigits: 2, maximumFractionDigits: 2 }).format(value);

/** @param {Interval | null} rate per hour @returns {string} per day, never without what it rests on */
function perDay(rate) {
  if (!rate) return t("app.no_figure");
  return t("models.per_day", {
    value: few(24 * rate.value), events: rate.events, low: few(24 * rate.low), high: few(24 * rate.high),
    exposure: number(rate.exposure, rate.exposure < 10 ? 2 : 0),
  });
}

/** @param {number} least @param {number} most @returns {[number, number]} whole decades around both, two at least */
function decades(least, most) {
  const low = 10 ** Math.floor(Math.log10(least));
  return [low, Math.max(100 * low, 10 ** Math.ceil(Math.log10(most)))];
}

class Models extends View {
  static properties = { cutoff: { state: true }, all: { state: true }, filter: { state: true } };

  constructor() {
    super();
    this.cutoff = 0;
    this.all = false;
    this.filter = "";
    this.list = new Loaded(this, (signal) => /** @type {Promise<Schemas["ModelEntry"][]>} */ (get("api/models/list", signal)));
    this.field = new Loaded(this, (signal) => /** @type {Promise<Schemas["RateView"][]>} */ (get("api/rates?by=model", signal)));
    this.devices = new Loaded(this, (signal) => /** @type {Promise<Schemas["DeviceState"][]>} */ (get("api/devices", signal)));
    this.me = new Loaded(this, (signal) => /** @type {Promise<Schemas["Me"]>} */ (get("api/me", signal)));
    this.page = new Loaded(this, (signal) => this.#readPage(signal));
    this.mistakes = new Loaded(this, (signal) => this.#readMistakes(signal));
    this.clips = new Loaded(this, (signal) => this.#readClips(signal));
    this.listed = "";
    this.yaml = new Loaded(this, (signal) => this.#readYaml(signal));
  }

  connectedCallback() {
    super.connectedCallback();
    this.hear(["job"], (job) => {
      if (!job || job.state === "done") {
        this.list.soon();
        if (this.path[0]) this.page.soon();
      }
    });
    this.hear(["deleted"], () => {
      for (const one of [this.list, this.page, this.mistakes, this.clips]) one.soon();
    });
  }

  /** @param {Map<string, unknown>} changed */
  willUpdate(changed) {
    const id = this.path[0] ?? "";
    if (changed.has("path") && id !== this.page.value?.model.id) {
      this.cutoff = 0;
      this.page.value = undefined;
      this.mistakes.value = undefined;
    }
    if (!this.hasUpdated || !(changed.has("path") || changed.has("params"))) return;
    if (id !== this.page.value?.model.id) void this.page.load();
    void this.mistakes.load();
    const list = [id, this.params["group"], this.params["from"]].join();
    if (list !== this.listed) this.clips.value = undefined; // another list: the old one is not shown under its name
    this.listed = list;
    void this.clips.load();
    void this.yaml.load();
  }

  get tab() {
    return TABS.find((tab) => tab === this.params["tab"]) ?? "report";
  }

  /** @param {AbortSignal} signal @returns {Promise<Schemas["ModelPage"] | null>} */
  async #readPage(signal) {
    return this.path[0] ? await get(`api/models/${encodeURIComponent(this.path[0])}/page`, signal) : null;
  }

  /** @param {AbortSignal} signal @returns {Promise<Schemas["Mistakes"] | null>} */
  async #readMistakes(signal) {
    if (!this.path[0] || this.tab !== "sounds") return this.mistakes.value ?? null;
    return await get(`api/models/${encodeURIComponent(this.path[0])}/mistakes`, signal);
  }

  /** @param {AbortSignal} signal @returns {Promise<Schemas["ClipPage"] | null>} */
  async #readClips(signal) {
    const { group, from } = this.params;
    if (!this.path[0] || this.tab !== "origins" || !group) return null;
    const asked = query({ group: group === "all" ? "" : group, limit: PAGE, offset: Number(from ?? 0) });
    return await get(`api/models/${encodeURIComponent(this.path[0])}/clips${asked}`, signal);
  }

  /** @param {AbortSignal} signal @returns {Promise<Schemas["YamlView"] | null>} */
  async #readYaml(signal) {
    if (!this.path[0] || this.tab !== "files") return null;
    const asked = query({ cutoff: this.#wanted || "" });
    return await get(`api/models/${encodeURIComponent(this.path[0])}/yaml${asked}`, signal);
  }

  /** @returns {number} the cutoff that was chosen, here or in the address; 0: none was */
  get #wanted() {
    const asked = Number(this.params["cutoff"]);
    return this.cutoff || (asked >= LOWEST && asked <= HIGHEST ? Math.round(asked) : 0);
  }

  /** @param {number} cutoff it goes into the address, so that it can be passed on */
  #choose(cutoff) {
    this.cutoff = cutoff;
    history.replaceState(history.state, "", this.#link("report"));
  }

  /** @param {string} tab */
  #link(tab) {
    return `#/models/${this.path[0]}${query({ tab, cutoff: this.#wanted || "" })}`;
  }

  render() {
    return this.path[0] ? this.#model() : this.#models();
  }

  // --- the list ----------------------------------------------------------------------------------------------------

  #models() {
    return this.list.show((models) =>
      models.length
        ? html`<div class="cards">${models.map((model) => this.#card(model))}</div>`
        : empty(t("models.none"), t("models.none_text"), html`<a class="button primary" href="#/train">${t("nav.train")}</a>`),
    );
  }

  /** @param {Schemas["ModelEntry"]} model */
  #card(model) {
    return html`<article class="card">
      <header>
        <h2><a href="#/models/${model.id}">${model.id}</a></h2>
        <span class="muted">${ago(model.made_at)}</span>
      </header>
      ${this.#tags(model)} ${model.offered || !model.reason ? nothing : html`<p>${model.reason}</p>`}
      ${this.#figures(model)}
    </article>`;
  }

  /** @param {Schemas["ModelEntry"]} model */
  #tags(model) {
    return html`<p class="row">
      <span class="tag">${model.phrase}</span>
      <span class="tag ${model.offered ? "good" : "warn"}">
        ${t(model.newest ? "models.newest" : model.offered ? "measured.offered" : "measured.not_offered")}
      </span>
      ${model.outcome
        ? html`<span class="tag ${outcomeClass(model.outcome)}">${outcomeName(model.outcome)}</span>`
        : nothing}
      ${model.deleted.length ? html`<span class="tag bad">${t("models.heard_deleted")}</span>` : nothing}
    </p>`;
  }

  /** @param {Schemas["ModelEntry"]} model */
  #figures(model) {
    const rate = this.field.value?.find((one) => one.model === model.id);
    return html`<dl class="facts">
      <dt>${t("models.recall")}</dt>
      <dd>${interval(model.level?.recall ?? null)}</dd>
      ${(model.level?.rates ?? []).map(
        (one) => html`<dt>${t("models.wakes_wrongly")}</dt>
          <dd>${interval(one.per_hour)} <small class="muted">${measured(one.kind)}</small></dd>`,
      )}
      ${rate ? html`<dt>${t("models.in_the_field")}</dt><dd>${interval(rate.per_hour)}</dd>` : nothing}
      <dt>${t("models.runs_on")}</dt>
      <dd>
        ${model.devices.length
          ? model.devices.map((name, index) => html`${index ? ", " : ""}<a href="#/devices/${name}">${name}</a>`)
          : t("models.nowhere")}
        ${model.on_trial.length ? html`<br />${t("models.on_trial", { devices: model.on_trial.join(", ") })}` : nothing}
      </dd>
    </dl>`;
  }

  // --- one model ---------------------------------------------------------------------------------------------------

  #model() {
    return html`<p><a href="#/models">${t("models.back")}</a></p>
      ${this.page.show((page) => {
        if (!page || page.model.id !== this.path[0]) return html`<p class="loading" role="status">${t("app.loading")}</p>`;
        return html`<div class="stack">
          ${this.#head(page)}
          <div class="tabs" role="navigation" aria-label=${t("models.parts")}>
            ${TABS.map(
              (tab) => html`<a
                href=${this.#link(tab)}
                aria-current=${tab === this.tab ? "page" : "false"}
                >${t(`models.tab_${tab}`)}</a
              >`,
            )}
          </div>
          ${this.tab === "sounds"
            ? this.#sounds(page)
            : this.tab === "origins"
              ? this.#origins(page)
              : this.tab === "files"
                ? this.#files(page)
                : this.#report(page)}
        </div>`;
      })}`;
  }

  /** @param {Schemas["ModelPage"]} page */
  #head(page) {
    const { model } = page;
    return html`<section class="card">
      <header><h2 class="id">${model.id}</h2><span class="muted">${moment(model.made_at)}</span></header>
      ${this.#tags(model)}
      ${model.reason ? html`<p>${model.reason}</p>` : nothing}
      ${model.in_the_field.map((text) => html`<p>${t("models.as_canary", { text })}</p>`)}
      ${model.deleted.map(
        (mark) => html`<p class="warning">
          ${t("models.deleted", { clips: mark.clips, trained: mark.trained_on, at: moment(mark.at) })}
        </p>`,
      )}
      ${this.#figures(model)}
      ${this.#ways(model.id)}
    </section>`;
  }

  /** @param {string} id where it can go from here */
  #ways(id) {
    const names = (this.devices.value ?? []).map((one) => one.device.name);
    /** @param {string} title @param {"model" | "canary"} key */
    const row = (title, key) => html`<div class="row actions" role="group" aria-label=${title}>
      <span>${title}</span>
      ${names.map(
        (name) => html`<a class="button" href="#/devices/${name}?${key}=${id}" aria-label=${`${title} ${name}`}>${name}</a>`,
      )}
    </div>`;
    return html`${names.length
        ? html`${row(t("models.flash"), "model")} ${row(t("models.canary"), "canary")}`
        : html`<p><a href="#/devices">${t("models.no_device")}</a></p>`}
      <div class="row actions"><a class="button" href="#/listen?model=${id}">${t("nav.listen")}</a></div>`;
  }

  // --- the report --------------------------------------------------------------------------------------------------

  /** @param {Schemas["ModelPage"]} page */
  #report(page) {
    const { report } = page;
    if (!report) return empty(t("models.no_report"), t("models.no_report_text"));
    return html`${report.warnings.map((text) => html`<p class="warning">${text}</p>`)}
      ${this.#sensitivity(page, report)} ${this.#trade(report)}
      <div class="split">
        <section class="card">
          <header><h2>${t("models.by_condition")}</h2></header>
          ${bars(
            sorted(report.conditions).map((row) => ({ ...row, name: measured(row.name) })),
            (row) => interval(row.share),
          )}
        </section>
        ${this.#lures(report)}
      </div>
      ${this.#voices(report)} ${this.#scores(report)} ${this.#hours(report)}
      ${report.training.length
        ? html`<section class="card">
            <header><h2>${t("models.training")}</h2></header>
            <div class="plots">${trainingCharts(report.training)}</div>
          </section>`
        : nothing}
      ${page.proposal
        ? html`<section class="card">
            <header><h2>${t("models.compared")}</h2></header>
            ${proposalCard(page.proposal)}
          </section>`
        : nothing}
      ${report.page
        ? html`<p><a href=${report.page} target="_blank" rel="noopener">${t("models.report_page")}</a></p>`
        : nothing}`;
  }

  /** @param {Schemas["ReportView"]} report @returns {number} the cutoff that is looked at */
  #now(report) {
    return this.#wanted || (report.levels.find((level) => level.name === "medium") ?? report.levels[0])?.cutoff || HIGHEST;
  }

  /** @param {Schemas["ModelPage"]} page @param {Schemas["ReportView"]} report */
  #sensitivity(page, report) {
    const [first] = report.curves;
    if (!first) return nothing;
    const cutoff = this.#now(report);
    const index = first.cutoffs.indexOf(cutoff);
    const recall = recallAt(first, index);
    const said = [
      t("models.recall_is", { value: interval(recall) }),
      ...report.curves.map((curve) => `${measured(curve.kind)}: ${perDay(rateAt(curve, index))}`),
    ];
    const level = report.levels.find((one) => one.cutoff === cutoff);
    const line = `probability_cutoff: ${first.probabilities[index]}`;
    return html`<section class="card" id="sensitivity">
      <header><h2>${t("models.sensitivity")}</h2></header>
      <p class="muted">${t("models.sensitivity_text")}</p>
      <label for="cutoff">${t("models.cutoff", { probability: Number(first.probabilities[index]), cutoff })}</label>
      <input
        type="range"
        id="cutoff"
        min=${255 - HIGHEST}
        max=${255 - LOWEST}
        .value=${String(255 - cutoff)}
        list="levels"
        aria-valuetext=${[t("models.cutoff", { probability: Number(first.probabilities[index]), cutoff }), ...said].join("; ")}
        @input=${(/** @type {Event} */ event) =>
          this.#choose(255 - Number(/** @type {HTMLInputElement} */ (event.target).value))}
      />
      <datalist id="levels">${report.levels.map((one) => html`<option value=${255 - one.cutoff}></option>`)}</datalist>
      <div class="row between ends" aria-hidden="true">
        <small class="muted">${t("models.deaf")}</small><small class="muted">${t("models.keen")}</small>
      </div>
      <div class="row levels" role="group" aria-label=${t("models.levels")}>
        ${report.levels.map(
          (one) => html`<button
            type="button"
            aria-pressed=${one.cutoff === cutoff}
            data-level=${one.name}
            @click=${() => this.#choose(one.cutoff)}
          >
            ${levelName(one.name)} <small class="muted">${number(one.probability, 3)}</small>
          </button>`,
        )}
      </div>
      <dl class="facts outcome">
        <dt>${t("models.recall")}</dt>
        <dd id="recall">${interval(recall)}</dd>
        ${report.curves.map(
          (curve) => html`<dt>${t("models.wakes_wrongly")}</dt>
            <dd data-kind=${curve.kind}>
              ${perDay(rateAt(curve, index))} <small class="muted">${measured(curve.kind)}</small>
            </dd>`,
        )}
        <dt>${t("models.in_yaml")}</dt>
        <dd class="row">
          <code id="yaml-line">${line}</code>
          <button type="button" class="plain" @click=${() => copy(line)}>${t("models.copy")}</button>
        </dd>
        ${level
          ? html`<dt>${t("models.on_device")}</dt><dd>${t("models.on_device_text", { level: levelName(level.name) })}</dd>`
          : nothing}
      </dl>
      <p class="muted">${report.chosen_on}</p>
      <mww-chart id="roc" .chart=${this.#roc(report, index)}></mww-chart>
    </section>`;
  }

  /** @param {Schemas["ReportView"]} report @param {number} index of the cutoff @returns {Chart} */
  #roc(report, index) {
    const curves = report.curves.filter((curve) => curve.trials && curve.hours > 0);
    const least = Math.min(...curves.map((curve) => 12 / curve.hours));
    const most = Math.max(...curves.map((curve) => (24 * Math.max(...curve.false_accepts)) / curve.hours));
    const [min, max] = decades(least, most);
    const [main] = curves;
    /** @param {Curve} curve @param {number} place */
    const x = (curve, place) => (24 * Number(curve.false_accepts[place])) / curve.hours;
    return {
      title: t("models.roc"),
      x: { label: t("models.per_day_axis"), text: (value) => few(value), log: true, min, max },
      y: { label: t("models.recall_axis"), text: (value) => percent(value), min: 0, max: 1 },
      lines: curves.map((curve) => {
        const steps = curve.best.length ? [...curve.best, Number(curve.best.at(-1))] : [];
        return {
          name: t("models.curve_name", { kind: measured(curve.kind), hours: few(curve.hours), trials: curve.trials }),
          kind: /** @type {const} */ ("steps"),
          x: steps.map((place, number) => (number < curve.best.length ? x(curve, place) : max)),
          y: steps.map((place) => Number(curve.hits[place]) / curve.trials),
          low: steps.map((place) => Number(curve.recall_low[place])),
          high: steps.map((place) => Number(curve.recall_high[place])),
          text: (number) => interval(recallAt(curve, Number(steps[number]))),
        };
      }),
      marks: main
        ? [
            ...report.levels
              .map((level) => ({ name: levelName(level.name), place: main.cutoffs.indexOf(level.cutoff) }))
              .filter((level) => level.place !== index),
            { name: t("models.here"), place: index },
          ].map(({ name, place }) => ({ name, x: x(main, place), y: Number(main.hits[place]) / main.trials }))
        : [],
    };
  }

  /** @param {Schemas["ReportView"]} report */
  #trade(report) {
    const curves = report.curves.filter((curve) => curve.trials && curve.hours > 0);
    if (!curves.length) return nothing;
    const [min, max] = decades(
      Math.min(...curves.map((curve) => 0.5 / curve.hours)),
      Math.max(...curves.map((curve) => Math.max(...curve.false_accepts) / curve.hours)),
    );
    const [floor] = decades(Math.min(0.05, ...curves.map((curve) => 0.5 / curve.trials)), 1);
    /** @type {Chart} */
    const chart = {
      title: t("models.det"),
      x: { label: t("models.per_hour_axis"), text: (value) => few(value), log: true, min, max },
      y: { label: t("models.missed_axis"), text: (value) => percent(value, 1), log: true, min: floor, max: 1 },
      lines: curves.map((curve) => {
        const steps = curve.best.length ? [...curve.best, Number(curve.best.at(-1))] : [];
        return {
          name: t("models.curve_name", { kind: measured(curve.kind), hours: few(curve.hours), trials: curve.trials }),
          kind: /** @type {const} */ ("steps"),
          x: steps.map((place, number) =>
            number < curve.best.length ? Number(curve.false_accepts[place]) / curve.hours : max,
          ),
          y: steps.map((place) => 1 - Number(curve.hits[place]) / curve.trials),
          low: steps.map((place) => 1 - Number(curve.recall_high[place])),
          high: steps.map((place) => 1 - Number(curve.recall_low[place])),
        };
      }),
    };
    return html`<section class="card" id="det">
      <header><h2>${t("models.trade")}</h2></header>
      <p class="muted">${t("models.trade_text")}</p>
      <mww-chart .chart=${chart}></mww-chart>
      <details>
        <summary>${t("models.within_budget")}</summary>
        <div class="wide" tabindex="0" role="group" aria-label=${t("models.within_budget")}>
          <table>
            <thead>
              <tr>
                <th scope="col">${t("models.budget")}</th>
                <th scope="col">${t("models.sound")}</th>
                <th scope="col" class="number">${t("models.cutoff_column")}</th>
                <th scope="col">${t("models.recall")}</th>
                <th scope="col">${t("models.wakes_wrongly")}</th>
              </tr>
            </thead>
            <tbody>
              ${report.recall_at.map(
                (row) => html`<tr>
                  <th scope="row">${t("models.per_hour", { value: row.budget_per_hour })}</th>
                  <td>${measured(row.kind)}</td>
                  <td class="number">${row.cutoff === null ? "–" : number(row.cutoff)}</td>
                  <td>${row.cutoff === null ? t("models.no_cutoff") : interval(row.recall)}</td>
                  <td>${interval(row.false_accepts)}</td>
                </tr>`,
              )}
            </tbody>
          </table>
        </div>
      </details>
    </section>`;
  }

  /** @param {Schemas["ReportView"]} report */
  #lures(report) {
    if (!report.lures_all) return nothing;
    const woke = report.lures;
    return html`<section class="card">
      <header><h2>${t("models.lures")}</h2></header>
      <p>${t("models.lures_all", { share: interval(report.lures_all) })}</p>
      ${woke.length ? bars(woke.slice(0, this.all ? woke.length : FEW), (row) => interval(row.share)) : nothing}
      ${woke.length > FEW ? this.#more(woke.length) : nothing}
    </section>`;
  }

  /** @param {number} count */
  #more(count) {
    return html`<p>
      <button type="button" aria-expanded=${this.all} @click=${() => (this.all = !this.all)}>
        ${this.all ? t("models.fewer") : t("models.all", { count })}
      </button>
    </p>`;
  }

  /** @param {Schemas["ReportView"]} report */
  #voices(report) {
    const rows = sorted(report.voices).filter((row) => row.name.toLowerCase().includes(this.filter.toLowerCase()));
    return html`<section class="card" id="voices">
      <header>
        <h2>${t("models.by_voice")}</h2>
        <span class="muted">${t("models.voices", { words: report.wake_clips, count: report.wake_voices })}</span>
      </header>
      ${report.voices.length > FEW
        ? html`<label>
            <span class="hidden">${t("models.find_voice")}</span>
            <input
              type="search"
              placeholder=${t("models.find_voice")}
              .value=${this.filter}
              @input=${(/** @type {Event} */ event) =>
                (this.filter = /** @type {HTMLInputElement} */ (event.target).value)}
            />
          </label>`
        : nothing}
      ${bars(rows.slice(0, this.all ? rows.length : FEW), (row) => interval(row.share))}
      ${rows.length > FEW ? this.#more(rows.length) : nothing}
    </section>`;
  }

  /** @param {Schemas["ReportView"]} report */
  #scores(report) {
    const { histogram } = report;
    if (!histogram) return nothing;
    const cutoff = this.#now(report);
    /** @param {string} title @param {readonly number[]} counts @param {string} unit */
    const chart = (title, counts, unit) => {
      const wide = 256 / counts.length;
      /** @type {Chart} */
      const made = {
        title,
        x: { label: t("models.peak_axis"), text: (value) => number(value, 0), min: 0, max: 256 },
        y: { label: unit, text: (value) => number(value, 0), log: true, min: 0.5, max: decades(1, Math.max(...counts))[1] },
        lines: [{
          name: title, kind: "bars", x: counts.map((_count, bin) => bin * wide),
          y: counts.map((count) => count || null), text: (bin) => number(counts[bin] ?? 0, 0),
        }],
        marks: [{ name: t("models.cutoff_column"), x: cutoff }],
        height: 200,
      };
      return html`<mww-chart .chart=${made}></mww-chart>`;
    };
    return html`<section class="card" id="scores">
      <header><h2>${t("models.scores")}</h2></header>
      <p class="muted">${t("models.scores_text")}</p>
      <div class="plots">
        ${chart(t("models.scores_wake"), histogram.wake, t("models.words_unit"))}
        ${chart(t("models.scores_ambient", { seconds: histogram.piece_s }), histogram.ambient, t("models.pieces_unit"))}
      </div>
    </section>`;
  }

  /** @param {Schemas["ReportView"]} report */
  #hours(report) {
    return html`<section class="card" id="hours">
      <header><h2>${t("models.hours")}</h2></header>
      ${report.hours.map((text) => html`<p>${text}</p>`)}
      <div class="wide" tabindex="0" role="group" aria-label=${t("models.hours")}>
        <table>
          <thead>
            <tr>
              <th scope="col">${t("models.sound")}</th>
              <th scope="col" class="number">${t("models.hours_column")}</th>
              <th scope="col" class="number">${t("models.speech_column")}</th>
              <th scope="col" class="number">${t("models.recordings_column")}</th>
            </tr>
          </thead>
          <tbody>
            ${report.data.map(
              (row) => html`<tr>
                <th scope="row">${measured(row.kind)}</th>
                <td class="number">${number(row.hours)} h</td>
                <td class="number">${number(row.speech_hours)} h</td>
                <td class="number">${number(row.recordings, 0)}</td>
              </tr>`,
            )}
          </tbody>
        </table>
      </div>
    </section>`;
  }

  // --- sounds ------------------------------------------------------------------------------------------------------

  /** @param {Schemas["ModelPage"]} page */
  #sounds(page) {
    if (!page.report) return empty(t("models.no_report"), t("models.no_report_text"));
    return this.mistakes.show((mistakes) =>
      mistakes
        ? html`<section class="card" id="misses">
              <header><h2>${t("models.misses")}</h2></header>
              <p class="muted">${t("models.misses_text")}</p>
              ${mistakes.misses.length
                ? html`<ul class="sounds">${mistakes.misses.map((miss) => this.#miss(miss, page))}</ul>`
                : html`<p>${t("models.no_misses")}</p>`}
            </section>
            <section class="card" id="false-accepts">
              <header><h2>${t("models.false_accepts")}</h2></header>
              <p class="muted">${t("models.false_accepts_text")}</p>
              ${mistakes.false_accepts.length
                ? html`<ul class="sounds">${mistakes.false_accepts.map((found) => this.#falseAccept(found))}</ul>`
                : html`<p>${t("models.no_false_accepts")}</p>`}
            </section>`
        : html`<p class="loading" role="status">${t("app.loading")}</p>`,
    );
  }

  /** @param {Schemas["MissView"]} miss @param {Schemas["ModelPage"]} page */
  #miss(miss, page) {
    const needed = page.model.level?.probability ?? 1;
    return html`<li>
      ${miss.sound
        ? html`<mww-play src=${miss.sound} label=${`${miss.text || miss.clip}, ${miss.voice}`}></mww-play>`
        : html`<span class="no-sound">${icon("trash")}</span>`}
      <div class="grow">
        <strong>${miss.text || miss.clip}</strong> <span>${miss.voice || t("train.nobody")}</span>
        <small class="muted">
          ${[miss.origin ? originName(miss.origin) : "", measured(miss.condition)].filter(Boolean).join(" · ")}
          ${miss.sound ? nothing : html`<span class="bad">${t("models.clip_gone")}</span>`}
        </small>
      </div>
      <span class="number">${t("models.peak", { peak: score(miss.peak), needed: score(needed) })}</span>
    </li>`;
  }

  /** @param {Schemas["FalseAcceptView"]} found */
  #falseAccept(found) {
    return html`<li>
      ${found.sound
        ? html`<mww-play src=${found.sound} label=${`${measured(found.kind)}, ${duration(found.time_s)}`}></mww-play>`
        : html`<span class="no-sound">${icon("trash")}</span>`}
      <div class="grow">
        <strong>${measured(found.kind)}</strong> <code>${found.name}</code>
        <small class="muted">${t("models.at", { time: duration(found.time_s) })}</small>
        ${found.why ? html`<small class="bad">${found.why}</small>` : nothing}
        ${found.words.length
          ? html`<ul class="words" aria-label=${t("models.said_around")}>
              ${found.words.map(
                (word) => html`<li>
                  ${word.sound
                    ? html`<mww-play src=${word.sound} label=${word.text || labelName(word.label)}></mww-play>`
                    : nothing}
                  <span
                    >${word.text ? `“${word.text}”` : labelName(word.label)}
                    <small class="muted">${word.speaker}</small></span
                  >
                </li>`,
              )}
            </ul>`
          : nothing}
      </div>
      <span class="number">${score(found.score)}</span>
    </li>`;
  }

  // --- origins -----------------------------------------------------------------------------------------------------

  /** @param {Schemas["ModelPage"]} page */
  #origins(page) {
    const { origins, model } = page;
    const { run } = origins;
    return html`<section class="card">
        <header><h2>${t("models.made_of")}</h2></header>
        <ol class="chain">
          <li>${t("models.chain_model")} <code>${model.sha256.slice(0, 16)}…</code></li>
          <li>
            ${t("models.chain_run")}
            ${run
              ? html`<a href="#/train/${run.id}">${run.id}</a>, ${moment(run.started_at)}, ${t(`effort.${run.effort}`)}`
              : t("models.forgotten")}
          </li>
          <li>
            ${t("models.chain_features")} <code>${origins.feature_set || "–"}</code>
            ${origins.features_kept ? nothing : html`<small class="warn">${t("models.features_gone")}</small>`}
          </li>
          <li>
            ${t("models.chain_clips", { count: origins.groups.reduce((sum, group) => sum + group.clips, 0) })}
            ${origins.gone ? html`<small class="warn">${t("models.clips_gone", { count: origins.gone })}</small>` : nothing}
          </li>
        </ol>
        ${origins.groups.length ? this.#groups(origins, model.id) : html`<p class="muted">${t("models.no_groups")}</p>`}
      </section>
      ${this.params["group"] ? this.#clipList(model.id) : nothing}`;
  }

  /** @param {Schemas["Origins"]} origins @param {string} id */
  #groups(origins, id) {
    return html`<div class="wide" tabindex="0" role="group" aria-label=${t("models.made_of")}>
      <table>
        <thead>
          <tr>
            <th scope="col">${t("train.what")}</th>
            <th scope="col">${t("train.by")}</th>
            <th scope="col">${t("train.origin")}</th>
            <th scope="col">${t("models.side")}</th>
            <th scope="col" class="number">${t("models.clips")}</th>
            <th scope="col" class="number">${t("models.length")}</th>
            <th scope="col"><a href="#/models/${id}?tab=origins&group=all">${t("models.show_all")}</a></th>
          </tr>
        </thead>
        <tbody>
          ${origins.groups.map(
            (group) => html`<tr aria-current=${this.params["group"] === group.id ? "true" : "false"}>
              <th scope="row">${labelName(group.label)}</th>
              <td>${group.source || t("train.nobody")}</td>
              <td>${originName(group.origin)}</td>
              <td>${t(`train.side_${group.side || "none"}`)}</td>
              <td class="number">${number(group.clips, 0)}</td>
              <td class="number">${duration(group.duration_s)}</td>
              <td>
                <a
                  href="#/models/${id}?tab=origins&group=${group.id}"
                  aria-label=${[t("models.show"), labelName(group.label), group.source, t(`train.side_${group.side || "none"}`)].join(" ")}
                  >${t("models.show")}</a
                >
              </td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`;
  }

  /** @param {string} id */
  #clipList(id) {
    const from = Number(this.params["from"] ?? 0);
    const group = this.params["group"];
    const move = (/** @type {number} */ to) => go(`#/models/${id}?tab=origins&group=${group}&from=${to}`);
    return html`<section class="card" id="clips">
      <header><h2>${t("models.clips")}</h2></header>
      ${this.clips.show((page) =>
        page
          ? html`<p class="muted" role="status">
                ${t("models.from_to", { from: page.total ? from + 1 : 0, to: from + page.clips.length, total: page.total })}
              </p>
              <ul class="sounds">
                ${page.clips.map(
                  ({ clip, side, sound }) => html`<li data-clip=${clip.id}>
                    ${sound
                      ? html`<mww-play src=${sound} label=${clip.text || clip.id}></mww-play>`
                      : html`<span class="no-sound">${icon("trash")}</span>`}
                    <div class="grow">
                      <strong>${clip.text || labelName(clip.label)}</strong> <span>${clip.speaker || t("train.nobody")}</span>
                      <small class="muted">
                        ${[labelName(clip.label), originName(clip.origin), t(`train.side_${side || "none"}`), clip.source]
                          .filter(Boolean)
                          .join(" · ")}
                      </small>
                    </div>
                    <span class="number">${duration(clip.duration_s)}</span>
                  </li>`,
                )}
              </ul>
              <div class="row end">
                <button type="button" ?disabled=${from <= 0} @click=${() => move(Math.max(0, from - PAGE))}>
                  ${t("models.previous")}
                </button>
                <button type="button" ?disabled=${from + PAGE >= page.total} @click=${() => move(from + PAGE)}>
                  ${t("models.next")}
                </button>
              </div>`
          : html`<p class="loading" role="status">${t("app.loading")}</p>`,
      )}
    </section>`;
  }

  // --- files -------------------------------------------------------------------------------------------------------

  /** @param {Schemas["ModelPage"]} page */
  #files(page) {
    const { model, checks } = page;
    const barred = this.me.value?.may_change === false;
    return html`<section class="card">
        <header><h2>${t("models.take_away")}</h2></header>
        <p class="muted">${t("models.take_away_text")}</p>
        ${barred ? html`<p class="warning">${t("models.barred")}</p>` : nothing}
        <div class="row downloads" ?hidden=${barred}>
          ${/** @type {const} */ ([["model", ".tflite"], ["manifest", ".json"], ["about", ".about.json"]]).map(
            ([part, suffix]) => html`<a
              class="button"
              href="api/models/${model.id}/${part}"
              download="${model.id}${suffix}"
              data-part=${part}
              >${icon("download")} ${t(`models.part_${part}`)}</a
            >`,
          )}
        </div>
        <dl class="facts">
          <dt>${t("models.size")}</dt><dd>${size(model.model_bytes)}</dd>
          <dt>${t("models.memory")}</dt><dd>${size(model.tensor_arena_bytes)}</dd>
          <dt>SHA-256</dt><dd><code>${model.sha256}</code></dd>
        </dl>
      </section>
      <section class="card">
        <header><h2>${t("models.own_yaml")}</h2></header>
        <p class="muted">${t("models.own_yaml_text")}</p>
        ${this.yaml.show((yaml) =>
          yaml
            ? html`<pre class="log" id="yaml" tabindex="0" aria-label="YAML">${yaml.text}</pre>
                <div class="row">
                  <button type="button" @click=${() => copy(yaml.text)}>${t("models.copy")}</button>
                  <button type="button" @click=${() => save(`${model.id}.yaml`, yaml.text)}>
                    ${icon("download")} ${t("models.save")}
                  </button>
                </div>`
            : nothing,
        )}
      </section>
      <section class="card">
        <header><h2>${t("models.checks")}</h2></header>
        <p class="muted">${t("models.checks_text")}</p>
        <ul class="checks">
          ${checks.map(
            (check) => html`<li>
              <span class="tag ${outcomeClass(check.outcome)}">${outcomeName(check.outcome)}</span>
              <span><strong>${check.name}</strong> <small class="muted">${check.finding}</small></span>
            </li>`,
          )}
        </ul>
      </section>`;
  }
}
customElements.define("mww-models", Models);

/** @param {readonly Schemas["ShareRow"][]} rows lowest first */
const sorted = (rows) =>
  [...rows].sort((one, other) => one.share.value - other.share.value || one.name.localeCompare(other.name));

/** @param {string} name */
const levelName = (name) => (LEVELS.some((known) => known === name) ? t(`models.level_${name}`) : name);

/** @param {string} name @param {string} text */
function save(name, text) {
  void attempt(async () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/yaml" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}
