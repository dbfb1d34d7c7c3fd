/** `<mww-files .person=${view}>`: sound files that are there already become clips of a person, or of nobody. */
import { html, nothing } from "../vendor/lit.js";
import { query, send } from "../lib/api.js";
import { duration, number, percent, size, t } from "../lib/i18n.js";
import { View, asProblem } from "../lib/ui.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */
/** @typedef {{name: string, bytes: number, state: "waiting" | "sending" | "done" | "failed", text: string}} Row */

const LABELS = /** @type {const} */ (["wake", "confusable", "speech", "noise"]);

class Files extends View {
  static properties = {
    person: { attribute: false },
    label: { state: true },
    rows: { state: true },
    busy: { state: true },
    ready: { state: true },
  };

  constructor() {
    super();
    /** @type {Schemas["PersonView"] | null} */
    this.person = null;
    this.label = "wake";
    /** @type {Row[]} */
    this.rows = [];
    this.busy = false;
    this.ready = false;
    this.ended = false;
  }

  connectedCallback() {
    super.connectedCallback();
    this.ended = false;
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.ended = true; // the file that is on its way arrives; the rest stays
  }

  /** @param {SubmitEvent} event */
  async #send(event) {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.target);
    const input = /** @type {HTMLInputElement} */ (form.elements.namedItem("files"));
    const files = [...(input.files ?? [])];
    const spoken = this.label !== "noise";
    const path = `api/imports${query({ label: this.label, person: spoken ? this.person?.id : "" })}`;
    this.rows = files.map((file) => ({ name: file.name, bytes: file.size, state: "waiting", text: "" }));
    this.busy = true;
    for (const [index, file] of files.entries()) {
      if (this.ended) break;
      this.#set(index, { state: "sending" });
      try {
        const told = /** @type {Schemas["FileImported"]} */ (await send(path, file, "application/octet-stream"));
        this.#set(index, {
          state: told.rejected ? "failed" : "done",
          text:
            told.rejected ||
            (told.doubt
              ? t("record.file_doubt", { why: told.doubt })
              : told.added
                ? duration(told.duration_s)
                : t("record.file_known")),
        });
      } catch (error) {
        const problem = asProblem(error);
        this.#set(index, { state: "failed", text: [problem.message, problem.hint].filter(Boolean).join(" – ") });
      }
    }
    this.busy = false;
    this.ready = false;
    form.reset();
  }

  /** @param {number} index @param {Partial<Row>} change */
  #set(index, change) {
    this.rows = this.rows.map((row, place) => (place === index ? { ...row, ...change } : row));
  }

  render() {
    const done = this.rows.filter((row) => row.state === "done" || row.state === "failed").length;
    const good = this.rows.filter((row) => row.state === "done").length;
    return html`<form @submit=${this.#send}>
        <p class="muted">${t("record.files_text")}</p>
        <fieldset>
          <legend>${t("record.label")}</legend>
          ${LABELS.map(
            (label) => html`<label class="choice">
              <input
                type="radio"
                name="label"
                value=${label}
                .checked=${this.label === label}
                @change=${() => (this.label = label)}
              />
              <span>${t(`record.label_${label}`)}<small>${t(`record.label_${label}_text`)}</small></span>
            </label>`,
          )}
        </fieldset>
        <label>
          ${t("record.choose_files")}
          <input
            type="file"
            name="files"
            multiple
            required
            accept="audio/*,.wav,.flac,.ogg,.opus,.mp3"
            @change=${(/** @type {Event} */ event) =>
              (this.ready = Boolean(/** @type {HTMLInputElement} */ (event.target).files?.length))}
          />
          <small>
            ${this.label === "noise"
              ? t("record.files_nobody")
              : t("record.files_of", { person: this.person?.person.name ?? "" })}
          </small>
        </label>
        <button class="primary" ?disabled=${this.busy || !this.ready}>
          ${this.busy ? t("record.sending_files") : t("record.send_files")}
        </button>
      </form>
      ${this.rows.length
        ? html`<div class="row progress" role="status">
              <progress aria-label=${t("record.sending_files")} max=${this.rows.length} .value=${done}></progress>
              <span class="number">${percent(done / this.rows.length)}</span>
            </div>
            ${done === this.rows.length
              ? html`<p>${t("record.files_done", { good, all: number(this.rows.length) })}</p>`
              : nothing}
            <ul class="takes">
              ${this.rows.map(
                (row) => html`<li>
                  <span class="grow">${row.name} <span class="muted">${size(row.bytes)}</span></span>
                  <span class=${row.state === "failed" ? "bad" : row.state === "done" ? "good" : "muted"}>
                    ${row.text || t(`record.file_${row.state}`)}
                  </span>
                </li>`,
              )}
            </ul>`
        : nothing}`;
  }
}
customElements.define("mww-files", Files);
