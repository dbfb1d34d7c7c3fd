/**
 * Review: what the satellites heard, and what it was. `#/review/CAPTURE?device=…&model=…&kind=…&order=…` is the queue at
 * one capture, `?tab=all` the list, `?tab=rates` how often it woke wrongly.
 */
import { html } from "../vendor/lit.js";
import { get, query } from "../lib/api.js";
import { t } from "../lib/i18n.js";
import { Loaded, View, go } from "../lib/ui.js";
import "./review_list.js";
import "./review_queue.js";
import "./review_rates.js";
import { KINDS } from "./review_words.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */

const TABS = ["queue", "all", "rates"];
const ORDERS = ["informative", "newest", "oldest"];

class Review extends View {
  constructor() {
    super();
    this.counts = new Loaded(
      this,
      (signal) => /** @type {Promise<Schemas["CaptureCount"][]>} */ (get("api/review/counts", signal)),
    );
  }

  connectedCallback() {
    super.connectedCallback();
    this.hear(["capture", "judged", "deleted", "expired"], () => this.counts.soon(1000));
  }

  /** @param {Record<string, string>} changes */
  #address(changes) {
    const { tab, device, model, kind, order, state } = { ...this.params, ...changes };
    const isPlain = !tab || tab === "queue";
    return `#/review${query({ tab: isPlain ? "" : tab, device, model, kind, order, state })}`;
  }

  /** @param {string} name @param {[string, string][]} options value and text; an empty value: all */
  #select(name, options) {
    const chosen = this.params[name] ?? "";
    return html`<label>
      ${t(`review.by_${name}`)}
      <select
        name=${name}
        @change=${(/** @type {Event} */ event) => {
          const select = /** @type {HTMLSelectElement} */ (event.target);
          select.blur(); // the keys belong to the captures again
          go(this.#address({ [name]: select.value }));
        }}
      >
        ${options.map(
          ([value, text]) => html`<option value=${value} ?selected=${value === chosen}>${text}</option>`,
        )}
      </select>
    </label>`;
  }

  #filters() {
    const counts = this.counts.value ?? [];
    /** @param {(count: Schemas["CaptureCount"]) => string} of @param {string} chosen @returns {[string, string][]} */
    const values = (of, chosen = "") => {
      const there = new Set([...counts.map(of), chosen].filter(Boolean));
      return [["", t("review.every")], ...[...there].sort().map((one) => /** @type {[string, string]} */ ([one, one]))];
    };
    return html`<div class="fields filters">
      ${this.#select("device", values((count) => count.device, this.params["device"]))}
      ${this.#select("model", values((count) => count.model, this.params["model"]))}
      ${this.#select("kind", [["", t("review.every")], ...KINDS.map(
        (kind) => /** @type {[string, string]} */ ([kind, t(`review.kind_${kind}`)]),
      )])}
      ${this.#select("order", ORDERS.filter((order) => order !== "informative" || this.#tab() === "queue").map(
        (order) => [order === (this.#tab() === "queue" ? "informative" : "newest") ? "" : order, t(`review.order_${order}`)],
      ))}
    </div>`;
  }

  #tab() {
    const tab = this.params["tab"] ?? "";
    return TABS.includes(tab) ? tab : "queue";
  }

  render() {
    const tab = this.#tab();
    const { device = "", model = "", kind = "", order = "", state = "" } = this.params;
    const filter = { device, model, kind };
    return html`<div class="stack">
      <div class="tabs" role="navigation" aria-label=${t("nav.review")}>
        ${TABS.map(
          (name) => html`<a
            href=${this.#address({ tab: name, order: "" })}
            aria-current=${name === tab ? "page" : "false"}
          >${t(`review.tab_${name}`)}</a>`,
        )}
      </div>
      ${tab === "rates" ? "" : this.#filters()}
      ${tab === "queue"
        ? html`<mww-review-queue
            .filter=${filter}
            .order=${order || "informative"}
            .path=${this.path}
            .counts=${this.counts.value ?? null}
          ></mww-review-queue>`
        : tab === "all"
          ? html`<mww-review-list .filter=${filter} .order=${order || "newest"} .which=${state || "all"}></mww-review-list>`
          : html`<mww-review-rates></mww-review-rates>`}
    </div>`;
  }
}
customElements.define("mww-review", Review);
