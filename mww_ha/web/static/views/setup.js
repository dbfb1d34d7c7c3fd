/** There is no project yet: what shall it listen for? Or does one come along from another machine? */
import { html, nothing } from "../vendor/lit.js";
import { get, post } from "../lib/api.js";
import { language, percent, t } from "../lib/i18n.js";
import { View, asProblem, showProblem } from "../lib/ui.js";
import { sendArchive } from "./settings_archive.js";

class Setup extends View {
  static properties = {
    busy: { state: true }, problem: { state: true }, sending: { state: true }, refused: { state: true },
  };

  constructor() {
    super();
    this.busy = false;
    /** @type {import("../lib/api.js").Problem | null} */
    this.problem = null;
    /** @type {number | null} */
    this.sending = null;
    /** @type {import("../lib/api.js").Problem | null} */
    this.refused = null;
  }

  /** @param {Event & {target: HTMLInputElement}} event */
  async #bring(event) {
    const file = event.target.files?.[0];
    if (!file) return;
    this.refused = null;
    this.sending = 0;
    try {
      await sendArchive("api/setup/archive", file, (share) => (this.sending = share));
      await this.#wait();
    } catch (error) {
      this.refused = asProblem(error);
      this.sending = null;
    }
  }

  /** @param {SubmitEvent} event */
  async #make(event) {
    event.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
    this.busy = true;
    this.problem = null;
    try {
      await post("api/setup", {
        phrase: form.get("phrase"), language: form.get("language"), effort: form.get("effort"),
      });
      await this.#wait();
    } catch (error) {
      this.problem = asProblem(error);
      this.busy = false;
    }
  }

  /** The whole service starts at the same address. */
  async #wait() {
    for (let tries = 0; tries < 60; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 300));
      try {
        await get("api/project");
        location.reload();
        return;
      } catch {
        // not yet
      }
    }
    location.reload();
  }

  render() {
    return html`<form class="card narrow" @submit=${this.#make}>
      <p>${t("setup.intro")}</p>
      <label>
        ${t("setup.phrase")}
        <input name="phrase" required maxlength="100" autocomplete="off" placeholder=${t("setup.phrase_example")} />
        <small>${t("setup.phrase_hint")}</small>
      </label>
      <label>
        ${t("setup.language")}
        <input name="language" required maxlength="20" .value=${language} list="languages" />
        <datalist id="languages">
          ${["en", "de", "fr", "es", "it", "nl", "pl", "pt", "sv", "da", "cs", "uk"].map(
            (code) => html`<option value=${code}></option>`,
          )}
        </datalist>
        <small>${t("setup.language_hint")}</small>
      </label>
      <fieldset>
        <legend>${t("setup.effort")}</legend>
        ${["quick", "good", "best"].map(
          (effort, index) => html`<label class="choice">
            <input type="radio" name="effort" value=${effort} ?checked=${index === 0} />
            <span>${t(`effort.${effort}`)}<small>${t(`effort.${effort}_text`)}</small></span>
          </label>`,
        )}
      </fieldset>
      ${this.problem ? showProblem(this.problem) : nothing}
      <div class="row end">
        <button class="primary" ?disabled=${this.busy || this.sending !== null}>${this.busy ? t("setup.busy") : t("setup.make")}</button>
      </div>
    </form>
    <section class="card narrow bring" aria-labelledby="bring">
      <h2 id="bring">${t("setup.bring")}</h2>
      <p>${t("setup.bring_text")}</p>
      ${this.sending === null
        ? html`<label>
            ${t("setup.bring_file")}
            <input type="file" accept=".tar,application/x-tar" ?disabled=${this.busy} @change=${this.#bring} />
          </label>`
        : html`<div class="row progress" role="status">
            <progress max="1" .value=${this.sending} aria-label=${t("setup.bringing")}></progress>
            <span class="number">${percent(this.sending)}</span>
          </div>`}
      ${this.refused ? showProblem(this.refused) : nothing}
    </section>`;
  }
}
customElements.define("mww-setup", Setup);
