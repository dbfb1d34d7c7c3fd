/** The satellites: those of devices.yaml, those on the network, and one of them with all that can be done with it. */
import { html, keyed, nothing } from "../vendor/lit.js";
import { get, post } from "../lib/api.js";
import { ago, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { ENDED, Loaded, View, attempt, confirm, empty, showProblem, start, watchJobs } from "../lib/ui.js";
import { Problem } from "../lib/api.js";
import "./devices/form.js";
import "./devices/steps.js";
import { FLASHES, readLive, sayModel } from "./devices/device.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */

class Devices extends View {
  constructor() {
    super();
    this.devices = new Loaded(
      this, (signal) => /** @type {Promise<Schemas["DeviceState"][]>} */ (get("api/devices", signal)),
    );
    this.found = new Loaded(
      this, (signal) => /** @type {Promise<Schemas["FoundDevices"]>} */ (get("api/devices/found", signal)),
    );
    this.options = new Loaded(
      this, (signal) => /** @type {Promise<Schemas["DeviceOptions"]>} */ (get("api/devices/options", signal)),
    );
    this.jobs = watchJobs(this, ["flash"]);
  }

  connectedCallback() {
    super.connectedCallback();
    this.hear(["devices"], () => {
      this.devices.soon(50);
      this.options.soon(50);
      this.found.soon(50);
    });
    this.hear(["found"], () => this.found.soon(10));
    this.hear(["job"], (job) => {
      if (!job || (FLASHES.includes(job.kind) && ENDED.includes(job.state))) this.devices.soon();
    });
  }

  render() {
    const [name, tail] = this.path;
    if (name) {
      return keyed(name, html`<mww-device
        .name=${name} .editing=${tail === "edit"} .params=${this.params} @removed=${() => this.#forget(name)}
      ></mww-device>`);
    }
    if ("add" in this.params) {
      return keyed(
        JSON.stringify(this.params),
        html`<mww-device-form .found=${this.params}></mww-device-form>`,
      );
    }
    return this.devices.show((devices) => this.#list(devices));
  }

  /** Nobody asks what is not there any more. @param {string} name */
  #forget(name) {
    this.devices.value = this.devices.value?.filter((one) => one.device.name !== name);
  }

  /** @param {Schemas["DeviceState"][]} devices */
  #list(devices) {
    return html`
      <div class="row devices-head">
        <a class="button ${devices.length ? "" : "primary"}" href="#/devices?add">${icon("add")}${t("devices.add")}</a>
        <button type="button" ?disabled=${this.found.value?.scanning} @click=${this.#scan}>
          ${this.found.value?.scanning
            ? html`<span class="spin" aria-hidden="true"></span>${t("devices.scanning")}`
            : t("devices.scan")}
        </button>
        ${devices.length > 1
          ? html`<button type="button" @click=${() => this.#flashAll(devices)}>${t("devices.flash_all")}</button>
              <button type="button" class="plain" @click=${() => this.#flashAll(devices, true)}>
                ${t("devices.check_all")}
              </button>`
          : nothing}
      </div>
      ${this.#every()}
      ${this.options.value && devices.length ? html`<mww-secrets .secrets=${this.options.value.secrets} @filled=${() => this.options.load()}></mww-secrets>` : nothing}
      ${devices.length
        ? html`<div class="cards">
            ${devices.map((one) => keyed(
              one.device.name, html`<mww-device-card .state=${one}></mww-device-card>`,
            ))}
          </div>`
        : empty(t("devices.none"), t("devices.none_text"))}
      ${this.#onTheNetwork()}
    `;
  }

  /** What goes to all of them, while it goes, and how it ended last. */
  #every() {
    const job = (this.jobs.value ?? []).find((one) => one.order["every"]);
    if (!job) return nothing;
    return html`<section class="card every" aria-label=${t("devices.flash_all")}>
      <mww-flash-steps .job=${job}></mww-flash-steps>
      <mww-job .job=${job}></mww-job>
    </section>`;
  }

  #onTheNetwork() {
    return this.found.show((found) => {
      if (!found.at) return nothing;
      return html`<section class="found" aria-labelledby="found">
        <h2 id="found">${t("devices.found")}</h2>
        <p class="muted">${t("devices.found_at", { when: ago(found.at) })}</p>
        ${found.message ? showProblem(new Problem(found.message, { hint: found.hint })) : nothing}
        ${found.devices.length
          ? html`<div class="wide card" tabindex="0" role="region" aria-labelledby="found"><table>
              <thead><tr>
                <th>${t("devices.name")}</th><th>${t("devices.address")}</th><th>ESPHome</th>
                <th>${t("devices.board")}</th><th><span class="hidden">${t("devices.add")}</span></th>
              </tr></thead>
              <tbody>${found.devices.map((one) => this.#foundRow(one))}</tbody>
            </table></div>`
          : html`<p>${t("devices.found_none")}</p>`}
      </section>`;
    });
  }

  /** @param {Schemas["FoundDevice"]} one */
  #foundRow(one) {
    const fields = { add: one.name, address: one.address, port: String(one.port), friendly_name: one.friendly_name };
    const add = `#/devices?${new URLSearchParams(fields)}`;
    return html`<tr>
      <td>${one.name}${one.friendly_name ? html`<br /><small>${one.friendly_name}</small>` : nothing}</td>
      <td class="mono">${one.address}</td>
      <td>${one.esphome_version}</td>
      <td>${one.board}</td>
      <td>
        ${one.known
          ? html`<a href="#/devices/${one.name}">${t("devices.known")}</a>`
          : html`<a class="button" href=${add} aria-label=${t("devices.add_one", { name: one.name })}>${t("devices.add")}</a>`}
      </td>
    </tr>`;
  }

  async #scan() {
    const begun = await attempt(() => post("api/devices/found"));
    if (begun) {
      this.found.value = /** @type {Schemas["FoundDevices"]} */ (begun);
      this.requestUpdate();
    }
  }

  /** @param {Schemas["DeviceState"][]} devices */
  async #flashAll(devices, dry = false) {
    const names = devices.map((one) => one.device.name).join(", ");
    const sure = dry || await confirm({
      title: t("devices.flash_all"), text: t("devices.flash_all_text", { names }), yes: t("devices.flash_all"),
    });
    if (sure && (await start({ kind: "flash", every: true, dry_run: dry }))) this.jobs.soon(10);
  }
}
customElements.define("mww-devices", Devices);

/** One satellite in the list. It is asked once when the list is opened, and when somebody wants to know. */
class DeviceCard extends View {
  static properties = { state: { attribute: false } };

  constructor() {
    super();
    /** @type {Schemas["DeviceState"] | null} */
    this.state = null;
    this.live = readLive(this, () => this.state?.device.name ?? "");
  }

  connectedCallback() {
    super.connectedCallback();
    this.hear(["job"], (job) => {
      if (job && FLASHES.includes(job.kind) && job.state === "done" && job.order.device === this.state?.device.name) {
        this.live.soon();
      }
    });
  }

  render() {
    const state = this.state;
    if (!state) return nothing;
    const { device, verified, newest } = state;
    const live = this.live.value;
    return html`<article class="card device" aria-label=${device.name}>
      <header>
        <h2><a href="#/devices/${device.name}">${device.friendly_name || device.name}</a></h2>
        ${state.room ? html`<span class="muted">${state.room}</span>` : nothing}
      </header>
      <div class="row" aria-live="polite">
        ${showReach(this.live)}
        ${live?.capture?.on ? html`<span class="tag warn">${t("devices.captures")}</span>` : nothing}
        ${verified?.canary ? html`<span class="tag">${t("devices.on_trial")}</span>` : nothing}
        ${state.new_model && verified ? html`<span class="tag running">${t("devices.new_model")}</span>` : nothing}
      </div>
      <dl class="facts">
        <dt>${t("devices.model")}</dt>
        <dd class=${verified ? "mono" : "muted"}>${sayModel(state)}</dd>
        <dt>ESPHome</dt>
        <dd>${live?.esphome_version || verified?.esphome_version || "–"}</dd>
        ${device.friendly_name ? html`<dt>${t("devices.name")}</dt><dd>${device.name}</dd>` : nothing}
        ${state.waiting
          ? html`<dt>${t("devices.waiting")}</dt><dd><a href="#/review?device=${device.name}">${state.waiting}</a></dd>`
          : nothing}
      </dl>
      ${newest && (newest.outcome === "failed" || newest.outcome === "stopped")
        ? html`<p class="problem">${t("devices.last_failed")} ${newest.message.split("\n")[0]}</p>`
        : nothing}
      <div class="row">
        <a class="button" href="#/devices/${device.name}">${t("devices.open")}</a>
        <button type="button" class="plain" ?disabled=${this.live.loading} @click=${() => this.live.load()}>
          ${t("devices.ask_again")}
        </button>
      </div>
    </article>`;
  }
}
customElements.define("mww-device-card", DeviceCard);

/** @param {Loaded<Schemas["LiveDevice"]>} live */
export function showReach(live) {
  if (live.loading && !live.value) return html`<span class="tag">${t("devices.asking")}</span>`;
  if (!live.value) return html`<span class="tag bad">${live.problem?.message ?? ""}</span>`;
  return live.value.reachable
    ? html`<span class="tag good">${t("devices.reachable")}</span>`
    : html`<span class="tag bad">${t("devices.not_reachable")}</span>`;
}
