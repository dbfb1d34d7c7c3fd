/** The queue: one capture at a time, one key a verdict. What comes next is there before it is wanted. */
import { html, nothing } from "../vendor/lit.js";
import { get, post, query } from "../lib/api.js";
import { duration, moment, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { prefetchSound } from "../lib/sound.js";
import { View, asProblem, empty, note, showProblem } from "../lib/ui.js";
import {
  VERDICTS, isSpoken, lengthOf, nameOf, outcomeOf, scoreOf, toneOf, traceOf,
} from "./review_words.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */
/** @typedef {import("../lib/api.js").Problem} Problem */
/**
 * A capture in the queue, with what is known of it by now.
 * @typedef {{id: string, capture: Schemas["Capture"], detail: Schemas["CaptureDetail"] | null,
 *   asked: Promise<void> | null, problem: Problem | null}} Entry
 */

const PAGE = 40;
const AHEAD = 4; // captures that are fetched before they are looked at
const FEW = 12; // with fewer left more are asked for
const AUTOPLAY = "mww-ha-review-autoplay";

class ReviewQueue extends View {
  static properties = {
    ...View.properties,
    filter: { attribute: false },
    order: { type: String },
    counts: { attribute: false },
    at: { state: true },
    waiting: { state: true },
    problem: { state: true },
    loaded: { state: true },
    speaker: { state: true },
    speakers: { state: true },
    autoplay: { state: true },
    open: { state: true },
  };

  constructor() {
    super();
    /** @type {{device: string, model: string, kind: string}} */
    this.filter = { device: "", model: "", kind: "" };
    this.order = "informative";
    /** @type {Schemas["CaptureCount"][] | null} */
    this.counts = null;
    /** @type {Entry[]} what was looked at, what one is at, what comes */
    this.line = [];
    this.at = 0;
    this.waiting = 0;
    /** @type {Problem | null} */
    this.problem = null;
    this.loaded = false;
    /** @type {string | null} who speaks in the one that is shown; null: as it was */
    this.speaker = null;
    /** @type {string[]} */
    this.speakers = [];
    this.autoplay = remembered();
    this.open = false;
    /** @type {Set<string>} judged here, whether the service has said so yet or not */
    this.judged = new Set();
    /** @type {Map<string, number>} capture → how many verdicts on it are on their way */
    this.sending = new Map();
    /** @type {Promise<unknown>} requests that change something go one after the other: undo takes back the last */
    this.chain = Promise.resolve();
    this.asked = 0;
    this.filled = "";
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.began_ms = 0;
    /** @type {string | undefined} id of the one that is shown */
    this.shown = undefined;
  }

  connectedCallback() {
    super.connectedCallback();
    this.while(window, "keydown", (event) => this.#key(event));
    this.hear(["capture"], () => this.#fillSoon());
    this.hear(["scored", "outcome", "transcribed"], (told) => told?.id && this.#renew(told.id));
    this.hear(["judged"], (told) => told?.ids && this.#hearJudged(told));
    this.hear(["deleted", "expired"], (told) => this.#drop(told?.ids ?? []));
    this.hear(["people"], () => void this.#loadSpeakers());
    void this.#loadSpeakers();
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    clearTimeout(this.timer);
    this.asked += 1;
    this.filled = "";
  }

  /** @param {Map<string, unknown>} changed */
  willUpdate(changed) {
    const { device, model, kind } = this.filter;
    const key = JSON.stringify([device, model, kind, this.order]);
    if (key !== this.filled) {
      this.filled = key;
      this.line = [];
      this.at = 0;
      this.loaded = false;
      this.judged.clear();
      void this.#begin();
    } else if (changed.has("path") && this.loaded) {
      const [wanted] = this.path;
      if (!wanted) this.#restart();
      else if (wanted !== this.current?.id) void this.#show(wanted);
    }
  }

  /** Those that were passed over, and wait. */
  get #passed() {
    return this.line.filter((entry, place) => place < this.at && entry.capture.verdict === "undecided").length;
  }

  get current() {
    return this.line[this.at];
  }

  // --- what is in the line ---------------------------------------------------------------------------------------------

  async #begin() {
    const [wanted] = this.path;
    if (wanted) await this.#show(wanted);
    await this.#fill();
  }

  #restart() {
    this.line = this.line.filter((entry) => this.judged.has(entry.id));
    this.at = this.line.length;
    void this.#fill();
  }

  #fillSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.#fill(), 300);
  }

  /** Puts those that wait behind the one that is shown, in the service's order. */
  async #fill() {
    const number = (this.asked += 1);
    const left = this.line.slice(0, this.at + 1).filter((entry) => !this.judged.has(entry.id));
    const asked = query({ state: "waiting", order: this.order, ...this.filter, limit: PAGE + left.length });
    try {
      const page = /** @type {Schemas["CapturePage"]} */ (await get(`api/captures${asked}`));
      if (number !== this.asked) return;
      const head = this.line.slice(0, this.at + 1);
      const there = new Map(this.line.map((entry) => [entry.id, entry]));
      const inHead = new Set(head.map((entry) => entry.id));
      const tail = page.captures
        .filter(({ capture }) => !inHead.has(capture.id) && !this.judged.has(capture.id))
        .map(({ capture }) => there.get(capture.id) ?? entryOf(capture));
      this.line = [...head, ...tail];
      this.waiting = Math.max(0, page.total - this.sending.size);
      this.problem = null;
    } catch (error) {
      if (number !== this.asked) return;
      this.problem = asProblem(error);
    }
    this.loaded = true;
    this.#arrive(false);
  }

  /** @param {string} id a capture that is to be shown now, whether it waits or not */
  async #show(id) {
    const place = this.line.findIndex((entry) => entry.id === id);
    if (place >= 0) {
      this.#move(place);
      return;
    }
    try {
      const detail = /** @type {Schemas["CaptureDetail"]} */ (await get(`api/captures/${encodeURIComponent(id)}`));
      const entry = { ...entryOf(detail.capture), detail };
      this.line = [...this.line.slice(0, this.at), entry, ...this.line.slice(this.at)];
      this.#arrive();
    } catch (error) {
      const problem = asProblem(error);
      note([problem.message, problem.hint].filter(Boolean).join(" – "), { bad: true });
    }
  }

  /** Fetches what is shown and what comes next, and asks for more when few are left. */
  #arrive(mayFill = true) {
    if (this.current?.id !== this.shown) {
      this.shown = this.current?.id;
      this.speaker = null;
    }
    for (const entry of this.line.slice(this.at, this.at + AHEAD)) void this.#ready(entry);
    const address = `#/review${this.current ? `/${this.current.id}` : ""}${query({
      ...this.filter, order: this.order === "informative" ? "" : this.order,
    })}`;
    if (location.hash.startsWith("#/review")) history.replaceState(history.state, "", address);
    const coming = this.line.length - this.at;
    if (mayFill && this.loaded && coming < FEW && this.waiting > coming + this.#passed) this.#fillSoon();
    this.requestUpdate();
  }

  /** @param {Entry} entry */
  #ready(entry) {
    if (entry.capture.path) prefetchSound(`api/captures/${entry.id}/sound`);
    entry.asked ??= get(`api/captures/${entry.id}`).then(
      (detail) => {
        entry.detail = /** @type {Schemas["CaptureDetail"]} */ (detail);
        if (!this.sending.has(entry.id)) entry.capture = entry.detail.capture;
        entry.problem = null;
        if (entry === this.current) this.requestUpdate();
      },
      (error) => {
        entry.asked = null;
        entry.problem = asProblem(error);
        if (entry === this.current) this.requestUpdate();
      },
    );
    return entry.asked;
  }

  /** @param {string} id something new is known of it */
  #renew(id) {
    const entry = this.line.find((one) => one.id === id);
    if (!entry?.asked) return;
    entry.asked = null;
    if (this.line.indexOf(entry) - this.at < AHEAD) void this.#ready(entry);
  }

  /** @param {string[]} ids */
  #drop(ids) {
    const gone = new Set(ids);
    if (!this.line.some((entry) => gone.has(entry.id))) {
      if (!ids.length) this.#fillSoon();
      return;
    }
    const before = this.line.slice(0, this.at).filter((entry) => !gone.has(entry.id)).length;
    this.line = this.line.filter((entry) => !gone.has(entry.id));
    this.at = before;
    this.#arrive();
    this.#fillSoon();
  }

  /** @param {{ids: string[], verdict: string, by: string}} told a verdict, or with an empty one: one taken back */
  #hearJudged({ ids, verdict, by }) {
    const others = ids.filter((id) => !this.judged.has(id));
    if (!verdict || !others.length) {
      if (!verdict) {
        for (const id of ids) if (!this.sending.has(id)) this.judged.delete(id);
        this.#fillSoon();
      }
      return;
    }
    if (this.current && others.includes(this.current.id) && this.current.capture.verdict === "undecided") {
      note(t("review.judged_by", { by, verdict: t(`review.verdict_${verdict}`) }));
    }
    const coming = new Set(
      this.line.filter((entry, place) => place >= this.at && entry.capture.verdict === "undecided").map(({ id }) => id),
    );
    this.waiting = Math.max(0, this.waiting - others.length);
    this.#drop(others.filter((id) => coming.has(id)));
    for (const id of others) this.#renew(id);
  }

  async #loadSpeakers() {
    try {
      this.speakers = /** @type {string[]} */ (await get("api/review/speakers"));
    } catch {
      // a name can be typed
    }
  }

  // --- what a person does ----------------------------------------------------------------------------------------------

  /** @param {number} place */
  #move(place) {
    this.at = Math.max(0, Math.min(this.line.length, place));
    this.#arrive();
  }

  #next() {
    if (this.at < this.line.length) this.#move(this.at + 1);
  }

  #back() {
    if (this.at > 0) this.#move(this.at - 1);
  }

  /** @param {string} verdict the next capture comes at once; if the service refuses, this one comes back */
  #judge(verdict) {
    const entry = this.current;
    if (!entry) return;
    const before = entry.capture;
    const person = isSpoken(verdict) ? this.speaker : null;
    this.began_ms = performance.now();
    entry.capture = { ...before, verdict: /** @type {any} */ (verdict), person: person ?? before.person };
    this.judged.add(entry.id);
    this.sending.set(entry.id, (this.sending.get(entry.id) ?? 0) + 1);
    if (before.verdict === "undecided") this.waiting = Math.max(0, this.waiting - 1);
    if (person && !this.speakers.includes(person)) this.speakers = [...this.speakers, person];
    const next = this.line.findIndex((one, place) => place > this.at && one.capture.verdict === "undecided");
    this.#move(next < 0 ? this.line.length : next);
    const { device, model, kind } = this.filter;
    const then = {
      order: this.order, device: device || null, model: model || null, kind: kind || null,
    };
    this.chain = this.chain
      .then(() => post("api/review", { ids: [entry.id], verdict, person, ...then }))
      .then(
        (answer) => {
          this.#sent(entry.id);
          if (!this.sending.size) this.waiting = /** @type {Schemas["Judged"]} */ (answer).waiting;
          note(t(`review.verdict_${verdict}`), {
            undo: () => this.#undo(), undoText: t("review.undo_key"), place: "verdict",
          });
          entry.asked = null; // its history has grown
        },
        (error) => {
          this.#sent(entry.id);
          entry.capture = before;
          if (before.verdict === "undecided") {
            this.judged.delete(entry.id);
            this.waiting += 1;
          }
          const problem = asProblem(error);
          note([problem.message, problem.hint].filter(Boolean).join(" – "), { bad: true });
          void this.#show(entry.id);
        },
      );
  }

  /** @param {string} id */
  #sent(id) {
    const left = (this.sending.get(id) ?? 1) - 1;
    if (left) this.sending.set(id, left);
    else this.sending.delete(id);
  }

  #undo() {
    const { device, model, kind } = this.filter;
    const then = query({ order: this.order, device, model, kind });
    this.chain = this.chain.then(async () => {
      try {
        const answer = /** @type {Schemas["Judged"]} */ (await post(`api/review/undo${then}`));
        const [id] = answer.changed;
        for (const changed of answer.changed) this.judged.delete(changed);
        this.waiting = answer.waiting;
        note(t("review.undone", { count: answer.changed.length }), { place: "verdict" });
        if (!id || !answer.next) return;
        const entry = this.line.find((one) => one.id === id);
        if (entry) {
          entry.detail = answer.next;
          entry.capture = answer.next.capture;
        }
        await this.#show(id);
        this.#fillSoon();
      } catch (error) {
        const problem = asProblem(error);
        note([problem.message, problem.hint].filter(Boolean).join(" – "), { bad: true, place: "verdict" });
      }
    });
  }

  /** @param {string} name @returns {void} who speaks; chosen again: as it was */
  #speak(name) {
    this.speaker = this.speaker === name ? null : name;
  }

  /** @param {boolean} on */
  #setAutoplay(on) {
    this.autoplay = on;
    try {
      localStorage.setItem(AUTOPLAY, on ? "yes" : "no");
    } catch {
      // it holds until the page is left
    }
  }

  get #sound() {
    return /** @type {import("../lib/sound.js").Sound | null} */ (this.querySelector("mww-sound"));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const target = /** @type {HTMLElement} */ (event.target);
    if (target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]")) return;
    if (event.key === " " && target.closest("button, a, summary, input")) return; // it is theirs
    const key = event.key.toLowerCase();
    const verdict = VERDICTS.find(([, one]) => one === key)?.[0];
    /** @type {Record<string, () => void>} */
    const ways = {
      " ": () => this.#sound?.toggle(),
      arrowright: () => this.#next(),
      arrowleft: () => this.#back(),
      u: () => this.#undo(),
      z: () => this.#undo(),
      0: () => this.#speak(""),
    };
    const name = /^[1-9]$/.test(key) ? this.speakers[Number(key) - 1] : undefined;
    const way = ways[key];
    if (event.repeat && !key.startsWith("arrow")) event.preventDefault(); // a key that is held is one verdict
    else if (verdict) this.#do(event, () => this.#judge(verdict));
    else if (name !== undefined) this.#do(event, () => this.#speak(name));
    else if (way) this.#do(event, way);
  }

  /** @param {Event} event @param {() => void} way */
  #do(event, way) {
    event.preventDefault();
    way();
  }

  /** A click leaves the keys to the captures: space would press the button again. @param {MouseEvent} event @param {() => void} way */
  #click(event, way) {
    if (event.detail) /** @type {HTMLElement} */ (event.currentTarget).blur();
    way();
  }

  // --- how it looks ----------------------------------------------------------------------------------------------------

  render() {
    if (this.problem && !this.line.length) return showProblem(this.problem, () => void this.#fill());
    const entry = this.current;
    if (!entry) {
      if (!this.loaded) return html`<p class="loading" role="status">${t("app.loading")}</p>`;
      return this.#nothing();
    }
    const { capture } = entry;
    return html`
      <section class="card stage" aria-label=${nameOf(capture)}>
        <header>
          <h2>${nameOf(capture)}</h2>
          <span class="tag">${t(`review.kind_${capture.kind}`)}</span>
          ${capture.verdict === "undecided"
            ? nothing
            : html`<span class="tag ${toneOf(capture.verdict)}">${t(`review.verdict_${capture.verdict}`)}${
                isSpoken(capture.verdict) && capture.person ? `: ${capture.person}` : ""
              }</span>`}
          <span class="grow"></span>
          <span class="muted" role="status">${t("review.waiting", { count: this.waiting })}</span>
        </header>
        ${this.#wave(entry)}
        <div class="verdicts" role="group" aria-label=${t("review.verdict")}>
          ${VERDICTS.map(
            ([verdict, key]) => html`<button
              type="button"
              class="verdict ${verdict}"
              aria-keyshortcuts=${key}
              aria-pressed=${capture.verdict === verdict}
              @click=${(/** @type {MouseEvent} */ event) => this.#click(event, () => this.#judge(verdict))}
            >
              <span>${t(`review.verdict_${verdict}`)}</span><kbd>${key.toUpperCase()}</kbd>
            </button>`,
          )}
        </div>
        ${this.#people(entry)}
        <div class="row between">
          <div class="row">
            <button type="button" ?disabled=${this.at === 0} aria-keyshortcuts="ArrowLeft"
              @click=${(/** @type {MouseEvent} */ event) => this.#click(event, () => this.#back())}>
              ${t("review.back")}<kbd>←</kbd>
            </button>
            <button type="button" aria-keyshortcuts="ArrowRight"
              @click=${(/** @type {MouseEvent} */ event) => this.#click(event, () => this.#next())}>
              ${t("review.skip")}<kbd>→</kbd>
            </button>
            <button type="button" aria-keyshortcuts="u z"
              @click=${(/** @type {MouseEvent} */ event) => this.#click(event, () => this.#undo())}>
              ${icon("undo")}${t("app.undo")}<kbd>U</kbd>
            </button>
          </div>
          <label class="choice switch">
            <input
              type="checkbox"
              .checked=${this.autoplay}
              @change=${(/** @type {Event} */ event) => {
                const box = /** @type {HTMLInputElement} */ (event.target);
                box.blur();
                this.#setAutoplay(box.checked);
              }}
            />
            <span>${t("review.autoplay")}</span>
          </label>
        </div>
      </section>
      ${this.#known(entry)}
    `;
  }

  /** @param {Entry} entry */
  #wave(entry) {
    if (entry.problem) return showProblem(entry.problem, () => void this.#ready(entry));
    if (!entry.capture.path) return html`<p class="muted">${t("review.no_sound")}</p>`;
    const score = entry.detail?.scores[0];
    const trace = score && !score.problem ? (traces.get(score) ?? keep(score, entry.capture.trigger_s)) : null;
    return html`<mww-sound
      .src=${`api/captures/${entry.id}/sound`}
      .trace=${trace}
      .autoplay=${this.autoplay}
      label=${t("review.sound_of", { name: nameOf(entry.capture) })}
      @ready=${() => this.#measure(entry)}
    ></mww-sound>`;
  }

  /** From the key to the next capture drawn: User Timing "review-next", for whoever wants to know. @param {Entry} entry */
  #measure(entry) {
    const start = this.began_ms;
    this.began_ms = 0;
    if (start) void this.#ready(entry).then(() => performance.measure("review-next", { start }));
  }

  /** @param {Entry} entry */
  #people(entry) {
    const chosen = this.speaker ?? entry.capture.person;
    return html`<div class="row people" role="group" aria-label=${t("review.speaker")}>
      <span class="muted">${t("review.speaker")}</span>
      ${this.speakers.map(
        (name, place) => html`<button
          type="button"
          class="person"
          aria-pressed=${name === chosen}
          aria-keyshortcuts=${place < 9 ? String(place + 1) : ""}
          @click=${(/** @type {MouseEvent} */ event) => this.#click(event, () => this.#speak(name))}
        >
          ${icon("person")}${name}${place < 9 ? html`<kbd>${place + 1}</kbd>` : nothing}
        </button>`,
      )}
      <button type="button" class="person" aria-pressed=${chosen === ""} aria-keyshortcuts="0"
        @click=${(/** @type {MouseEvent} */ event) => this.#click(event, () => this.#speak(""))}>
        ${t("review.nobody")}<kbd>0</kbd>
      </button>
      <form class="row" @submit=${this.#add}>
        <input name="name" maxlength="80" autocomplete="off" placeholder=${t("review.new_name")} aria-label=${t("review.new_name")}
          @keydown=${(/** @type {KeyboardEvent} */ event) =>
            event.key === "Escape" && /** @type {HTMLElement} */ (event.target).blur()} />
      </form>
    </div>`;
  }

  /** @param {SubmitEvent} event */
  #add(event) {
    event.preventDefault();
    const field = /** @type {HTMLInputElement} */ (
      /** @type {HTMLFormElement} */ (event.currentTarget).elements.namedItem("name")
    );
    const name = field.value.trim().replace(/\s+/g, " ");
    if (!name) return;
    if (!this.speakers.includes(name)) this.speakers = [...this.speakers, name];
    this.speaker = name;
    field.value = "";
    field.blur();
  }

  /** What helps to judge, none of it a verdict. @param {Entry} entry */
  #known(entry) {
    const { capture, detail } = entry;
    const score = detail?.scores[0];
    /** @type {[string, unknown][]} */
    const facts = [
      [t("review.model"), capture.model || t("review.model_unknown")],
      [t("review.length"), lengthOf(capture)],
    ];
    if (detail?.reported || capture.kind === "false_wake") facts.unshift([t("review.reported"), t("review.reported_yes")]);
    if (capture.outcome) facts.unshift([t("review.outcome"), outcomeOf(capture.outcome)]);
    if (detail && detail.transcript !== null) {
      facts.unshift([t("review.transcript"), detail.transcript ? t("review.transcript_said", { text: detail.transcript }) : t("review.transcript_empty")]);
    }
    if (score) facts.unshift([t("review.score"), scoreOf(score)]);
    for (const other of detail?.scores.slice(1) ?? []) {
      facts.push([t("review.score_by", { model: other.model }), scoreOf(other)]);
    }
    if (detail?.faults.length) facts.push([t("review.faults"), detail.faults.join(", ")]);
    if (detail?.copies.length) {
      facts.push([
        t("review.copies"),
        detail.copies.map((id, place) => html`<a href="#/review/${id}">${t("review.copy", { number: place + 1 })}</a> `),
      ]);
    }
    if (capture.firmware) facts.push([t("review.firmware"), capture.firmware]);
    return html`<section class="card">
      <h2>${t("review.hints")}</h2>
      <dl class="facts">${facts.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>
      ${detail?.history.length
        ? html`<details ?open=${this.open} @toggle=${(/** @type {Event} */ event) =>
            (this.open = /** @type {HTMLDetailsElement} */ (event.target).open)}>
            <summary>${t("review.history", { count: detail.history.length })}</summary>
            <ul class="history">
              ${detail.history.map(
                (one) => html`<li>${t(one.undoes ? "review.history_undo" : "review.history_said", {
                  at: moment(one.at), by: one.by, verdict: t(`review.verdict_${one.verdict}`),
                })}${one.person && isSpoken(one.verdict) ? ` (${one.person})` : ""}</li>`,
              )}
            </ul>
          </details>`
        : nothing}
    </section>`;
  }

  #nothing() {
    const passed = this.#passed;
    if (this.waiting > passed) return html`<p class="loading" role="status">${t("app.loading")}</p>`;
    const any = this.counts === null || this.counts.some((count) => count.captures);
    const filtered = Object.values(this.filter).some(Boolean);
    if (passed) {
      return empty(t("review.end"), t("review.end_passed", { count: passed }), html`<div class="row end">
        <button type="button" @click=${() => this.#back()}>${t("review.back")}<kbd>←</kbd></button>
        <button type="button" class="primary" @click=${() => this.#restart()}>${t("review.again")}</button>
      </div>`);
    }
    if (filtered && any) {
      return empty(t("review.none_here"), t("review.none_here_text"), html`<a class="button" href="#/review">${t("review.show_all")}</a>`);
    }
    if (any && this.counts) {
      return empty(t("review.done"), t("review.done_text"), html`<div class="row end">
        ${this.at ? html`<button type="button" @click=${() => this.#back()}>${t("review.back")}<kbd>←</kbd></button>` : nothing}
        <a class="button" href="#/review?tab=all">${t("review.tab_all")}</a>
        <a class="button" href="#/review?tab=rates">${t("review.tab_rates")}</a>
      </div>`);
    }
    return empty(t("review.empty"), t("review.empty_text", { time: duration(14 * 86400) }), html`
      <ol class="ways">
        <li>${t("review.empty_flash")}</li>
        <li>${t("review.empty_switch")}</li>
        <li>${t("review.empty_wait")}</li>
      </ol>
      <a class="button primary" href="#/devices">${t("review.to_devices")}</a>`);
  }
}
customElements.define("mww-review-queue", ReviewQueue);

function remembered() {
  try {
    return localStorage.getItem(AUTOPLAY) === "yes";
  } catch {
    return false; // private windows may have no storage
  }
}

/** @type {WeakMap<object, import("../lib/sound.js").Trace>} one for each score, so that it is drawn once */
const traces = new WeakMap();

/** @param {Schemas["ScoreView"]} score @param {number} trigger_s */
function keep(score, trigger_s) {
  const made = traceOf(score, trigger_s);
  traces.set(score, made);
  return made;
}

/** @param {Schemas["Capture"]} capture @returns {Entry} */
const entryOf = (capture) => ({ id: capture.id, capture, detail: null, asked: null, problem: null });
