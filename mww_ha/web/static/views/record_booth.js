/** `<mww-booth sitting=ID>`: the guided session at the browser's own microphone. */
import { createRef, html, nothing, ref } from "../vendor/lit.js";
import { get, remove, send } from "../lib/api.js";
import { number, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { Microphone, WordEnd, levelOf, whyNoMicrophone, writeWav } from "../lib/microphone.js";
import { Loaded, View, asProblem, attempt, showProblem } from "../lib/ui.js";
import { dots, personLink, placeText, play, verdict, whatNext } from "./record_parts.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */
/** @typedef {"closed" | "opening" | "ready" | "moving" | "count" | "recording" | "sending"} Phase */

const COUNT_S = 1.2;
const LEAD_S = 0.5; // recorded before somebody is told to speak, so that no beginning is cut off
const WALK_S = 8;
const PAUSE_S = 1.6;

class Booth extends View {
  static properties = {
    sitting: { type: String },
    phase: { state: true },
    left: { state: true },
    trouble: { state: true },
    problem: { state: true },
    handsFree: { state: true },
  };

  constructor() {
    super();
    this.sitting = "";
    /** @type {Phase} */
    this.phase = "closed";
    this.left = 0;
    this.trouble = "";
    /** @type {import("../lib/api.js").Problem | null} */
    this.problem = null;
    this.handsFree = false;
    /** @type {Microphone | null} */
    this.microphone = null;
    /** @type {Schemas["TakeView"] | null} */
    this.last = null;
    this.lastSound = "";
    /** @type {Blob | undefined} */
    this.sound = undefined;
    this.end = new WordEnd();
    this.told_ms = 0;
    /** @type {ReturnType<typeof setTimeout>[]} */
    this.timers = [];
    this.meter = createRef();
    this.button = createRef();
    this.loaded = new Loaded(
      this,
      (signal) => /** @type {Promise<Schemas["SittingView"]>} */ (get(`api/sittings/${this.sitting}`, signal)),
    );
    this.people = new Loaded(this, (signal) => /** @type {Promise<Schemas["People"]>} */ (get("api/people", signal)));
  }

  connectedCallback() {
    super.connectedCallback();
    this.while(window, "keydown", (event) => this.#key(event));
    // Sound needs a click on this page; whoever came by the button has made one.
    if (navigator.userActivation?.hasBeenActive && !whyNoMicrophone()) void this.#open();
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.#clear();
    this.microphone?.close();
    this.microphone = null;
    this.phase = "closed";
    if (this.lastSound) URL.revokeObjectURL(this.lastSound);
  }

  #clear() {
    this.timers.splice(0).forEach(clearTimeout);
  }

  /** @param {number} seconds @param {() => unknown} act */
  #later(seconds, act) {
    this.timers.push(setTimeout(act, 1000 * seconds));
  }

  // --- the microphone

  async #open() {
    const why = whyNoMicrophone();
    if (why) {
      this.trouble = why;
      return;
    }
    this.phase = "opening";
    this.trouble = "";
    try {
      const microphone = await Microphone.open();
      if (!this.isConnected) {
        microphone.close();
        return;
      }
      this.microphone = microphone;
      microphone.addEventListener("samples", (event) => this.#hear(/** @type {CustomEvent} */ (event).detail));
      microphone.addEventListener("lost", () => this.#lose());
      this.phase = "ready";
      await this.updateComplete;
      this.#focus();
    } catch (error) {
      const name = error instanceof Error ? error.name : "";
      const known = { NotAllowedError: "denied", NotFoundError: "none", NotReadableError: "busy" };
      this.trouble = known[/** @type {keyof typeof known} */ (name)] ?? "none";
      this.phase = "closed";
    }
  }

  #lose() {
    this.#clear();
    this.microphone?.close();
    this.microphone = null;
    this.phase = "closed";
    this.trouble = "lost";
  }

  #focus() {
    /** @type {HTMLElement | undefined} */ (this.button.value)?.focus({ preventScroll: true });
  }

  /** @param {Float32Array} samples */
  #hear(samples) {
    const level = levelOf(samples);
    const meter = /** @type {HTMLElement | undefined} */ (this.meter.value);
    if (meter) {
      const bar = /** @type {HTMLElement} */ (meter.firstElementChild);
      bar.style.transform = `scaleX(${Math.max(0, Math.min(1, (level + 65) / 65))})`;
      bar.className = samples.some((sample) => Math.abs(sample) > 0.98) ? "loud" : level > -45 ? "fine" : "";
      if (performance.now() - this.told_ms > 100) {
        this.told_ms = performance.now();
        meter.setAttribute("aria-valuenow", String(Math.round(level)));
      }
    }
    if (this.phase === "recording" && this.end.hear(level, samples.length / (this.microphone?.rate ?? 1))) {
      void this.#finish();
    }
  }

  // --- one take

  /** Counts down and records; at a new place there is time to go there when nobody is at the keyboard. */
  #begin() {
    if (!this.microphone || !this.loaded.value?.next) return;
    this.#clear();
    this.problem = null;
    this.last = null;
    this.phase = "count";
    this.left = 2;
    this.#later(COUNT_S / 2, () => (this.left = 1));
    this.#later(COUNT_S - LEAD_S, () => this.microphone?.begin());
    this.#later(COUNT_S, () => {
      this.end = new WordEnd();
      this.phase = "recording";
      this.#countDown(this.loaded.value?.take_s ?? 4, () => this.#finish());
    });
  }

  /** @param {number} seconds @param {() => unknown} act when they are over; meanwhile `left` says how many are left */
  #countDown(seconds, act) {
    this.left = Math.ceil(seconds);
    if (seconds <= 0) act();
    else this.#later(Math.min(1, seconds), () => this.#countDown(seconds - 1, act));
  }

  async #finish() {
    if (this.phase !== "recording" || !this.microphone) return;
    this.sound = writeWav(this.microphone.end(), this.microphone.rate);
    if (this.lastSound) URL.revokeObjectURL(this.lastSound);
    this.lastSound = URL.createObjectURL(this.sound);
    await this.#send(this.sound);
  }

  /** @param {Blob} sound that stays here until the service has it */
  async #send(sound) {
    this.#clear();
    this.phase = "sending";
    this.problem = null;
    try {
      const take = /** @type {Schemas["TakeView"]} */ (
        await send(`api/sittings/${this.sitting}/takes`, sound, "application/octet-stream")
      );
      this.last = take;
      this.loaded.value = take.sitting;
    } catch (error) {
      this.problem = asProblem(error);
    }
    this.phase = "ready";
    const next = this.loaded.value?.next;
    if (!next) void this.people.load();
    else if (this.handsFree && !this.problem) this.#goOn(this.last?.good && next.first ? WALK_S : PAUSE_S);
    this.requestUpdate();
  }

  /** @param {number} wait_s */
  #goOn(wait_s) {
    if (wait_s === PAUSE_S) {
      this.#later(wait_s, () => this.#begin());
      return;
    }
    this.#later(PAUSE_S, () => {
      this.phase = "moving";
      this.#countDown(wait_s, () => this.#begin());
    });
  }

  #cancel() {
    this.#clear();
    this.microphone?.end();
    this.phase = "ready";
  }

  /** The big button: record, or end what is going on. */
  #press() {
    if (this.phase === "ready") this.#begin();
    else if (this.phase === "recording") void this.#finish();
    else if (this.phase === "count" || this.phase === "moving") this.#cancel();
  }

  /** The last take is taken back, if it was kept, and recorded anew. */
  async #redo() {
    if (this.phase !== "ready" || !this.last) return;
    this.#clear();
    const clip = this.last.clip;
    if (clip && !(await this.#takeBack(clip))) return;
    this.#begin();
    this.#focus();
  }

  /** @param {string} clip @returns {Promise<boolean>} */
  async #takeBack(clip) {
    const sitting = await attempt(() => remove(`api/takes/${clip}`));
    if (!sitting) return false;
    this.loaded.value = /** @type {Schemas["SittingView"]} */ (sitting);
    if (this.last?.clip === clip) this.last = null;
    this.requestUpdate();
    return true;
  }

  #next() {
    if (this.phase !== "ready" || !this.last) return;
    this.#begin();
    this.#focus();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const at = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || at.closest("input, select, textarea, dialog")) return;
    const keys = /** @type {Record<string, () => unknown>} */ ({
      " ": () => this.#press(),
      r: () => this.#redo(),
      n: () => this.#next(),
      p: () => this.lastSound && this.last && play(this.lastSound),
    });
    const act = keys[event.key.toLowerCase()];
    if (!act || !this.microphone) return;
    // A button that has the focus is pressed by the space bar itself.
    if (event.key === " " && at.closest("button, a, summary") && at !== this.button.value) return;
    event.preventDefault();
    act();
  }

  // --- drawing

  render() {
    return this.loaded.show((sitting) => (sitting.next ? this.#draw(sitting) : this.#drawEnd(sitting)));
  }

  /** @param {Schemas["SittingView"]} sitting */
  #drawEnd(sitting) {
    const people = this.people.value;
    return html`<section class="card booth done">
      <h2>${t("record.done", { count: sitting.taken, person: sitting.person })}</h2>
      ${dots(sitting)}
      ${people ? html`<p>${whatNext(people.recorded, people.wanted_people)}</p>` : nothing}
      ${this.last ? verdict(this.last) : nothing}
      <div class="row">
        <a class="button primary" href="#/record">${t("record.next_person")}</a>
        <a class="button" href="#/train">${t("record.to_training")}</a>
        <a class="button" href=${personLink(sitting.person)}>${t("record.to_person", { person: sitting.person })}</a>
      </div>
      ${this.#takes(sitting)}
    </section>`;
  }

  /** @param {Schemas["SittingView"]} sitting */
  #draw(sitting) {
    const busy = this.phase === "count" || this.phase === "recording" || this.phase === "moving";
    return html`<section class="card booth ${this.phase}">
      <header>
        <h2>${t("record.take_of", { number: sitting.next?.number ?? 0, total: sitting.wanted })}</h2>
        <span class="muted grow">${sitting.person}</span>
        <a class="button" href=${personLink(sitting.person)}>${t("record.leave")}</a>
      </header>
      ${dots(sitting)}
      <div class="stage">
        <p class="say" role="status" aria-live="assertive">${this.#instruction(sitting)}</p>
        <p class="phrase">${sitting.phrase}</p>
        <p class="count" aria-hidden="true">${busy ? number(this.left) : nothing}</p>
      </div>
      ${this.microphone ? this.#drawMeter() : this.#drawClosed()}
      ${this.microphone
        ? html`<div class="row acts">
            <button
              type="button"
              class="primary big"
              ${ref(this.button)}
              ?disabled=${this.phase === "sending"}
              @click=${this.#press}
            >
              ${icon(busy ? "stop" : "microphone")} ${busy ? t("record.stop") : t("record.record")}
            </button>
            <button type="button" ?disabled=${this.phase !== "ready" || !this.last} @click=${this.#redo}>
              ${icon("undo")} ${t("record.redo")}
            </button>
            <button type="button" ?disabled=${this.phase !== "ready" || !this.last} @click=${this.#next}>
              ${t("record.next")}
            </button>
            <button type="button" ?disabled=${!this.last} @click=${() => play(this.lastSound)}>
              ${icon("play")} ${t("record.hear")}
            </button>
            <label class="choice switch">
              <input
                type="checkbox"
                .checked=${this.handsFree}
                @change=${(/** @type {Event} */ event) => {
                  this.handsFree = /** @type {HTMLInputElement} */ (event.target).checked;
                  this.#focus();
                }}
              />
              <span>${t("record.hands_free")}</span>
            </label>
          </div>`
        : nothing}
      <div class="told" role="status">
        ${this.problem ? showProblem(this.problem, this.sound && (() => void this.#send(/** @type {Blob} */ (this.sound)))) : nothing}
        ${this.last ? verdict(this.last) : nothing}
        ${this.last && this.last.spoken_s
          ? html`<p class="muted">
              ${t("record.figures", {
                level: Math.round(this.last.level_dbfs),
                over: Math.round(this.last.over_background_db),
                seconds: number(this.last.spoken_s, 1),
              })}
            </p>`
          : nothing}
      </div>
      <p class="keys">
        <span><kbd>${t("record.key_space")}</kbd> ${t("record.record")} / ${t("record.stop")}</span>
        <span><kbd>R</kbd> ${t("record.redo")}</span>
        <span><kbd>N</kbd> ${t("record.next")}</span>
        <span><kbd>P</kbd> ${t("record.hear")}</span>
      </p>
      ${this.#takes(sitting)}
    </section>`;
  }

  /** @param {Schemas["SittingView"]} sitting */
  #instruction(sitting) {
    const place = placeText(sitting.next?.place ?? "");
    switch (this.phase) {
      case "count":
        return t("record.say_soon");
      case "recording":
        return t("record.say_now");
      case "sending":
        return t("record.checking");
      case "moving":
        return t("record.go_to", { place });
      default:
        if (sitting.next?.first && sitting.taken && this.microphone) return t("record.go_to", { place });
        return t("record.say_when", { place });
    }
  }

  #drawMeter() {
    return html`<div
      class="meter"
      role="meter"
      aria-label=${t("record.level")}
      aria-valuemin="-120"
      aria-valuemax="0"
      aria-valuenow="-120"
      ${ref(this.meter)}
    >
      <i></i>
    </div>`;
  }

  #drawClosed() {
    const why = this.trouble || whyNoMicrophone();
    if (why === "insecure") return noMicrophone(this.loaded.value?.person ?? "");
    return html`${why ? html`<div class="warning" role="alert"><p>${t(`record.trouble_${why}`)}</p></div>` : nothing}
      <div class="row acts">
        <button type="button" class="primary big" ?disabled=${this.phase === "opening"} @click=${this.#open}>
          ${icon("microphone")} ${this.phase === "opening" ? t("record.opening") : t("record.open")}
        </button>
      </div>`;
  }

  /** @param {Schemas["SittingView"]} sitting */
  #takes(sitting) {
    if (!sitting.takes.length) return nothing;
    return html`<details>
      <summary>${t("record.kept", { count: sitting.takes.length })}</summary>
      <ul class="takes">
        ${sitting.takes.map(
          (take, index) => html`<li>
            <span class="grow">${number(index + 1)} · ${placeText(take.place)} · ${number(take.duration_s, 1)} s</span>
            <button type="button" class="plain" aria-label=${t("record.hear_take", { number: index + 1 })} @click=${() => play(take.sound)}>
              ${icon("play")}
            </button>
            <button type="button" class="plain" aria-label=${t("record.delete_take", { number: index + 1 })} @click=${() => this.#takeBack(take.clip)}>
              ${icon("trash")}
            </button>
          </li>`,
        )}
      </ul>
    </details>`;
  }
}
customElements.define("mww-booth", Booth);

/** @param {string} person @returns why the browser gives no microphone to a page that came by plain HTTP */
export function noMicrophone(person) {
  return html`<div class="warning">
    <p><strong>${t("record.insecure")}</strong></p>
    <p>${t("record.insecure_text")}</p>
    ${person ? html`<p><a href=${personLink(person)}>${t("record.insecure_else")}</a></p>` : nothing}
  </div>`;
}
