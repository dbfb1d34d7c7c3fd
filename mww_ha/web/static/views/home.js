/** Home: the wake words, how they do, what is at work, and what to do next. */
import { html, nothing } from "../vendor/lit.js";
import { get, post } from "../lib/api.js";
import { ago, duration, interval, number, percent, size, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { ENDED, Loaded, View, attempt, start, watchJobs } from "../lib/ui.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */
/** @typedef {Schemas["Home"]} HomeTold */
/** @typedef {Schemas["HomeStep"]} Step */
/** @typedef {Schemas["WakeWord"]} Word */
/** @typedef {{link: string} | {order: Record<string, unknown>} | {retry: string}} Way */

/** On the way from a phrase to a wake word that the house knows. */
const ROAD = /** @type {const} */ (["make", "satellite", "people", "listen"]);

/** Two digits where it is small, none after the point where it is large. @param {number} value */
const short = (value) => (value >= 10 ? number(value, 0) : value >= 0.05 || value === 0 ? number(value, 1) : number(value, 3));

/** @param {number} hours */
const long = (hours) => number(hours, hours >= 10 ? 0 : 1);

/**
 * How the step is done: by a view, by a job that begins here, or by one that is run again.
 * @param {Step} step @returns {Way}
 */
function wayOf(step) {
  const device = `#/devices/${encodeURIComponent(step.device)}`;
  /** @type {Record<Step["kind"], Way>} */
  const ways = {
    add_device: { link: "#/devices?add" },
    confirm: { order: { kind: "confirm", device: step.device } },
    devices_broken: { link: "#/devices" },
    disk_low: { link: "#/settings/storage" },
    download_voice: { order: { kind: "download_voice", name: step.voice } },
    failed: { retry: step.job },
    flash: { link: device },
    flash_failed: { link: device },
    install_training: step.job_kind ? { order: { kind: step.job_kind } } : { link: "#/settings/training" },
    learn: { order: { kind: "retrain" } },
    make_model: { order: { kind: "run" } },
    more_effort: { link: "#/train" },
    record_people: { link: "#/record" },
    record_takes: { link: `#/record/${encodeURIComponent(step.person)}` },
    resume: { retry: step.job },
    review: { link: "#/review" },
    train_again: { order: { kind: "run" } },
    turn_on_captures: { link: device },
  };
  return ways[step.kind];
}

class HomeView extends View {
  static properties = { busy: { state: true }, all: { state: true } };

  constructor() {
    super();
    this.busy = "";
    this.all = false;
    this.home = /** @type {Loaded<HomeTold>} */ (new Loaded(this, (signal) => get("api/home", signal)));
    this.jobs = watchJobs(this);
  }

  connectedCallback() {
    super.connectedCallback();
    this.hear(["judged", "deleted", "expired", "capture", "recording", "people", "settings"], () => this.home.soon(500));
    this.hear(["job"], (job) => {
      // What runs tells of each step of its progress; only a change of its state can change what is to do.
      if (!job || job.state !== "running" || !job.progress) this.home.soon(300);
    });
  }

  render() {
    return this.home.show((home) => html`<div class="stack">${this.#work()}${this.#next(home)}${this.#words(home)}</div>`);
  }

  // --- what is at work

  #work() {
    const jobs = (this.jobs.value ?? []).filter((job) => !ENDED.includes(job.state));
    if (!jobs.length) return nothing;
    return html`<section class="stack" aria-label=${t("home.at_work")}>
      <h2>${t("home.at_work")}</h2>
      ${jobs.map((job) => html`<mww-job .job=${job}></mww-job>`)}
    </section>`;
  }

  // --- what to do next

  /** @param {HomeTold} home */
  #next(home) {
    const [first, ...rest] = home.steps;
    const busy = (this.jobs.value ?? []).some((job) => !ENDED.includes(job.state));
    const shown = this.all ? rest : rest.slice(0, 5);
    return html`<section class="card next" aria-labelledby="next">
      <h2 id="next" class=${first ? "eyebrow" : ""}>${first ? t("home.next") : busy ? t("home.wait") : t("home.nothing")}</h2>
      ${first
        ? this.#first(first, home)
        : html`<p class="muted">${busy ? t(home.models ? "home.wait_text" : "home.wait_first_text") : t("home.nothing_text")}</p>`}
      ${home.models ? nothing : this.#road(home)}
      ${shown.length
        ? html`<h3>${t("home.then")}</h3>
            <ul class="steps">
              ${shown.map((step) => this.#step(step, home))}
            </ul>`
        : nothing}
      ${rest.length > shown.length
        ? html`<button type="button" class="plain" @click=${() => (this.all = true)}>
            ${t("home.more", { count: rest.length - shown.length })}
          </button>`
        : nothing}
    </section>`;
  }

  /** @param {Step} step @param {HomeTold} home */
  #first(step, home) {
    const warns = ["disk_low", "devices_broken", "failed", "flash_failed"].includes(step.kind);
    return html`<div class="first">
      <div class="grow">
        <h3 class="lead ${warns ? "warn" : ""}">${this.#title(step)}</h3>
        <p>${this.#text(step, home)}</p>
      </div>
      ${this.#action(step, "primary big")}
    </div>`;
  }

  /** @param {Step} step @param {HomeTold} home */
  #step(step, home) {
    return html`<li>
      <div class="grow">
        <strong>${this.#title(step)}</strong>
        <p class="muted">${this.#text(step, home)}</p>
      </div>
      ${this.#action(step, "")}
    </li>`;
  }

  /** @param {Step} step */
  #values(step) {
    return {
      count: step.number, device: step.device, model: step.model, person: step.person, voice: step.voice,
      free: size(step.number), work: step.job_kind ? t(`job.${step.job_kind}`) : "",
    };
  }

  /** @param {Step} step */
  #title(step) {
    return t(`home.step_${step.kind}`, this.#values(step));
  }

  /** @param {Step} step @param {HomeTold} home */
  #text(step, home) {
    if (["failed", "flash_failed", "devices_broken", "install_training"].includes(step.kind) && step.message) {
      return [step.message, step.hint].filter(Boolean).join(" – ");
    }
    const effort = t(`effort.${home.effort}_text`);
    return t(`home.text_${step.kind}`, { ...this.#values(step), phrase: home.phrase, effort });
  }

  /** @param {Step} step @param {string} kind of button */
  #action(step, kind) {
    const way = wayOf(step);
    const label = t(`home.do_${step.kind}`);
    const whole = `${label}: ${this.#title(step)}`;
    if ("link" in way) return html`<a class="button ${kind}" href=${way.link} aria-label=${whole}>${label}</a>`;
    return html`<button
      type="button"
      class=${kind}
      aria-label=${whole}
      ?disabled=${this.busy === step.kind}
      @click=${() => this.#do(step, way)}
    >
      ${label}
    </button>`;
  }

  /** @param {Step} step @param {Way} way */
  async #do(step, way) {
    this.busy = step.kind;
    if ("order" in way) await start(way.order);
    else if ("retry" in way) await attempt(() => post(`api/jobs/${way.retry}/retry`));
    await Promise.all([this.home.load(), this.jobs.load()]);
    this.busy = "";
    // The button is gone; whoever works with the keyboard goes on where the work is shown.
    /** @type {HTMLElement | null} */ (this.closest("main"))?.focus({ preventScroll: true });
  }

  /** @param {HomeTold} home */
  #road(home) {
    return html`<ol class="road" aria-label=${t("home.road")}>
      ${ROAD.map((part, index) => {
        const here = index === 0;
        return html`<li aria-current=${here ? "step" : "false"}>
          <span class="mark" aria-hidden="true">${index + 1}</span>
          <span><strong>${t(`home.road_${part}`)}</strong><small>${t(`home.road_${part}_text`, { phrase: home.phrase })}</small></span>
        </li>`;
      })}
    </ol>`;
  }

  // --- the wake words

  /** @param {HomeTold} home */
  #words(home) {
    return html`<section class="stack" aria-label=${t("home.words")}>
      <h2>${t("home.words")}</h2>
      <div class="cards words">${home.words.map((word) => this.#word(word))}</div>
    </section>`;
  }

  /** @param {Word} word */
  #word(word) {
    return html`<article class="card word">
      <header>
        <h3>${t("home.quoted", { phrase: word.phrase })}</h3>
        ${word.is_current ? nothing : html`<span class="tag">${t("home.other_word")}</span>`}
      </header>
      ${word.model
        ? html`<div class="figures">${this.#woke(word)}${this.#heard(word)}</div>`
        : html`<p class="muted">${t(word.is_current ? "home.no_model" : "home.foreign_model")}</p>`}
      ${this.#places(word)}
      ${word.recall.length
        ? html`<details>
            <summary>${t("home.takes")}</summary>
            <dl class="facts">
              ${word.recall.map(
                (one) => html`<dt>${one.person || t("home.nobody")}</dt>
                  <dd>${interval(one.recall)}${one.unscored ? html` · ${t("home.unscored", { count: one.unscored })}` : nothing}</dd>`,
              )}
            </dl>
          </details>`
        : nothing}
      ${word.model
        ? html`<p class="muted model">
            <a href="#/models/${word.model}">${word.model}</a>${word.made_at ? html` · ${t("home.trained", { when: ago(word.made_at) })}` : nothing}
          </p>`
        : nothing}
    </article>`;
  }

  /** How often it woke wrongly: in the house, or else on recordings. @param {Word} word */
  #woke(word) {
    const { rate, report } = word;
    if (rate?.per_hour && rate.hours >= 1) {
      const a_day = rate.per_hour;
      const values = {
        count: rate.false_accepts, hours: long(rate.hours), low: short(24 * a_day.low), high: short(24 * a_day.high),
      };
      const more = [
        rate.unjudged ? t("home.unjudged", { count: rate.unjudged }) : "",
        rate.lost ? t("home.lost", { count: rate.lost }) : "",
        rate.model === word.model ? "" : t("home.rate_of", { model: rate.model }),
      ].filter(Boolean);
      return html`<div>
        <h4>${t("home.woke")}</h4>
        <p class="figure">${t("home.a_day", { value: short(24 * a_day.value) })}</p>
        <p>${t("home.woke_text", values)}</p>
        ${more.length ? html`<p class="muted">${more.join(" · ")}</p>` : nothing}
      </div>`;
    }
    if (rate) {
      return html`<div>
        <h4>${t("home.woke")}</h4>
        <p class="figure">–</p>
        <p>${t("home.woke_too_little", { count: rate.false_accepts, time: duration(rate.hours * 3600) })}</p>
      </div>`;
    }
    const measured = report?.rate;
    return html`<div>
      <h4>${t("home.woke")}</h4>
      ${measured
        ? html`<p class="figure">${t("home.an_hour", { value: short(measured.value) })}</p>
            <p>${t("home.woke_measured", {
              count: measured.events, hours: long(measured.exposure), low: short(measured.low), high: short(measured.high),
            })}</p>
            <p class="muted">${t("home.on_recordings", { sound: report?.sound ?? "" })}</p>`
        : html`<p class="figure">–</p><p>${t("app.no_figure")}</p>`}
    </div>`;
  }

  /** @param {Word} word */
  #heard(word) {
    const recall = word.report?.recall;
    return html`<div>
      <h4>${t("home.heard")}</h4>
      ${recall
        ? html`<p class="figure">${percent(recall.value)}</p>
            <p>${t("home.heard_text", {
              count: recall.events, of: Math.round(recall.exposure), low: number(100 * recall.low, 0), high: percent(recall.high),
            })}</p>
            <p class="muted">${t("home.heard_on")}</p>`
        : html`<p class="figure">–</p><p>${t("app.no_figure")}</p>`}
    </div>`;
  }

  /** @param {Word} word */
  #places(word) {
    if (!word.devices.length && !word.also_on.length) {
      return word.model ? html`<p class="muted">${t("home.runs_nowhere")}</p>` : nothing;
    }
    return html`<ul class="places" aria-label=${t("home.runs_on")}>
      ${word.devices.map(
        (device) => html`<li>
          ${icon("device")}<a href="#/devices/${device.name}">${device.friendly_name || device.name}</a>
          ${device.is_newest
            ? html`<span class="tag good">${t("home.newest")}</span>`
            : html`<span class="tag warn">${t("home.older")}</span>`}
        </li>`,
      )}
      ${word.also_on.map(
        (name) => html`<li>${icon("device")}<a href="#/devices/${name}">${name}</a><span class="tag">${t("home.beside")}</span></li>`,
      )}
    </ul>`;
  }
}
customElements.define("mww-home", HomeView);
