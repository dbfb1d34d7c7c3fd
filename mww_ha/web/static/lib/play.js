/** A button that plays a sound, one at a time in the whole page: `<mww-play src="api/clips/ID/sound" label="…"></mww-play>`. */
import { html } from "../vendor/lit.js";
import { address, get } from "./api.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { View, attempt } from "./ui.js";

/** @type {HTMLAudioElement | null} */
let sounding = null;

class Play extends View {
  static properties = { src: {}, label: {}, playing: { state: true }, waiting: { state: true } };

  constructor() {
    super();
    this.src = "";
    /** What it is the sound of. */
    this.label = "";
    this.playing = false;
    this.waiting = false;
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.#audio?.pause();
  }

  get #audio() {
    return /** @type {HTMLAudioElement | null} */ (this.querySelector("audio"));
  }

  async #toggle() {
    const audio = this.#audio;
    if (!audio) return;
    if (!audio.paused) {
      audio.pause();
      return;
    }
    if (sounding !== audio) sounding?.pause();
    sounding = audio;
    const whole = address(this.src);
    if (audio.src !== whole || audio.error) audio.src = whole;
    this.waiting = true;
    try {
      await audio.play();
    } catch (error) {
      // Paused before it began is nothing; else the service knows why.
      if (audio.error || !(error instanceof DOMException && error.name === "AbortError")) {
        await attempt(async () => {
          await get(this.src);
          throw error;
        });
      }
    }
    this.waiting = false;
  }

  render() {
    const name = this.playing ? t("play.pause") : t("play.play");
    return html`<button
        type="button"
        class="play"
        aria-label=${[name, this.label].filter(Boolean).join(": ")}
        aria-busy=${this.waiting}
        @click=${this.#toggle}
      >
        ${this.waiting ? html`<span class="spin" aria-hidden="true"></span>` : icon(this.playing ? "pause" : "play")}
      </button>
      <audio
        preload="none"
        @playing=${() => (this.playing = true)}
        @pause=${() => (this.playing = false)}
        @ended=${() => (this.playing = false)}
      ></audio>`;
  }
}
customElements.define("mww-play", Play);
