/**
 * The browser's microphone as a model needs it: mono, 16 kHz, nothing taken out of it. A browser's echo cancellation,
 * noise suppression and automatic gain are made for calls; a satellite has none of them.
 */
import { address, page } from "./api.js";

export const RATE_HZ = 16000;

/** @returns {"" | "insecure" | "none"} why there is no microphone to be had here */
export function whyNoMicrophone() {
  if (typeof navigator.mediaDevices?.getUserMedia === "function") return "";
  return window.isSecureContext ? "none" : "insecure";
}

/**
 * An open microphone. "samples" is told with {detail: Float32Array} 50 times a second, "lost" when it is unplugged.
 *
 * `rate` is 16 kHz wherever the browser brings it to that itself, with a filter of its own (Chromium, Safari). Firefox
 * does not connect a microphone to another rate than its own: there it is that rate, and the service, which takes any
 * and filters well, makes 16 kHz of it.
 */
export class Microphone extends EventTarget {
  /** @param {MediaStream} stream @param {AudioContext} context @param {AudioWorkletNode} node */
  constructor(stream, context, node) {
    super();
    this.stream = stream;
    this.context = context;
    this.rate = context.sampleRate;
    /** @type {Float32Array[] | null} */
    this.kept = null;
    node.port.onmessage = (message) => {
      this.kept?.push(message.data);
      this.dispatchEvent(new CustomEvent("samples", { detail: message.data }));
    };
    stream.getAudioTracks()[0]?.addEventListener("ended", () => this.dispatchEvent(new Event("lost")));
  }

  /** Asks for it and opens it. Rejects as `getUserMedia` does: NotAllowedError, NotFoundError, NotReadableError. */
  static async open() {
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    try {
      return await Microphone.#listen(stream, RATE_HZ).catch(() => Microphone.#listen(stream));
    } catch (error) {
      stream.getTracks().forEach((track) => track.stop());
      throw error;
    }
  }

  /** @param {MediaStream} stream @param {number} [sampleRate] */
  static async #listen(stream, sampleRate) {
    const context = new AudioContext(sampleRate ? { sampleRate } : {});
    try {
      await context.audioWorklet.addModule(address(`${page.folder}lib/microphone_worklet.js`));
      const source = context.createMediaStreamSource(stream);
      const node = new AudioWorkletNode(context, "tap", { numberOfOutputs: 0 });
      source.connect(node);
      await context.resume();
      return new Microphone(stream, context, node);
    } catch (error) {
      void context.close();
      throw error;
    }
  }

  /** From now on what comes is kept. */
  begin() {
    this.kept = [];
  }

  /** @returns {Float32Array} what was kept since `begin` */
  end() {
    const pieces = this.kept ?? [];
    this.kept = null;
    const samples = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
    let place = 0;
    for (const piece of pieces) {
      samples.set(piece, place);
      place += piece.length;
    }
    return samples;
  }

  close() {
    this.stream.getTracks().forEach((track) => track.stop());
    if (this.context.state !== "closed") void this.context.close();
  }
}

/** @param {Float32Array} samples @returns {number} their level, 0 for the loudest there is, in dBFS; -120 for silence */
export function levelOf(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return sum ? Math.max(-120, 10 * Math.log10(sum / samples.length)) : -120;
}

/** @param {Float32Array} samples @param {number} rate @returns {Blob} WAV, mono, 16 bit */
export function writeWav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  /** @param {number} place @param {string} text */
  const write = (place, text) => [...text].forEach((sign, index) => view.setUint8(place + index, sign.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  write(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, index) => {
    const scaled = Math.round(sample * 32768);
    view.setInt16(44 + 2 * index, Math.max(-32768, Math.min(32767, scaled)), true);
  });
  return new Blob([view.buffer], { type: "audio/wav" });
}

/**
 * Finds the end of a word in the levels of a take, so that nobody has to press a key: it was loud for a moment, and has
 * been quiet since.
 */
export class WordEnd {
  /** @param {{quiet_s?: number, spoken_s?: number}} [limits] */
  constructor({ quiet_s = 0.9, spoken_s = 0.2 } = {}) {
    this.quiet_s = quiet_s;
    this.spoken_s = spoken_s;
    this.floor = 0;
    this.peak = -120;
    this.spoken = 0;
    this.quiet = 0;
  }

  /** @param {number} level_dbfs of a block @param {number} block_s @returns {boolean} whether the word has ended */
  hear(level_dbfs, block_s) {
    this.floor = Math.min(this.floor, level_dbfs);
    this.peak = Math.max(this.peak, level_dbfs);
    const loud = level_dbfs > Math.max(this.floor + 12, this.peak - 24, -60);
    this.spoken += loud ? block_s : 0;
    this.quiet = loud ? 0 : this.quiet + block_s;
    return this.spoken >= this.spoken_s && this.quiet >= this.quiet_s;
  }
}
