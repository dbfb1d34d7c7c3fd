/**
 * Record: who agreed, how far they are, and the way to a microphone. "#/record" is the list, "#/record/NAME" a person;
 * with ?sitting=ID the session at the browser's microphone, with ?session=ID the one on a satellite, by=files files.
 */
import { html, nothing } from "../vendor/lit.js";
import { get, post } from "../lib/api.js";
import { duration, moment, number, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { whyNoMicrophone } from "../lib/microphone.js";
import { Loaded, View, asProblem, attempt, confirm, empty, go, note, showProblem } from "../lib/ui.js";
import { noMicrophone } from "./record_booth.js";
import "./record_files.js";
import { PLACES, personLink, placeText, whatNext } from "./record_parts.js";
import "./record_satellite.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */
/** @typedef {Schemas["PersonView"]} Person */

const KEY = "mww-ha-record";

/** @returns {{way?: string, takes?: number}} what was chosen last in this browser */
function remembered() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "{}");
  } catch {
    return {};
  }
}

class Record extends View {
  static properties = {
    way: { state: true },
    places: { state: true },
    own: { state: true },
    takes: { state: true },
    busy: { state: true },
    problem: { state: true },
    name: { state: true },
  };

  constructor() {
    super();
    const last = remembered();
    this.way = last.way ?? "";
    this.takes = last.takes ?? 20;
    this.places = Object.values(PLACES);
    this.own = "";
    this.name = "";
    this.busy = false;
    /** @type {import("../lib/api.js").Problem | null} */
    this.problem = null;
    this.people = new Loaded(this, (signal) => /** @type {Promise<Schemas["People"]>} */ (get("api/people", signal)));
    this.me = new Loaded(this, (signal) => /** @type {Promise<Schemas["Me"]>} */ (get("api/me", signal)));
    this.microphones = new Loaded(
      this,
      (signal) => /** @type {Promise<Schemas["MicrophoneView"][]>} */ (get("api/microphones", signal)),
    );
    this.recordings = new Loaded(
      this,
      (signal) => /** @type {Promise<Schemas["RecordingView"][]>} */ (get("api/recordings", signal)),
    );
  }

  connectedCallback() {
    super.connectedCallback();
    this.hear(["people"], () => this.people.soon());
    this.hear(["recording"], () => this.recordings.soon());
    this.hear(["settings"], () => this.microphones.soon());
  }

  /** @param {Map<string, unknown>} changed */
  willUpdate(changed) {
    if (changed.has("path")) this.problem = null;
  }

  render() {
    const [name] = this.path;
    if (!name) return this.people.show((people) => this.#list(people));
    if (this.params["sitting"]) return html`<mww-booth sitting=${this.params["sitting"]}></mww-booth>`;
    if (this.params["session"]) {
      return html`<mww-satellite-session session=${this.params["session"]}></mww-satellite-session>`;
    }
    return this.people.show((people) => {
      const one = people.people.find((other) => other.person.name.toLowerCase() === name.toLowerCase());
      return one
        ? this.#person(one, people)
        : empty(
            t("record.unknown", { person: name }),
            t("record.unknown_text"),
            html`<a class="button" href="#/record">${t("record.to_people")}</a>`,
          );
    });
  }

  // --- the list

  /** @param {Schemas["People"]} people */
  #list(people) {
    return html`<div class="stack">
      ${this.#running()}
      ${people.people.length
        ? html`<p>
              ${t("record.recorded", { count: people.recorded })} ${whatNext(people.recorded, people.wanted_people)}
            </p>
            <div class="cards">${people.people.map((one) => this.#card(one))}</div>`
        : empty(t("record.nobody"), t("record.nobody_text"))}
      ${this.#add()}
    </div>`;
  }

  /**
   * What records now, and what has just ended before it was done: nobody may have looked.
   * @param {string} [name] those of one person only
   */
  #running(name) {
    /** @param {Schemas["RecordingView"]} one */
    const isOfInterest = (one) =>
      !one.ended_at || (!one.finished && one.why !== "stopped" && Date.now() - Date.parse(one.ended_at) < 3600_000);
    return (this.recordings.value ?? [])
      .filter((one) => isOfInterest(one) && (!name || one.person === name))
      .map((one) => {
        const said = { person: one.person, device: one.name };
        return html`<p class="banner row" role="status">
          <span class="grow">${one.ended_at ? t("record.ended_early", said) : t("record.now_recording", said)}</span>
          <a class="button" href=${personLink(one.person, { session: one.id })}>${t("record.look")}</a>
        </p>`;
      });
  }

  /** @param {Person} one */
  #card(one) {
    const name = one.person.name;
    const ready = one.good >= one.wanted;
    return html`<article class="card person" aria-label=${name}>
      <header>
        <h2><a href=${personLink(name)}>${name}</a></h2>
        <span class="grow"></span>
        ${ready
          ? html`<span class="tag good">${t("record.takes_of", { count: one.good })}</span>`
          : html`<span class="tag">${t("record.of", { done: one.good, total: one.wanted })}</span>`}
      </header>
      <progress
        max=${one.wanted}
        .value=${Math.min(one.good, one.wanted)}
        aria-label=${t("record.progress", { person: name })}
      ></progress>
      <p class="muted">
        ${t("record.agreed_on", { date: moment(one.person.consented_at) })}${one.person.may_share
          ? html` · ${t("record.may_share")}`
          : nothing}
      </p>
      <div class="row between">
        <a class="button ${ready ? "" : "primary"}" href=${personLink(name)}>
          ${icon("microphone")} ${one.open_left ? t("record.go_on") : t("record.record")}
        </a>
        <button type="button" class="plain danger" aria-label=${t("record.forget_who", { person: name })} @click=${() => this.#forget(name)}>
          ${icon("trash")}
        </button>
      </div>
    </article>`;
  }

  #add() {
    const name = this.name.trim();
    return html`<form class="card narrow" @submit=${this.#agree}>
      <h2>${t("record.add")}</h2>
      <label>
        ${t("record.name")}
        <input
          name="name"
          required
          maxlength="80"
          autocomplete="off"
          .value=${this.name}
          @input=${(/** @type {Event} */ event) => (this.name = /** @type {HTMLInputElement} */ (event.target).value)}
        />
      </label>
      <p>${t("record.consent_text")}</p>
      <label class="choice">
        <input type="checkbox" name="agrees" required />
        <span>${t("record.agrees", { person: name || t("record.this_person") })}</span>
      </label>
      <label class="choice">
        <input type="checkbox" name="may_share" />
        <span>${t("record.may_leave")}<small>${t("record.may_leave_text")}</small></span>
      </label>
      <label>
        ${t("record.noted_by")}
        <input name="noted_by" maxlength="80" autocomplete="off" placeholder=${this.me.value?.user_name || t("record.owner")} />
      </label>
      <p><small>${t("record.consent_hint")}</small></p>
      ${this.problem && !this.path.length ? showProblem(this.problem) : nothing}
      <div class="row end">
        <button class="primary" ?disabled=${this.busy}>${icon("add")} ${t("record.note")}</button>
      </div>
    </form>`;
  }

  /** @param {SubmitEvent} event */
  async #agree(event) {
    event.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
    await this.#run(async () => {
      const view = /** @type {Person} */ (
        await post("api/people", {
          name: form.get("name"), agrees: form.has("agrees"), may_share: form.has("may_share"),
          noted_by: form.get("noted_by") || null,
        })
      );
      this.name = "";
      await this.people.load();
      go(personLink(view.person.name));
    });
  }

  /** @param {() => Promise<unknown>} act */
  async #run(act) {
    this.busy = true;
    this.problem = null;
    try {
      await act();
    } catch (error) {
      this.problem = asProblem(error);
    }
    this.busy = false;
  }

  // --- one person

  /** @param {Person} one @param {Schemas["People"]} people */
  #person(one, people) {
    const way = this.#way();
    return html`<div class="stack">
      <p><a href="#/record">← ${t("record.to_people")}</a></p>
      ${this.#running(one.person.name)}
      <div class="split person">
        <section class="card" aria-labelledby="how">
          <h2 id="how">${t("record.how", { person: one.person.name })}</h2>
          ${this.#microphones(way, one)}
          ${way === "files" ? html`<mww-files .person=${one}></mww-files>` : this.#plan(one, way)}
        </section>
        ${this.#facts(one, people)}
      </div>
    </div>`;
  }

  /** The way that is chosen, as far as it is there: "browser", "files", or "via device". */
  #way() {
    const usable = (this.microphones.value ?? []).filter((one) => one.usable);
    const known = ["files", ...(whyNoMicrophone() ? [] : ["browser"]), ...usable.map(wayOf)];
    if (this.way && (known.includes(this.way) || this.microphones.value === undefined)) return this.way;
    return usable[0] ? wayOf(usable[0]) : whyNoMicrophone() ? "files" : "browser";
  }

  /** @param {string} way @param {Person} one */
  #microphones(way, one) {
    const satellites = this.microphones.value ?? [];
    /** @param {string} value @param {string} title @param {string} text @param {boolean} [disabled] */
    const choice = (value, title, text, disabled = false) => html`<label class="choice">
      <input
        type="radio"
        name="way"
        value=${value}
        .checked=${way === value}
        ?disabled=${disabled}
        @change=${() => {
          this.way = value;
          this.#remember();
        }}
      />
      <span>${title}<small>${text}</small></span>
    </label>`;
    return html`<fieldset>
        <legend>${t("record.microphone")}</legend>
        ${satellites.map((each) =>
          choice(
            wayOf(each),
            [each.name, each.area].filter(Boolean).join(" · "),
            each.usable ? t(`record.via_${each.via.replace("-", "_")}`) : t(`record.obstacle_${each.problem}`),
            !each.usable,
          ),
        )}
        ${this.microphones.problem ? showProblem(this.microphones.problem, () => void this.microphones.load()) : nothing}
        ${choice("browser", t("record.via_browser"), t("record.via_browser_text"), whyNoMicrophone() !== "")}
        ${choice("files", t("record.via_files"), t("record.via_files_text"))}
      </fieldset>
      ${whyNoMicrophone() ? noMicrophone("") : nothing}`;
  }

  #remember() {
    try {
      localStorage.setItem(KEY, JSON.stringify({ way: this.way, takes: this.takes }));
    } catch {
      // private windows may have no storage
    }
  }

  /** @param {Person} one @param {string} way */
  #plan(one, way) {
    return html`
      ${one.open_left
        ? html`<div class="warning">
            <p>${t("record.begun", { count: one.open_left })}</p>
            <button type="button" class="primary" ?disabled=${this.busy} @click=${() => this.#begin(one, way, one.open_sitting)}>
              ${t("record.go_on")}
            </button>
          </div>`
        : nothing}
      <form
        @submit=${(/** @type {SubmitEvent} */ event) => {
          event.preventDefault();
          void this.#begin(one, way, "");
        }}
      >
        <fieldset>
          <legend>${t("record.places")}</legend>
          <small>${t("record.places_text")}</small>
          ${Object.values(PLACES).map(
            (place) => html`<label class="choice">
              <input
                type="checkbox"
                .checked=${this.places.includes(place)}
                @change=${() =>
                  (this.places = Object.values(PLACES).filter((each) => this.places.includes(each) !== (each === place)))}
              />
              <span>${placeText(place)}</span>
            </label>`,
          )}
          <label>
            ${t("record.own_place")}
            <input
              name="place"
              maxlength="80"
              autocomplete="off"
              .value=${this.own}
              @input=${(/** @type {Event} */ event) => (this.own = /** @type {HTMLInputElement} */ (event.target).value)}
            />
          </label>
        </fieldset>
        <label>
          ${t("record.how_often")}
          <input
            name="takes"
            type="number"
            min="1"
            max="500"
            required
            .value=${String(this.takes)}
            @input=${(/** @type {Event} */ event) => (this.takes = Number(/** @type {HTMLInputElement} */ (event.target).value))}
          />
          <small>${t("record.how_often_text")}</small>
        </label>
        ${this.problem ? showProblem(this.problem) : nothing}
        <button class="big ${one.open_left ? "" : "primary"}" ?disabled=${this.busy}>
          ${icon("microphone")} ${t("record.begin")}
        </button>
      </form>
    `;
  }

  /** @param {Person} one @param {string} way @param {string} sitting one to go on with */
  async #begin(one, way, sitting) {
    const person = one.person.name;
    const own = this.own.trim();
    const places = [...this.places, ...(own ? [own] : [])];
    const plan = { person, takes: sitting ? one.open_left : this.takes, places: places.length ? places : [""] };
    this.#remember();
    await this.#run(async () => {
      if (way === "browser") {
        const begun = sitting || /** @type {Schemas["SittingView"]} */ (await post("api/sittings", plan)).sitting;
        go(personLink(person, { sitting: begun }));
        return;
      }
      const [via, ...device] = way.split(" ");
      const begun = /** @type {Schemas["RecordingView"]} */ (
        await post("api/recordings", { ...plan, via, device: device.join(" "), sitting: sitting || null })
      );
      go(personLink(person, { session: begun.id }));
    });
  }

  /** @param {Person} one @param {Schemas["People"]} people */
  #facts(one, people) {
    const person = one.person;
    return html`<section class="card" aria-labelledby="facts">
      <header>
        <h2 id="facts">${person.name}</h2>
        <span class="tag ${one.good >= one.wanted ? "good" : ""}"
          >${t("record.of", { done: one.good, total: one.wanted })}</span
        >
      </header>
      <progress max=${one.wanted} .value=${Math.min(one.good, one.wanted)} aria-label=${t("record.progress", { person: person.name })}></progress>
      <p>${one.good >= one.wanted ? whatNext(people.recorded, people.wanted_people) : t("record.left_text", { count: one.wanted - one.good })}</p>
      <dl class="facts">
        <dt>${t("record.agreed")}</dt>
        <dd>${t("record.agreed_by", { date: moment(person.consented_at), by: person.noted_by })}</dd>
        <dt>${t("record.purpose")}</dt>
        <dd>${person.purpose === people.purpose ? t("record.purpose_usual") : person.purpose}</dd>
        <dt>${t("record.good_takes")}</dt>
        <dd>${number(one.good)}</dd>
        <dt>${t("record.refused_takes")}</dt>
        <dd>${number(one.refused)}</dd>
        ${one.microphones.length
          ? html`<dt>${t("record.microphones")}</dt>
              <dd>${one.microphones.map((name) => (name === "browser" || name === "file" ? t(`record.by_${name}`) : name)).join(", ")}</dd>`
          : nothing}
        ${one.other
          ? html`<dt>${t("record.other_clips")}</dt>
              <dd>${number(one.other)}</dd>`
          : nothing}
        ${one.last_at
          ? html`<dt>${t("record.last")}</dt>
              <dd>${moment(one.last_at)}</dd>`
          : nothing}
      </dl>
      ${one.places.length
        ? html`<h3>${t("record.places")}</h3>
            <dl class="facts counts">
              ${one.places.map(
                (place) => html`<dt>${placeText(place.place)}</dt>
                  <dd class="number">${number(place.takes)}</dd>`,
              )}
            </dl>`
        : nothing}
      <label class="choice switch">
        <input type="checkbox" .checked=${person.may_share} @change=${(/** @type {Event} */ event) => this.#share(one, event)} />
        <span>${t("record.may_leave")}</span>
      </label>
      <button type="button" class="danger" @click=${() => this.#forget(person.name)}>
        ${icon("trash")} ${t("record.forget")}
      </button>
    </section>`;
  }

  /** @param {Person} one @param {Event} event */
  async #share(one, event) {
    const box = /** @type {HTMLInputElement} */ (event.target);
    const may_share = box.checked;
    const said = await attempt(() =>
      post("api/people", { name: one.person.name, agrees: true, purpose: one.person.purpose, may_share, replace: true }),
    );
    if (!said) box.checked = !may_share;
    else {
      note(t("record.noted"));
      void this.people.load();
    }
  }

  /** @param {string} name */
  async #forget(name) {
    const traces = /** @type {Schemas["Traces"] | undefined} */ (await attempt(() => post("api/people/look", { name })));
    if (!traces) return;
    const what = [
      t("record.forget_text", {
        clips: traces.clips, captures: traces.captures, length: duration(traces.duration_s),
      }),
      traces.models.length ? t("record.forget_models", { models: traces.models.join(", ") }) : "",
      t("record.forget_final"),
    ];
    const yes = await confirm({
      title: t("record.forget_title", { person: name }),
      text: what.filter(Boolean).join(" "),
      yes: t("record.forget"),
      danger: true,
    });
    if (!yes) return;
    const gone = /** @type {Schemas["Forgotten"] | undefined} */ (
      await attempt(() => post("api/people/forget", { name }))
    );
    if (!gone) return;
    const named = gone.still_named.length ? t("record.still_named", { files: gone.still_named.join(", ") }) : "";
    note([t("record.forgotten", { person: name, files: gone.files }), named].filter(Boolean).join(" "), {
      stay_ms: named ? 15000 : 6000,
    });
    await this.people.load();
    if (this.path.length) go("#/record");
  }
}

/** @param {Schemas["MicrophoneView"]} one */
const wayOf = (one) => `${one.via} ${one.device}`;

customElements.define("mww-record", Record);
