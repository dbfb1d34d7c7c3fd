/**
 * A sound one can see: its wave, over it what a model made of it on the same time axis, play, pause and seek.
 *
 * `<mww-sound .src=${"api/captures/ID/sound"} .trace=${trace} label="Capture of …"></mww-sound>`; `src` is an address
 * relative to the page's base, or a Blob. It dispatches "ready" when wave and trace are drawn. `prefetchSound` makes
 * that quick: what was fetched and decoded before is drawn at once.
 */
import { html, nothing } from "../vendor/lit.js";
import UPlot from "../vendor/uplot.js";
import WaveSurfer from "../vendor/wavesurfer.js";
import { Problem, address, page } from "./api.js";
import { number, percent, t } from "./i18n.js";
import { icon } from "./icons.js";
import { colour } from "./scheme.js";
import { View, asProblem, showProblem } from "./ui.js";

/**
 * What a model made of a sound: `scores` (0 to 255), the sound of the first one ends at `first_s`, the others follow each
 * `step_s`; `window` of them are averaged (0: not known) and compared with `cutoff` (0 to 1). `trigger_s`: where the
 * satellite said it was (below 0: not said).
 * @typedef {{scores: ArrayLike<number>, first_s: number, step_s: number, window: number, cutoff: number,
 *   trigger_s: number, detections_s: readonly number[]}} Trace
 */
/** @typedef {{url: string, peaks: Float32Array, duration_s: number}} Decoded */

const BUCKETS = 2000;
const KEPT = 48;
const RATE_HZ = 16000;

// --- fetched and decoded ---------------------------------------------------------------------------------------------

/** @type {Map<string, Promise<Decoded>>} the most recently used last */
const known = new Map();
/** @type {WeakMap<Blob, Promise<Decoded>>} */
const knownBlobs = new WeakMap();

/** @param {string | Blob} src @returns {Promise<Decoded>} */
function loadSound(src) {
  if (typeof src !== "string") {
    const made = knownBlobs.get(src) ?? decode(src);
    knownBlobs.set(src, made);
    return made;
  }
  const found = known.get(src) ?? fetchSound(src);
  known.delete(src);
  known.set(src, found);
  found.catch(() => known.delete(src));
  for (const [old, sound] of known) {
    if (known.size <= KEPT) break;
    known.delete(old);
    void sound.then(({ url }) => URL.revokeObjectURL(url));
  }
  return found;
}

/** Fetches and decodes what will be looked at soon. @param {string} src */
export function prefetchSound(src) {
  loadSound(src).catch(() => undefined); // whoever looks at it is told
}

/** @param {string} src @returns {Promise<Decoded>} */
async function fetchSound(src) {
  let answer;
  try {
    answer = await fetch(address(src), { credentials: "same-origin" });
  } catch {
    throw new Problem("offline", { error: "Offline" });
  }
  if (!answer.ok) {
    const isJson = (answer.headers.get("Content-Type") ?? "").startsWith("application/json");
    const said = isJson ? await answer.json() : { message: `${answer.status} ${answer.statusText}` };
    throw new Problem(said.message, { hint: said.hint, error: said.error, status: answer.status });
  }
  return await decode(await answer.blob());
}

/** @param {Blob} blob @returns {Promise<Decoded>} */
async function decode(blob) {
  const context = new OfflineAudioContext(1, 1, RATE_HZ);
  let buffer;
  try {
    buffer = await context.decodeAudioData(await blob.arrayBuffer());
  } catch {
    throw new Problem(t("sound.unreadable"), { hint: t("sound.unreadable_hint") });
  }
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, index) => buffer.getChannelData(index));
  const count = Math.min(BUCKETS, Math.max(1, buffer.length));
  const peaks = new Float32Array(count);
  for (let bucket = 0; bucket < count; bucket += 1) {
    const end = Math.floor(((bucket + 1) * buffer.length) / count);
    let highest = 0;
    for (const samples of channels) {
      for (let place = Math.floor((bucket * buffer.length) / count); place < end; place += 1) {
        const size = Math.abs(samples[place] ?? 0);
        if (size > highest) highest = size;
      }
    }
    peaks[bucket] = highest;
  }
  return { url: URL.createObjectURL(blob), peaks, duration_s: buffer.duration };
}

// --- the trace -------------------------------------------------------------------------------------------------------

/**
 * @param {ArrayLike<number>} scores 0 to 255
 * @param {number} window
 * @returns {(number | null)[]} the mean of the last `window` of them, 0 to 1: what the cutoff is compared with
 */
export function meansOf(scores, window) {
  let sum = 0;
  return Array.from(scores, (score, index) => {
    sum += score - (index >= window ? Number(scores[index - window]) : 0);
    return index >= window - 1 ? sum / window / 255 : null;
  });
}

/**
 * Scores over time without axes, to lie over a wave.
 * @param {HTMLElement} host @param {Trace} trace @param {number} duration_s
 */
function drawTrace(host, trace, duration_s) {
  const times = Array.from(trace.scores, (_, index) => trace.first_s + index * trace.step_s);
  const scores = Array.from(trace.scores, (score) => score / 255);
  const means = trace.window > 1 ? meansOf(trace.scores, trace.window) : scores;
  return new UPlot(
    {
      width: Math.max(1, host.clientWidth),
      height: Math.max(1, host.clientHeight),
      padding: [0, 0, 0, 0],
      cursor: { show: false },
      legend: { show: false },
      axes: [{ show: false }, { show: false }],
      scales: {
        x: { time: false, range: () => [0, duration_s] },
        y: { range: () => [0, 1.03] },
      },
      series: [
        {},
        { stroke: colour("--muted"), width: 1, points: { show: false } },
        { stroke: colour("--accent"), width: 2.5, points: { show: false } },
      ],
      hooks: { draw: [(plot) => drawMarks(plot, trace)] },
    },
    [times, scores, means],
    host,
  );
}

/** @param {UPlot} plot @param {Trace} trace */
function drawMarks(plot, trace) {
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.lineWidth = 1.5 * ratio;
  ctx.strokeStyle = colour("--warn");
  ctx.setLineDash([6 * ratio, 4 * ratio]);
  const level = plot.valToPos(trace.cutoff, "y", true);
  line(ctx, bbox.left, level, bbox.left + bbox.width, level);
  if (trace.trigger_s >= 0) {
    ctx.strokeStyle = colour("--text");
    ctx.setLineDash([2 * ratio, 3 * ratio]);
    const at = plot.valToPos(trace.trigger_s, "x", true);
    line(ctx, at, bbox.top, at, bbox.top + bbox.height);
  }
  ctx.setLineDash([]);
  ctx.strokeStyle = ctx.fillStyle = colour("--good");
  for (const moment_s of trace.detections_s) {
    const at = plot.valToPos(moment_s, "x", true);
    line(ctx, at, bbox.top, at, bbox.top + bbox.height);
    ctx.beginPath();
    ctx.moveTo(at - 6 * ratio, bbox.top);
    ctx.lineTo(at + 6 * ratio, bbox.top);
    ctx.lineTo(at, bbox.top + 9 * ratio);
    ctx.fill();
  }
  ctx.restore();
}

/** @param {CanvasRenderingContext2D} ctx @param {number} x0 @param {number} y0 @param {number} x1 @param {number} y1 */
function line(ctx, x0, y0, x1, y1) {
  ctx.beginPath();
  ctx.moveTo(x0, y0);
  ctx.lineTo(x1, y1);
  ctx.stroke();
}

// --- the element -----------------------------------------------------------------------------------------------------

export class Sound extends View {
  static properties = {
    src: { attribute: false },
    trace: { attribute: false },
    label: { type: String },
    autoplay: { type: Boolean },
    height: { type: Number },
    duration_s: { state: true },
    at_s: { state: true },
    playing: { state: true },
    problem: { state: true },
  };

  constructor() {
    super();
    /** @type {string | Blob} */
    this.src = "";
    /** @type {Trace | null} */
    this.trace = null;
    this.label = "";
    this.autoplay = false;
    this.height = 128;
    this.duration_s = 0;
    this.at_s = 0;
    this.playing = false;
    /** @type {Problem | null} */
    this.problem = null;
    /** @type {WaveSurfer | null} */
    this.wave = null;
    /** @type {UPlot | null} */
    this.plot = null;
    /** @type {ResizeObserver | null} */
    this.resized = null;
    /** @type {string | Blob} what is drawn, or on its way */
    this.shown = "";
    /** @type {Trace | null} */
    this.shownTrace = null;
  }

  connectedCallback() {
    super.connectedCallback();
    this.while(window, "mww-scheme", () => this.#recolour());
    if (this.hasUpdated) this.requestUpdate();
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.resized?.disconnect();
    this.plot?.destroy();
    this.wave?.destroy();
    this.wave = this.plot = this.resized = null;
    this.shown = "";
    this.playing = false;
  }

  /** @param {Map<string, unknown>} _changed */
  updated(_changed) {
    if (this.src && this.src !== this.shown) void this.#load();
    else if (this.trace !== this.shownTrace && this.duration_s) this.#draw();
  }

  async #load() {
    const src = (this.shown = this.src);
    this.problem = null;
    this.wave?.pause();
    const isStale = () => src !== this.src || !this.isConnected;
    try {
      const sound = await loadSound(src);
      if (isStale()) return;
      const wave = (this.wave ??= this.#make());
      await wave.load(sound.url, [sound.peaks], sound.duration_s);
      if (isStale()) return;
      this.duration_s = sound.duration_s;
      this.at_s = 0;
      this.#draw();
      if (this.autoplay) void this.play();
    } catch (error) {
      if (isStale()) return;
      this.problem = asProblem(error);
    }
    this.dispatchEvent(new CustomEvent("ready", { detail: { src, problem: this.problem } }));
  }

  #make() {
    const wave = WaveSurfer.create({
      container: /** @type {HTMLElement} */ (this.querySelector(".wave")),
      height: this.height,
      normalize: true,
      cspNonce: page.nonce,
      cursorWidth: 2,
      ...colours(),
    });
    wave.on("play", () => (this.playing = true));
    wave.on("pause", () => (this.playing = false));
    wave.on("finish", () => (this.playing = false));
    wave.on("timeupdate", (at_s) => (this.at_s = at_s));
    this.resized = new ResizeObserver(() => {
      const host = /** @type {HTMLElement} */ (this.querySelector(".trace"));
      if (this.plot && host.clientWidth) this.plot.setSize({ width: host.clientWidth, height: host.clientHeight });
    });
    this.resized.observe(/** @type {HTMLElement} */ (this.querySelector(".trace")));
    return wave;
  }

  #draw() {
    this.plot?.destroy();
    this.plot = null;
    this.shownTrace = this.trace;
    const host = /** @type {HTMLElement} */ (this.querySelector(".trace"));
    if (this.trace?.scores.length) this.plot = drawTrace(host, this.trace, this.duration_s);
  }

  #recolour() {
    this.wave?.setOptions(colours());
    if (this.duration_s) this.#draw();
  }

  /** From the start when it is at its end. */
  async play() {
    try {
      await this.wave?.play();
    } catch {
      // the browser lets a page play only after a first click or key
    }
  }

  pause() {
    this.wave?.pause();
  }

  toggle() {
    if (this.playing) this.pause();
    else void this.play();
  }

  /** @param {number} at_s */
  seek(at_s) {
    this.wave?.setTime(Math.min(this.duration_s, Math.max(0, at_s)));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    /** @type {Record<string, () => void>} */
    const ways = {
      ArrowLeft: () => this.seek(this.at_s - 0.25),
      ArrowRight: () => this.seek(this.at_s + 0.25),
      Home: () => this.seek(0),
      End: () => this.seek(this.duration_s),
      " ": () => this.toggle(),
    };
    const way = ways[event.key];
    if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    way();
  }

  render() {
    const at = t("sound.at", { at: number(this.at_s, 1), of: number(this.duration_s, 1) });
    return html`
      ${this.problem ? showProblem(this.problem) : nothing}
      <div
        class="sound"
        role="slider"
        tabindex=${this.problem ? -1 : 0}
        aria-label=${this.label || t("sound.wave")}
        aria-valuemin="0"
        aria-valuemax=${this.duration_s.toFixed(2)}
        aria-valuenow=${this.at_s.toFixed(2)}
        aria-valuetext=${at}
        ?hidden=${this.problem !== null}
        @keydown=${this.#key}
        @mousedown=${(/** @type {Event} */ event) => event.preventDefault() /* the keys stay where they are */}
      >
        <div class="wave"></div>
        <div class="trace"></div>
      </div>
      <div class="row sound-row" ?hidden=${this.problem !== null}>
        <button type="button" class="sound-play" ?disabled=${!this.duration_s} @click=${() => this.toggle()}>
          ${icon(this.playing ? "pause" : "play")}${t(this.playing ? "sound.pause" : "sound.play")}
        </button>
        <span class="number muted">${at}</span>
        ${this.trace?.scores.length
          ? html`<span class="legend muted">
              <span class="key probability">${t("sound.probability")}</span>
              <span class="key cutoff">${t("sound.cutoff", { cutoff: percent(this.trace.cutoff) })}</span>
              ${this.trace.trigger_s >= 0 ? html`<span class="key trigger">${t("sound.trigger")}</span>` : nothing}
              ${this.trace.detections_s.length
                ? html`<span class="key detection">${t("sound.detection")}</span>`
                : nothing}
            </span>`
          : nothing}
      </div>
    `;
  }
}
customElements.define("mww-sound", Sound);

const colours = () => ({
  waveColor: colour("--wave"),
  progressColor: colour("--muted"),
  cursorColor: colour("--bad"),
});
