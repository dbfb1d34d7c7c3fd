/** How often it woke wrongly, by satellite, room and model, and how many of a person's takes were heard. */
import { html, nothing } from "../vendor/lit.js";
import { get, query } from "../lib/api.js";
import { interval, number, t } from "../lib/i18n.js";
import { Loaded, View, empty } from "../lib/ui.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */

const BY = ["device,model", "device", "room", "model"];
const DAYS = [0, 7, 30, 90];
const LEAST_HOURS = 1;

class ReviewRates extends View {
  static properties = { by: { state: true }, days: { state: true } };

  constructor() {
    super();
    this.by = "device,model";
    this.days = 0;
    this.rates = new Loaded(
      this,
      (signal) => /** @type {Promise<Schemas["RateView"][]>} */ (
        get(`api/rates${query({ by: this.by, since: this.#since() })}`, signal)
      ),
    );
    this.recall = new Loaded(
      this,
      (signal) => /** @type {Promise<Schemas["RecallView"][]>} */ (get(`api/recall${query({ since: this.#since() })}`, signal)),
    );
  }

  connectedCallback() {
    super.connectedCallback();
    this.hear(["capture", "judged", "deleted", "expired", "scored"], () => this.#soon(1000));
  }

  #since() {
    return this.days ? new Date(Date.now() - this.days * 86400_000).toISOString().slice(0, 10) : "";
  }

  #soon(wait_ms = 0) {
    this.rates.soon(wait_ms);
    this.recall.soon(wait_ms);
  }

  render() {
    return html`<div class="stack">
      <div class="fields filters">
        <label>${t("review.rates_by")}
          <select name="by" @change=${(/** @type {Event} */ event) => {
            this.by = /** @type {HTMLSelectElement} */ (event.target).value;
            this.rates.soon(0);
          }}>
            ${BY.map((by) => html`<option value=${by} ?selected=${by === this.by}>${t(`review.rates_by_${by.replace(",", "_")}`)}</option>`)}
          </select>
        </label>
        <label>${t("review.since")}
          <select name="since" @change=${(/** @type {Event} */ event) => {
            this.days = Number(/** @type {HTMLSelectElement} */ (event.target).value);
            this.#soon();
          }}>
            ${DAYS.map((days) => html`<option value=${days} ?selected=${days === this.days}>${
              days ? t("review.since_days", { count: days }) : t("review.since_ever")}</option>`)}
          </select>
        </label>
      </div>
      <section class="card">
        <h2>${t("review.rates")}</h2>
        ${this.rates.show((rates) => (rates.length ? this.#rates(rates) : empty(t("review.no_rates"), t("review.no_rates_text"))))}
      </section>
      <section class="card">
        <h2>${t("review.recall")}</h2>
        <p class="muted">${t("review.recall_text")}</p>
        ${this.recall.show((recall) =>
          recall.length ? this.#recall(recall) : empty(t("review.no_recall"), t("review.no_recall_text"), html`<a class="button" href="#/record">${t("nav.record")}</a>`))}
      </section>
    </div>`;
  }

  /** @param {Schemas["RateView"][]} rates */
  #rates(rates) {
    const keys = /** @type {("device" | "room" | "model")[]} */ (this.by.split(","));
    return html`<div class="wide"><table>
      <thead><tr>
        ${keys.map((key) => html`<th scope="col">${t(`review.rates_by_${key}`)}</th>`)}
        <th scope="col">${t("review.false_accepts")}</th>
        <th scope="col" class="number">${t("review.wakes")}</th>
        <th scope="col" class="number">${t("review.missed")}</th>
        <th scope="col" class="number">${t("review.unjudged")}</th>
        <th scope="col" class="number">${t("review.lost")}</th>
      </tr></thead>
      <tbody>
        ${rates.map((rate) => html`<tr>
          ${keys.map((key) => html`<td>${rate[key] || t("review.not_said")}</td>`)}
          <td class="rate">${rateText(rate)}
            ${rate.unjudged && rate.worst_per_hour !== null && rate.hours >= LEAST_HOURS
              ? html`<br /><small>${t("review.worst", { value: short(24 * rate.worst_per_hour) })}</small>`
              : nothing}
          </td>
          <td class="number">${number(rate.wakes)}</td>
          <td class="number">${number(rate.missed)}</td>
          <td class="number">${rate.unjudged
            ? html`<a href="#/review${query({ device: rate.device, model: rate.model })}">${number(rate.unjudged)}</a>`
            : "0"}</td>
          <td class="number">${number(rate.lost)}</td>
        </tr>`)}
      </tbody>
    </table></div>`;
  }

  /** @param {Schemas["RecallView"][]} recall */
  #recall(recall) {
    return html`<div class="wide"><table>
      <thead><tr>
        <th scope="col">${t("review.person")}</th>
        <th scope="col">${t("review.heard")}</th>
        <th scope="col">${t("review.model")}</th>
        <th scope="col" class="number">${t("review.unscored")}</th>
      </tr></thead>
      <tbody>
        ${recall.map((one) => html`<tr>
          <td>${one.person || t("review.nobody")}</td>
          <td>${interval(one.recall)}</td>
          <td>${one.model || t("review.model_unknown")}</td>
          <td class="number">${number(one.unscored)}</td>
        </tr>`)}
      </tbody>
    </table></div>`;
  }
}
customElements.define("mww-review-rates", ReviewRates);

/** @param {number} value two digits where it is small @returns {string} */
const short = (value) => number(value, value >= 10 ? 0 : value >= 0.05 || value === 0 ? 1 : 3);

/** @param {Schemas["RateView"]} rate @returns {string} "3 in 214 h: 0.3 a day [0.1–1.0]" */
function rateText(rate) {
  const events = rate.false_accepts;
  if (!rate.per_hour) return t("review.rate_no_hours", { events });
  const hours = number(rate.hours, rate.hours >= 10 ? 0 : 1);
  if (rate.hours < LEAST_HOURS) return t("review.rate_too_little", { events, hours });
  const { value, low, high } = rate.per_hour;
  return t("review.rate", { events, hours, value: short(24 * value), low: short(24 * low), high: short(24 * high) });
}
