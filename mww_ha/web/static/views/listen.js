/** Try it out: a microphone or a file → what a model makes of it, by the device-exact detector of the service. */
import { html, nothing } from "../vendor/lit.js";
import UPlot from "../vendor/uplot.js";
import { address, get, query, send } from "../lib/api.js";
import { number, percent, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { Microphone, levelOf, whyNoMicrophone } from "../lib/microphone.js";
import { colour } from "../lib/scheme.js";
import { meansOf } from "../lib/sound.js";
import { Loaded, View, asProblem, empty, showProblem } from "../lib/ui.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */
/** @typedef {Schemas["ListenModel"]} Model */
/** What a message of the live WebSocket holds: web/listening.py, LiveView.
 * @typedef {{heard_s: number, cutoff: number, window: number, first_s: number, step_s: number, scores: number[],
 *   detections: Schemas["Detection"][]}} LiveView */

const SHOWN_S = 15;
const KEPT_S = 30;
const SEND_S = 0.1; // sound in a message
const MOST_SAMPLES = 16000; // in a message, also when it was held up
const LATE_BYTES = 1 << 20; // waiting to be sent: the connection is too slow
const QUIETEST_DBFS = -70;
const LAMP_MS = 1500;

class Listen extends View {
  static properties = {
    ...View.properties,
    model: { state: true },
    cutoff: { state: true },
    state: { state: true },
    problem: { state: true },
    detections: { state: true },
    lamp: { state: true },
    file: { state: true },
    heard: { state: true },
    busy: { state: true },
    fileProblem: { state: true },
  };

  constructor() {
    super();
    this.models = new Loaded(this, (signal) => /** @type {Promise<Model[]>} */ (get("api/listen/models", signal)));
    /** @type {Model | null} */
    this.model = null;
    this.cutoff = 0; // of 255
    /** @type {"idle" | "opening" | "live"} */
    this.state = "idle";
    /** @type {import("../lib/api.js").Problem | string | null} why there is no microphone */
    this.problem = null;
    /** @type {Schemas["Detection"][]} the newest first */
    this.detections = [];
    this.lamp = false;
    /** @type {File | null} */
    this.file = null;
    /** @type {Schemas["HeardView"] | null} */
    this.heard = null;
    this.busy = false;
    /** @type {import("../lib/api.js").Problem | null} */
    this.fileProblem = null;
    /** @type {Microphone | null} */
    this.microphone = null;
    /** @type {WebSocket | null} */
    this.socket = null;
    /** @type {LiveTrace | null} */
    this.trace = null;
    this.asked = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.dark = undefined;
  }

  connectedCallback() {
    super.connectedCallback();
    this.while(window, "mww-scheme", () => this.trace?.recolour());
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.#stop();
    this.trace?.destroy();
    this.trace = null;
  }

  /** @param {Map<string, unknown>} changed */
  willUpdate(changed) {
    const models = (this.models.value ?? []).filter((model) => !model.problem);
    const wanted = models.find((model) => model.id === this.params["model"]);
    if (wanted && changed.has("params") && wanted !== this.model) this.#choose(wanted);
    else if (!this.model && models[0]) this.#choose(wanted ?? models[0]);
  }

  /** @param {Model} model */
  #choose(model) {
    this.model = model;
    this.cutoff = model.cutoff;
    if (this.microphone) this.#converse(this.microphone);
    void this.#hearFile();
  }

  /** @param {number} cutoff of 255 */
  #setCutoff(cutoff) {
    this.cutoff = cutoff;
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ cutoff }));
    void this.#hearFile();
  }

  // --- a microphone ----------------------------------------------------------------------------------------------------

  async #start() {
    this.problem = null;
    this.detections = [];
    const why = whyNoMicrophone();
    if (why) {
      this.problem = t(`listen.why_${why}`);
      return;
    }
    this.state = "opening";
    try {
      const microphone = await Microphone.open();
      if (!this.isConnected || this.state !== "opening") {
        microphone.close();
        return;
      }
      this.microphone = microphone;
      microphone.addEventListener("lost", () => this.#stop(t("listen.lost")));
      this.#converse(microphone);
    } catch (error) {
      this.state = "idle";
      const name = error instanceof DOMException ? error.name : "";
      const known = { NotAllowedError: "listen.denied", NotFoundError: "listen.why_none", NotReadableError: "listen.taken" };
      const key = known[/** @type {keyof typeof known} */ (name)];
      this.problem = key ? t(key) : asProblem(error);
    }
  }

  /** Sends what the microphone brings, and shows what comes back. @param {Microphone} microphone */
  #converse(microphone) {
    this.socket?.close();
    this.trace?.clear();
    this.detections = [];
    const url = new URL(address(`api/listen/live${query({ model: this.model?.id, cutoff: this.cutoff, rate: microphone.rate })}`));
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = (this.socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    const least = Math.round(SEND_S * microphone.rate);
    /** @type {Float32Array[]} */
    let held = [];
    let size = 0;
    const end = new AbortController();
    microphone.addEventListener("samples", (event) => {
      const samples = /** @type {CustomEvent<Float32Array>} */ (event).detail;
      this.#meter(levelOf(samples));
      held.push(samples);
      size += samples.length;
      if (size < least || socket.readyState !== WebSocket.OPEN) return;
      if (socket.bufferedAmount > LATE_BYTES) {
        this.#stop(t("listen.slow"));
        return;
      }
      const sound = int16Of(held, size);
      for (let place = 0; place < size; place += MOST_SAMPLES) socket.send(sound.subarray(place, place + MOST_SAMPLES));
      held = [];
      size = 0;
    }, { signal: end.signal });
    socket.addEventListener("open", () => (this.state = "live"));
    socket.addEventListener("message", (event) => {
      const view = JSON.parse(event.data);
      if ("message" in view) this.#stop([view.message, view.hint].filter(Boolean).join(" – "));
      else this.#take(/** @type {LiveView} */ (view));
    });
    socket.addEventListener("close", () => {
      end.abort();
      if (this.socket === socket) this.#stop(this.state === "live" ? t("listen.closed") : t("listen.refused"));
    });
  }

  /** @param {LiveView} view */
  #take(view) {
    this.trace?.take(view);
    if (!view.detections.length) return;
    this.detections = [...view.detections.toReversed(), ...this.detections].slice(0, 50);
    this.lamp = true;
    clearTimeout(this.dark);
    this.dark = setTimeout(() => (this.lamp = false), LAMP_MS);
  }

  /** @param {string} [why] where it was not the person who stopped it */
  #stop(why) {
    const { socket, microphone } = this;
    this.socket = this.microphone = null;
    this.state = "idle";
    this.lamp = false;
    microphone?.close();
    socket?.close();
    this.#meter(-120);
    if (why) this.problem = why;
  }

  /** @param {number} level_dbfs drawn past the template: it comes 50 times a second */
  #meter(level_dbfs) {
    const meter = /** @type {HTMLMeterElement | null} */ (this.querySelector("meter"));
    if (meter) meter.value = Math.max(0, 1 - level_dbfs / QUIETEST_DBFS);
  }

  // --- a file ----------------------------------------------------------------------------------------------------------

  /** @param {File | undefined | null} file */
  #open(file) {
    if (!file) return;
    this.file = file;
    this.heard = null;
    void this.#hearFile();
  }

  async #hearFile() {
    if (!this.file || !this.model) return;
    const asked = (this.asked += 1);
    this.busy = true;
    this.fileProblem = null;
    try {
      const path = `api/listen${query({ model: this.model.id, cutoff: this.cutoff })}`;
      const heard = /** @type {Schemas["HeardView"]} */ (await send(path, this.file, "application/octet-stream"));
      if (asked !== this.asked) return;
      this.heard = heard;
    } catch (error) {
      if (asked !== this.asked) return;
      this.heard = null;
      this.fileProblem = asProblem(error);
    }
    this.busy = false;
  }

  // --- how it looks ----------------------------------------------------------------------------------------------------

  /** @param {Map<string, unknown>} _changed */
  updated(_changed) {
    const host = /** @type {HTMLElement | null} */ (this.querySelector(".live-trace"));
    if (host && !this.trace) this.trace = new LiveTrace(host);
    if (this.state !== "live") this.trace?.setCutoff(this.cutoff / 255);
  }

  render() {
    return this.models.show((models) => {
      const able = models.filter((model) => !model.problem);
      const broken = models.filter((model) => model.problem);
      if (!able.length) {
        return html`${empty(t("listen.no_model"), t("listen.no_model_text"), html`<a class="button primary" href="#/train">${t("nav.train")}</a>`)}
          ${broken.map((model) => html`<p class="warning">${model.id}: ${model.problem}</p>`)}`;
      }
      return html`<div class="stack">
        ${this.#settings(able)}
        ${this.#live()}
        ${this.#fromFile()}
      </div>`;
    });
  }

  /** @param {Model[]} models */
  #settings(models) {
    const levels = this.model?.levels ?? [];
    return html`<section class="card">
      <div class="fields">
        <label>${t("listen.model")}
          <select name="model" @change=${(/** @type {Event} */ event) => {
            const id = /** @type {HTMLSelectElement} */ (event.target).value;
            const model = models.find((one) => one.id === id);
            if (model) this.#choose(model);
          }}>
            ${models.map((model, place) => html`<option value=${model.id} ?selected=${model.id === this.model?.id}>
              ${place ? model.id : t("listen.newest", { model: model.id })}
            </option>`)}
          </select>
        </label>
        <label>${t("listen.cutoff", { cutoff: percent(this.cutoff / 255) })}
          <input
            type="range" name="cutoff" min="1" max="254" .value=${String(this.cutoff)}
            aria-valuetext=${percent(this.cutoff / 255)}
            @input=${(/** @type {Event} */ event) => (this.cutoff = Number(/** @type {HTMLInputElement} */ (event.target).value))}
            @change=${(/** @type {Event} */ event) => this.#setCutoff(Number(/** @type {HTMLInputElement} */ (event.target).value))}
          />
          <small>${t("listen.cutoff_text")}</small>
        </label>
      </div>
      ${levels.length
        ? html`<div class="row levels" role="group" aria-label=${t("listen.levels")}>
            <span class="muted">${t("listen.levels")}</span>
            ${levels.map((level) => html`<button
              type="button"
              aria-pressed=${level.cutoff === this.cutoff}
              @click=${() => this.#setCutoff(level.cutoff)}
            >${t(`listen.level_${level.name}`)}</button>`)}
          </div>`
        : nothing}
    </section>`;
  }

  #live() {
    const isOn = this.state !== "idle";
    return html`<section class="card live">
      <header>
        <h2>${t("listen.microphone")}</h2>
        <span class="grow"></span>
        <strong class="lamp ${this.lamp ? "on" : ""}" role="status">${
          this.lamp ? t("listen.woke") : this.state === "live" ? t("listen.listening") : ""
        }</strong>
      </header>
      <div class="row">
        <button type="button" class=${isOn ? "big" : "primary big"} @click=${() => (isOn ? this.#stop() : void this.#start())}>
          ${icon(isOn ? "stop" : "microphone")}${t(isOn ? "listen.stop" : "listen.start")}
        </button>
        <label class="grow level-label">${t("listen.level")}
          <meter min="0" max="1" low="0.2" high="0.97" optimum="0.6" value="0"></meter>
        </label>
      </div>
      ${typeof this.problem === "string"
        ? html`<p class="warning" role="alert">${this.problem}</p>`
        : this.problem ? showProblem(this.problem) : nothing}
      <div class="live-trace" role="img" aria-label=${t("listen.trace")}></div>
      ${this.#found(this.detections, t("listen.nothing_yet"))}
      <p class="muted">${t("listen.local")}</p>
    </section>`;
  }

  #fromFile() {
    const { file, heard } = this;
    return html`<section
      class="card"
      @dragover=${(/** @type {DragEvent} */ event) => event.preventDefault()}
      @drop=${(/** @type {DragEvent} */ event) => {
        event.preventDefault();
        this.#open(event.dataTransfer?.files[0]);
      }}
    >
      <h2>${t("listen.file")}</h2>
      <label>${t("listen.choose_file")}
        <input type="file" accept="audio/*,.wav,.flac,.ogg,.mp3" @change=${(/** @type {Event} */ event) =>
          this.#open(/** @type {HTMLInputElement} */ (event.target).files?.[0])} />
        <small>${t("listen.file_text")}</small>
      </label>
      ${this.busy ? html`<p class="loading" role="status">${t("listen.hearing")}</p>` : nothing}
      ${this.fileProblem ? showProblem(this.fileProblem, () => void this.#hearFile()) : nothing}
      ${file && heard
        ? html`<mww-sound .src=${file} .trace=${traceOf(heard)} label=${file.name}></mww-sound>
            <p class="peak">${t("listen.peak", {
              peak: percent(heard.peak, 1), at: number(heard.peak_s, 2), cutoff: percent(heard.cutoff, 1),
              duration: number(heard.duration_s, 1),
            })}</p>
            ${this.#found(heard.detections, t("listen.nothing_in_file"))}`
        : nothing}
    </section>`;
  }

  /** @param {Schemas["Detection"][]} detections @param {string} none */
  #found(detections, none) {
    if (!detections.length) return html`<p class="muted">${none}</p>`;
    return html`<ul class="detections" aria-label=${t("listen.detections")}>
      ${detections.map((one) => html`<li data-time=${one.time_s} data-score=${one.score}>${t("listen.detection", {
        at: number(one.time_s, 2), score: percent(one.score, 1),
      })}</li>`)}
    </ul>`;
  }
}
customElements.define("mww-listen", Listen);

/** @type {WeakMap<object, import("../lib/sound.js").Trace>} */
const traces = new WeakMap();

/** @param {Schemas["HeardView"]} heard @returns {import("../lib/sound.js").Trace} the same one for the same thing heard */
function traceOf(heard) {
  const made = traces.get(heard) ?? {
    scores: heard.scores, first_s: heard.first_s, step_s: heard.step_s, window: heard.window, cutoff: heard.cutoff,
    trigger_s: -1, detections_s: heard.detections.map((one) => one.time_s),
  };
  traces.set(heard, made);
  return made;
}

/** @param {Float32Array[]} pieces @param {number} size @returns {Int16Array<ArrayBuffer>} */
function int16Of(pieces, size) {
  const made = new Int16Array(size);
  let place = 0;
  for (const piece of pieces) {
    for (const sample of piece) {
      made[place] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      place += 1;
    }
  }
  return made;
}

/** The last seconds of a model's scores, drawn as they come. */
class LiveTrace {
  /** @param {HTMLElement} host */
  constructor(host) {
    this.host = host;
    /** @type {number[]} */
    this.times = [];
    /** @type {number[]} */
    this.scores = [];
    /** @type {number[]} */
    this.detections = [];
    this.window = 1;
    this.cutoff = 0;
    this.now_s = 0;
    this.frame = 0;
    this.resized = new ResizeObserver(() => {
      if (host.clientWidth) this.plot.setSize({ width: host.clientWidth, height: host.clientHeight });
    });
    this.plot = this.#make();
    this.resized.observe(host);
  }

  #make() {
    const fine = { stroke: colour("--line"), width: 1 };
    const axis = { stroke: colour("--muted"), grid: fine, ticks: fine };
    return new UPlot(
      {
        width: Math.max(1, this.host.clientWidth),
        height: Math.max(1, this.host.clientHeight),
        cursor: { show: false },
        legend: { show: false },
        scales: {
          x: { time: false, range: () => [Math.max(0, this.now_s - SHOWN_S), Math.max(SHOWN_S, this.now_s)] },
          y: { range: () => [0, 1.03] },
        },
        axes: [
          { ...axis, values: (_plot, values) => values.map((value) => `${number(value, 1)} s`), size: 32 },
          { ...axis, values: (_plot, values) => values.map((value) => percent(value)), size: 56 },
        ],
        series: [
          {},
          { stroke: colour("--muted"), width: 1, points: { show: false } },
          { stroke: colour("--accent"), width: 2.5, points: { show: false } },
        ],
        hooks: { draw: [(plot) => this.#marks(plot)] },
      },
      [[], [], []],
      this.host,
    );
  }

  /** @param {UPlot} plot */
  #marks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.strokeStyle = colour("--warn");
    ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
    const level = plot.valToPos(this.cutoff, "y", true);
    ctx.beginPath();
    ctx.moveTo(bbox.left, level);
    ctx.lineTo(bbox.left + bbox.width, level);
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.strokeStyle = colour("--good");
    for (const at_s of this.detections) {
      const at = plot.valToPos(at_s, "x", true);
      if (at < bbox.left) continue;
      ctx.beginPath();
      ctx.moveTo(at, bbox.top);
      ctx.lineTo(at, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  /** @param {LiveView} view */
  take(view) {
    view.scores.forEach((score, index) => {
      this.times.push(view.first_s + index * view.step_s);
      this.scores.push(score);
    });
    this.detections.push(...view.detections.map((one) => one.time_s));
    this.window = view.window;
    this.cutoff = view.cutoff;
    this.now_s = view.heard_s;
    const most = Math.ceil(KEPT_S / view.step_s);
    if (this.times.length > 2 * most) {
      this.times = this.times.slice(-most);
      this.scores = this.scores.slice(-most);
      this.detections = this.detections.filter((at_s) => at_s > this.now_s - KEPT_S);
    }
    this.#soon();
  }

  /** @param {number} cutoff 0 to 1 */
  setCutoff(cutoff) {
    if (cutoff === this.cutoff) return;
    this.cutoff = cutoff;
    this.#soon();
  }

  clear() {
    this.times = [];
    this.scores = [];
    this.detections = [];
    this.now_s = 0;
    this.#soon();
  }

  #soon() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.plot.setData([this.times, this.scores.map((score) => score / 255), meansOf(this.scores, this.window)]);
    });
  }

  recolour() {
    this.plot.destroy();
    this.plot = this.#make();
    this.#soon();
  }

  destroy() {
    cancelAnimationFrame(this.frame);
    this.resized.disconnect();
    this.plot.destroy();
  }
}
