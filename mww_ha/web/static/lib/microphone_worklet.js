/** Runs on the audio thread: hands on what the microphone brings, in mono, about 50 times a second. */

const { AudioWorkletProcessor, registerProcessor, sampleRate } = /** @type {any} */ (globalThis);

class Tap extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(Math.round(sampleRate / 50));
    this.filled = 0;
  }

  /** @param {Float32Array[][]} inputs @returns {boolean} whether to go on */
  process(inputs) {
    const channels = inputs[0] ?? [];
    const length = channels[0]?.length ?? 0;
    for (let place = 0; place < length; place += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[place] ?? 0;
      this.block[this.filled] = sum / channels.length;
      this.filled += 1;
      if (this.filled === this.block.length) {
        this.port.postMessage(this.block.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}
registerProcessor("tap", Tap);
