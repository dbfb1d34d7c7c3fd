/** `<mww-satellite-session .id=${id}>`: a guided session on a satellite, as the service leads it. */
import { html, nothing } from "../vendor/lit.js";
import { Problem, get, post, remove } from "../lib/api.js";
import { number, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { Loaded, View, attempt, empty, showProblem } from "../lib/ui.js";
import { dots, personLink, placeText, play, reasonText, verdict, whatNext } from "./record_parts.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */
/** @typedef {Schemas["RecordingView"]} Recording */

class SatelliteSession extends View {
  static properties = { session: { type: String }, left: { state: true } };

  constructor() {
    super();
    this.session = "";
    this.left = 0;
    this.until_ms = 0;
    /** @type {string[]} takes that were taken back here */
    this.gone = [];
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.ticker = undefined;
    this.recordings = new Loaded(this, async (signal) => {
      const all = /** @type {Recording[]} */ (await get("api/recordings", signal));
      const one = all.find((other) => other.id === this.session) ?? null;
      this.#watch(one);
      return one;
    });
    /** @type {Loaded<Schemas["SittingView"] | null>} */
    this.sitting = new Loaded(this, async (signal) => {
      const id = this.recordings.value?.sitting;
      return id ? get(`api/sittings/${id}`, signal) : null;
    });
    this.people = new Loaded(this, (signal) => /** @type {Promise<Schemas["People"]>} */ (get("api/people", signal)));
  }

  connectedCallback() {
    super.connectedCallback();
    this.hear(["recording"], (told, type) => {
      if (type === "reset") void this.recordings.load();
      else if (told.id === this.session) {
        this.recordings.value = told;
        this.#watch(told);
        this.requestUpdate();
      }
    });
    this.ticker = setInterval(() => {
      const left = Math.max(0, Math.ceil((this.until_ms - performance.now()) / 1000));
      if (left !== this.left) this.left = left;
    }, 200);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    clearInterval(this.ticker);
  }

  /** @param {Map<string, unknown>} changed */
  willUpdate(changed) {
    if (changed.has("session") && this.hasUpdated) void this.recordings.load();
  }

  /** @param {Recording | null} recording */
  #watch(recording) {
    this.until_ms = recording?.left_s ? performance.now() + 1000 * recording.left_s : 0;
    this.left = recording ? Math.ceil(recording.left_s) : 0;
    if (recording?.sitting) this.sitting.soon(20);
    if (recording?.ended_at) this.people.soon(20);
  }

  /** @param {"stop" | "go-on"} act */
  #tell(act) {
    return attempt(() => post(`api/recordings/${this.session}/${act}`));
  }

  /** @param {Schemas["ToldTake"]} take */
  async #takeBack(take) {
    const sitting = await attempt(() => remove(`api/takes/${take.clip || take.capture}`));
    if (sitting) {
      this.sitting.value = /** @type {Schemas["SittingView"]} */ (sitting);
      this.gone = [...this.gone, take.clip || take.capture];
      this.requestUpdate();
    }
  }

  /** @param {Recording} recording */
  async #again(recording) {
    const left = (this.sitting.value?.wanted ?? recording.total) - (this.sitting.value?.taken ?? 0);
    const begun = /** @type {Recording | undefined} */ (
      await attempt(() =>
        post("api/recordings", {
          device: recording.device, via: recording.via, person: recording.person,
          takes: Math.max(1, recording.sitting ? left : recording.total),
          places: this.sitting.value?.parts.map((part) => part.place) ?? [""],
          sitting: recording.sitting || null,
        }),
      )
    );
    if (begun) location.hash = personLink(recording.person, { session: begun.id });
  }

  render() {
    return this.recordings.show((recording) =>
      recording
        ? this.#draw(recording)
        : empty(t("record.session_gone"), t("record.session_gone_text"),
            html`<a class="button" href="#/record">${t("record.to_people")}</a>`),
    );
  }

  /** @param {Recording} recording */
  #draw(recording) {
    const ended = Boolean(recording.ended_at);
    const sitting = this.sitting.value;
    const last = recording.takes.at(-1);
    return html`<section class="card booth ${recording.state}">
      <header>
        <h2>
          ${ended && recording.finished
            ? t("record.done", { count: sitting?.taken ?? recording.total, person: recording.person })
            : t("record.take_of", { number: recording.number, total: recording.total })}
        </h2>
        <span class="muted grow">${recording.person} · ${recording.name}</span>
        ${ended
          ? html`<span class="tag ${recording.finished ? "done" : "interrupted"}"
              >${recording.finished ? t("record.state_done") : t("record.state_ended")}</span
            >`
          : html`<span class="tag running">${t("record.state_running")}</span>`}
      </header>
      ${sitting ? dots(sitting) : nothing}
      ${ended
        ? this.#drawEnd(recording)
        : html`<div class="stage">
              <p class="say" role="status" aria-live="assertive">${this.#instruction(recording)}</p>
              <p class="phrase">${recording.phrase}</p>
              <p class="count" aria-hidden="true">${this.left ? number(this.left) : nothing}</p>
            </div>
            <div class="row acts">
              ${recording.state === "moving"
                ? html`<button type="button" class="primary big" @click=${() => this.#tell("go-on")}>
                    ${t("record.i_am_there")}
                  </button>`
                : nothing}
              <button type="button" ?disabled=${recording.stopping} @click=${() => this.#tell("stop")}>
                ${icon("stop")} ${recording.stopping ? t("record.stopping") : t("record.stop_session")}
              </button>
            </div>
            <p class="muted">${t("record.goes_on")}</p>`}
      ${ended ? nothing : html`<div class="told" role="status">${last ? verdict(last) : nothing}</div>`}
      ${recording.notes.map((text) => html`<p class="muted">${text}</p>`)} ${this.#takes(recording)}
    </section>`;
  }

  /** @param {Recording} recording */
  #instruction(recording) {
    const place = placeText(recording.place);
    switch (recording.state) {
      case "opening":
        return t("record.session_opening", { device: recording.name });
      case "moving":
        return t("record.go_to", { place });
      case "listening":
        return recording.via === "satellite" ? t("record.say_now") : t("record.say_asked");
      default:
        return t("record.checking");
    }
  }

  /** @param {Recording} recording */
  #drawEnd(recording) {
    const people = this.people.value;
    const why = recording.why === "stopped" ? "" : recording.why;
    return html`
      ${recording.error ? showProblem(new Problem(recording.error, { hint: recording.hint })) : nothing}
      ${why ? html`<div class="warning"><p>${this.#why(recording)}</p></div>` : nothing}
      ${recording.finished && people ? html`<p>${whatNext(people.recorded, people.wanted_people)}</p>` : nothing}
      <div class="row">
        ${recording.finished
          ? html`<a class="button primary" href="#/record">${t("record.next_person")}</a>
              <a class="button" href="#/train">${t("record.to_training")}</a>`
          : html`<button type="button" class="primary" @click=${() => this.#again(recording)}>
              ${t("record.go_on")}
            </button>`}
        <a class="button" href=${personLink(recording.person)}
          >${t("record.to_person", { person: recording.person })}</a
        >
      </div>
    `;
  }

  /** @param {Recording} recording */
  #why(recording) {
    const refused = recording.takes.at(-1);
    if (refused && !refused.good) {
      return [t("record.refused_often"), reasonText(refused.reasons)].join(" ");
    }
    return recording.why === "the service ended" ? t("record.service_ended") : recording.why;
  }

  /** @param {Recording} recording */
  #takes(recording) {
    if (!recording.takes.length) return nothing;
    return html`<ol class="takes" reversed aria-label=${t("record.takes")}>
      ${[...recording.takes].reverse().map((take) => {
        const id = take.clip || take.capture;
        const gone = this.gone.includes(id);
        const sound = take.clip ? `api/clips/${take.clip}/sound` : take.capture ? `api/captures/${take.capture}/sound` : "";
        return html`<li>
          <span class="grow">
            ${number(take.number)} · ${placeText(take.place)} ·
            <span class=${take.good && !gone ? "good" : "muted"}
              >${gone ? t("record.taken_back") : take.good ? t("record.good") : reasonText(take.reasons)}</span
            >
          </span>
          ${take.good && sound && !gone
            ? html`<button type="button" class="plain" aria-label=${t("record.hear_take", { number: take.number })} @click=${() => play(sound)}>
                  ${icon("play")}
                </button>
                <button type="button" class="plain" aria-label=${t("record.delete_take", { number: take.number })} @click=${() => this.#takeBack(take)}>
                  ${icon("trash")}
                </button>`
            : nothing}
        </li>`;
      })}
    </ol>`;
  }
}
customElements.define("mww-satellite-session", SatelliteSession);
