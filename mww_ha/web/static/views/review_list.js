/** All captures, as many as there are: what is in view is in the page, what was in view is read. */
import { html, nothing, virtualize } from "../vendor/lit.js";
import { get, post, query } from "../lib/api.js";
import { moment, percent, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { View, asProblem, attempt, confirm, empty, go, note, showProblem } from "../lib/ui.js";
import { VERDICTS, isSpoken, lengthOf, nameOf, toneOf } from "./review_words.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */
/** @typedef {import("../lib/api.js").Problem} Problem */

const PAGE = 100;
const MOST_CHOSEN = 1000;
const STATES = ["all", "waiting", "judged"];

class ReviewList extends View {
  static properties = {
    filter: { attribute: false },
    order: { type: String },
    which: { type: String },
    total: { state: true },
    problem: { state: true },
    chosen: { state: true },
    mayChange: { state: true },
    rows: { state: true },
  };

  constructor() {
    super();
    /** @type {{device: string, model: string, kind: string}} */
    this.filter = { device: "", model: "", kind: "" };
    this.order = "newest";
    this.which = "all";
    /** @type {number | null} */
    this.total = null;
    /** @type {Problem | null} */
    this.problem = null;
    /** @type {Map<number, Schemas["CaptureView"]>} place → capture */
    this.known = new Map();
    /** @type {Set<number>} pages that are read, or being read */
    this.pages = new Set();
    /** @type {Set<string>} */
    this.chosen = new Set();
    /** @type {number | null} place of the last box that was clicked: Shift chooses from there */
    this.anchor = null;
    this.mayChange = true;
    /** @type {number[]} one number for each capture; another list when what is known of them has changed */
    this.rows = [];
    this.read = "";
    this.version = 0;
    this.first = 0;
    this.last = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
  }

  connectedCallback() {
    super.connectedCallback();
    this.hear(["capture", "judged", "deleted", "expired", "scored"], () => this.#againSoon());
    void get("api/me").then((me) => (this.mayChange = /** @type {Schemas["Me"]} */ (me).may_change), () => undefined);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    clearTimeout(this.timer);
    this.read = "";
  }

  /** @param {Map<string, unknown>} _changed */
  willUpdate(_changed) {
    const key = JSON.stringify([this.filter, this.order, this.which]);
    if (key === this.read) return;
    this.read = key;
    this.total = null;
    this.chosen = new Set();
    this.anchor = null;
    this.first = this.last = 0;
    this.known.clear();
    this.#again();
  }

  #againSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#again(), 400);
  }

  /** Reads what is in view again; what is known of the rest is forgotten when that has come. */
  #again() {
    this.version += 1;
    this.pages.clear();
    void this.#need(this.first, this.last, true);
  }

  /** @param {number} first @param {number} last places in view @param {boolean} [afresh] */
  async #need(first, last, afresh = false) {
    this.first = first;
    this.last = last;
    const version = this.version;
    for (let page = Math.floor(first / PAGE); page <= Math.floor(last / PAGE); page += 1) {
      if (this.pages.has(page)) continue;
      this.pages.add(page);
      const asked = query({
        state: this.which, order: this.order, ...this.filter, limit: PAGE, offset: page * PAGE,
      });
      try {
        const told = /** @type {Schemas["CapturePage"]} */ (await get(`api/captures${asked}`));
        if (version !== this.version) return;
        if (afresh) this.known.clear();
        afresh = false;
        told.captures.forEach((view, index) => this.known.set(page * PAGE + index, view));
        this.total = told.total;
        this.problem = null;
        this.rows = Array.from({ length: told.total }, (_, place) => place);
      } catch (error) {
        if (version !== this.version) return;
        this.pages.delete(page);
        this.problem = asProblem(error);
      }
    }
  }

  // --- several at once -------------------------------------------------------------------------------------------------

  /** @param {number} place @param {MouseEvent} event */
  async #choose(place, event) {
    const box = /** @type {HTMLInputElement} */ (event.target);
    const on = box.checked;
    const from = event.shiftKey && this.anchor !== null ? this.anchor : place;
    this.anchor = place;
    const [low, high] = [Math.min(from, place), Math.max(from, place)];
    await this.#need(low, high);
    const chosen = new Set(this.chosen);
    for (let one = low; one <= high; one += 1) {
      const id = this.known.get(one)?.capture.id;
      if (!id) continue;
      if (on) chosen.add(id);
      else chosen.delete(id);
    }
    if (chosen.size > MOST_CHOSEN) {
      note(t("review.too_many", { most: MOST_CHOSEN }), { bad: true });
      box.checked = this.chosen.has(this.known.get(place)?.capture.id ?? "");
      return;
    }
    this.chosen = chosen;
    this.rows = [...this.rows];
  }

  #unchoose() {
    this.chosen = new Set();
    this.anchor = null;
    this.rows = [...this.rows];
  }

  /** @param {string} verdict */
  async #judge(verdict) {
    const ids = [...this.chosen];
    const answer = await attempt(() => post("api/review", { ids, verdict }));
    if (!answer) return;
    const { changed } = /** @type {Schemas["Judged"]} */ (answer);
    this.#unchoose();
    this.#againSoon();
    note(t("review.said_several", { count: changed.length, verdict: t(`review.verdict_${verdict}`) }), {
      place: "verdict",
      ...(changed.length ? { undo: () => this.#undo() } : {}),
    });
  }

  async #undo() {
    const answer = await attempt(() => post("api/review/undo"));
    if (answer) note(t("review.undone", { count: /** @type {Schemas["Judged"]} */ (answer).changed.length }));
    this.#againSoon();
  }

  async #delete() {
    const ids = [...this.chosen];
    const yes = await confirm({
      title: t("review.delete_ask", { count: ids.length }),
      text: t("review.delete_text"),
      yes: t("review.delete"),
      danger: true,
    });
    if (!yes) return;
    const answer = await attempt(() => post("api/captures/delete", { ids }));
    if (!answer) return;
    const { captures, models } = /** @type {Schemas["Deleted"]} */ (answer);
    this.#unchoose();
    this.#againSoon();
    note([
      t("review.deleted", { count: captures.length }),
      models.length ? t("review.deleted_models", { models: models.join(", ") }) : "",
    ].filter(Boolean).join(" "));
  }

  // --- how it looks ----------------------------------------------------------------------------------------------------

  render() {
    return html`
      <div class="row between">
        <div class="row" role="group" aria-label=${t("review.which")}>
          ${STATES.map(
            (state) => html`<button type="button" aria-pressed=${state === this.which} @click=${() => this.#show(state)}>
              ${t(`review.which_${state}`)}
            </button>`,
          )}
        </div>
        <span class="muted" role="status">
          ${this.total === null ? nothing : t("review.captures", { count: this.total })}
        </span>
      </div>
      ${this.problem ? showProblem(this.problem, () => this.#again()) : nothing}
      ${this.chosen.size ? this.#bar() : nothing}
      ${this.total === null
        ? this.problem ? nothing : html`<p class="loading" role="status">${t("app.loading")}</p>`
        : this.total
          ? html`<div
              class="captures card"
              role="list"
              tabindex="0"
              aria-label=${t("review.tab_all")}
              @visibilityChanged=${(/** @type {Event & {first: number, last: number}} */ event) =>
                void this.#need(Math.max(0, event.first), Math.max(0, event.last))}
            >
              ${virtualize({
                items: this.rows,
                renderItem: (place) => this.#row(place),
                keyFunction: (place) => place,
                scroller: true,
              })}
            </div>`
          : empty(t("review.none_here"), t("review.none_here_text"))}
    `;
  }

  /** @param {string} state */
  #show(state) {
    const order = this.order === "newest" ? "" : this.order;
    go(`#/review${query({ tab: "all", ...this.filter, order, state: state === "all" ? "" : state })}`);
  }

  #bar() {
    return html`<section class="card chosen" aria-label=${t("review.chosen", { count: this.chosen.size })}>
      <div class="row">
        <strong role="status">${t("review.chosen", { count: this.chosen.size })}</strong>
        ${VERDICTS.map(
          ([verdict]) => html`<button type="button" @click=${() => this.#judge(verdict)}>
            ${t(`review.verdict_${verdict}`)}
          </button>`,
        )}
        <button
          type="button"
          class="danger"
          ?disabled=${!this.mayChange}
          title=${this.mayChange ? "" : t("review.may_not_delete")}
          @click=${() => this.#delete()}
        >${icon("trash")}${t("review.delete")}</button>
        <button type="button" class="plain" @click=${() => this.#unchoose()}>${t("review.unchoose")}</button>
      </div>
      ${this.mayChange ? nothing : html`<small>${t("review.may_not_delete")}</small>`}
    </section>`;
  }

  /** @param {number} place */
  #row(place) {
    const view = this.known.get(place);
    if (!view) return html`<div class="capture coming" role="listitem" aria-setsize=${this.rows.length} aria-posinset=${place + 1}>…</div>`;
    const { capture, score } = view;
    const name = nameOf(capture);
    return html`<div class="capture" role="listitem" aria-setsize=${this.rows.length} aria-posinset=${place + 1}>
      <label class="box"><input
        type="checkbox"
        .checked=${this.chosen.has(capture.id)}
        aria-label=${t("review.choose", { name })}
        @click=${(/** @type {MouseEvent} */ event) => void this.#choose(place, event)}
      /></label>
      <a href="#/review/${capture.id}">
        <span class="when">${moment(capture.captured_at)}</span>
        <span class="device">${capture.device}</span>
        <span class="kind muted">${t(`review.kind_${capture.kind}`)}</span>
        <span class="number muted">${
          score && !score.problem ? t("review.peak", { peak: percent(score.peak) }) : lengthOf(capture)
        }</span>
        <span class="verdict-is"><span class="tag ${toneOf(capture.verdict)}">${t(`review.verdict_${capture.verdict}`)}${
          isSpoken(capture.verdict) && capture.person ? html`<span class="who">: ${capture.person}</span>` : nothing
        }</span></span>
      </a>
    </div>`;
  }
}
customElements.define("mww-review-list", ReviewList);
