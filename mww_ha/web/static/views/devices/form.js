/** What stands in devices.yaml of one satellite: added, or changed. */
import { html, nothing } from "../../vendor/lit.js";
import { get, post, put } from "../../lib/api.js";
import { t } from "../../lib/i18n.js";
import { Loaded, View, asProblem, go, note, showProblem } from "../../lib/ui.js";

/** @typedef {import("../../lib/api.js").Schemas} Schemas */

const CHANGED_FIELDS = /** @type {const} */ (["template", "address", "backend", "serial", "friendly_name", "room", "yaml"]);

/** `<mww-device-form .device=${device}>` changes one; without it, one is added: `.found` fills in what is known. */
export class DeviceForm extends View {
  static properties = {
    device: { attribute: false }, found: { attribute: false },
    template: { state: true }, backend: { state: true }, capture: { state: true }, problem: { state: true },
    busy: { state: true },
  };

  constructor() {
    super();
    /** @type {Schemas["Device"] | null} */
    this.device = null;
    /** @type {Record<string, string>} */
    this.found = {};
    this.template = "";
    this.backend = "";
    /** @type {boolean | null} */
    this.capture = null;
    this.busy = false;
    /** @type {import("../../lib/api.js").Problem | null} */
    this.problem = null;
    this.options = new Loaded(
      this, (signal) => /** @type {Promise<Schemas["DeviceOptions"]>} */ (get("api/devices/options", signal)),
    );
  }

  /** @param {SubmitEvent} event */
  async #save(event) {
    event.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
    const text = (/** @type {string} */ name) => String(form.get(name) ?? "").trim();
    const known = this.device;
    /** @type {Record<string, string>} */
    const given = {};
    for (const line of text("substitutions").split("\n")) {
      const [name, ...rest] = line.split("=");
      if (name?.trim()) given[name.trim()] = rest.join("=").trim();
    }
    for (const [name, value] of form) if (name.startsWith("need-")) given[name.slice(5)] = String(value).trim();
    const fields = Object.fromEntries(CHANGED_FIELDS.map((name) => [name, text(name)]));
    const entry = {
      ...fields,
      port: Number(text("port") || 6053),
      api_key: text("api_key"),
      substitutions: Object.entries(given).map(([name, value]) => ({ name, value })),
      also: text("also").split(/[\s,]+/).filter(Boolean),
      vad: known && known.vad !== "vad" && known.vad ? known.vad : form.has("vad") ? "vad" : "",
      capture_url: form.has("capture") ? text("capture_url") : "",
      near_miss: form.has("near_miss"),
    };
    this.busy = true;
    this.problem = null;
    try {
      const made = /** @type {Schemas["Device"]} */ (
        await (known ? put(`api/devices/${known.name}`, entry) : post("api/devices", { name: text("name"), entry }))
      );
      note(t(known ? "devices.saved" : "devices.added", { name: made.name }));
      go(`#/devices/${made.name}`);
    } catch (error) {
      this.problem = asProblem(error);
    }
    this.busy = false;
  }

  render() {
    return this.options.show((options) => this.#form(options));
  }

  /** @param {Schemas["DeviceOptions"]} options */
  #form(options) {
    const known = this.device;
    const template = this.template || known?.template || "generic-s3";
    const board = options.boards.find((one) => one.id === template);
    const backend = this.backend || known?.backend || "esphome";
    const way = options.backends.find((one) => one.name === backend);
    const capture = this.capture ?? (known ? Boolean(known.capture_url) : options.capture_urls.length > 0);
    const needs = board?.needs ?? [];
    const others = Object.entries(known?.substitutions ?? {}).filter(([name]) => !needs.includes(name));
    return html`<form class="card form" @submit=${this.#save}>
      <h2>${known ? t("devices.change", { name: known.name }) : t("devices.add_title")}</h2>
      ${known
        ? nothing
        : html`<label>
            ${t("devices.name")}
            <input name="name" required maxlength="60" autocomplete="off" .value=${this.found["add"] ?? ""}
              placeholder="kitchen" />
            <small>${t("devices.name_hint")}</small>
          </label>`}
      <label>
        ${t("devices.template")}
        <select
          name="template"
          @change=${(/** @type {any} */ event) => (this.template = event.target.value)}
          aria-describedby="template-about"
        >
          ${options.boards.map(
            (one) => html`<option value=${one.id} .selected=${one.id === template}>${one.title}</option>`,
          )}
        </select>
        <small id="template-about">
          ${board?.complete ? t("devices.complete") : t("devices.package")} ${board?.hint ?? ""}
          ${t("devices.minimum", { version: board?.minimum_esphome ?? "" })}
        </small>
      </label>
      ${needs.map(
        (name) => html`<label>
          ${name}
          <input name="need-${name}" required maxlength="120" .value=${known?.substitutions[name] ?? ""} />
        </label>`,
      )}
      ${board && !board.complete
        ? html`<label>
            ${t("devices.yaml")}
            <input name="yaml" maxlength="200" .value=${known?.yaml ?? ""} placeholder="kitchen.yaml" />
            <small>${t("devices.yaml_hint")}</small>
          </label>`
        : nothing}
      <label>
        ${t("devices.address")}
        <input name="address" maxlength="200" .value=${known?.address ?? this.found["address"] ?? ""}
          placeholder="192.168.1.20" />
        <small>${t("devices.address_hint")}</small>
      </label>
      <label>
        ${t("devices.backend")}
        <select name="backend" @change=${(/** @type {any} */ event) => (this.backend = event.target.value)}>
          ${options.backends.map(
            (one) => html`<option value=${one.name} .selected=${one.name === backend}>
              ${t(`devices.backend_${one.name}`)}
            </option>`,
          )}
        </select>
        ${way && !way.ready ? html`<small class="warn">${way.message}: ${way.hint}</small>` : nothing}
      </label>
      <label>
        ${t("devices.serial")}
        <input name="serial" maxlength="200" list="serial-ports" .value=${known?.serial ?? ""}
          placeholder=${t("devices.over_the_air")} />
        <datalist id="serial-ports">
          ${options.serial_ports.map((port) => html`<option value=${port.path}>${port.title}</option>`)}
        </datalist>
        <small>
          ${t("devices.serial_hint")}
          ${options.serial_ports.length
            ? options.serial_ports.map((port) => `${port.path} ${port.title}`.trim()).join(", ")
            : t("devices.no_ports")}
        </small>
      </label>
      <fieldset>
        <legend>${t("devices.capture")}</legend>
        <label class="choice">
          <input type="checkbox" name="capture" .checked=${capture}
            @change=${(/** @type {any} */ event) => (this.capture = event.target.checked)} />
          <span>${t("devices.capture_may")}<small>${t("devices.capture_may_hint")}</small></span>
        </label>
        ${capture
          ? html`<label>
              ${t("devices.capture_url")}
              <input name="capture_url" required maxlength="200" list="capture-urls"
                .value=${known?.capture_url || options.capture_urls[0] || ""}
                placeholder="http://192.168.1.10:8098/api/captures" />
              <datalist id="capture-urls">
                ${options.capture_urls.map((url) => html`<option value=${url}></option>`)}
              </datalist>
              <small>${t("devices.capture_url_hint")}</small>
            </label>`
          : nothing}
        ${capture && board?.has_slot
          ? html`<label class="choice">
              <input type="checkbox" name="near_miss" .checked=${known?.near_miss ?? false} />
              <span>${t("devices.near_miss")}<small>${t("devices.near_miss_hint")}</small></span>
            </label>`
          : nothing}
      </fieldset>
      <details ?open=${Boolean(known && (known.api_key !== "mww_api_encryption_key" || others.length))}>
        <summary>${t("devices.more")}</summary>
        <div class="fields">
          <label>
            ${t("devices.friendly_name")}
            <input name="friendly_name" maxlength="120"
              .value=${known?.friendly_name ?? this.found["friendly_name"] ?? ""} />
          </label>
          <label>
            ${t("devices.room")}
            <input name="room" maxlength="120" .value=${known?.room ?? ""} />
          </label>
          <label>
            ${t("devices.port")}
            <input name="port" type="number" min="1" max="65535"
              .value=${String(known?.port ?? this.found["port"] ?? 6053)} />
          </label>
          <label>
            ${t("devices.api_key")}
            <input name="api_key" maxlength="40" pattern="[A-Za-z_][A-Za-z0-9_\\-]*"
              .value=${known?.api_key ?? "mww_api_encryption_key"} />
          </label>
          <label>
            ${t("devices.also")}
            <input name="also" maxlength="400" .value=${(known?.also ?? []).join(", ")} />
          </label>
        </div>
        <p><small>${t("devices.api_key_hint")}</small></p>
        <label class="choice">
          <input type="checkbox" name="vad" .checked=${Boolean(known?.vad)} />
          <span>${t("devices.vad")}<small>${t("devices.vad_hint")}</small></span>
        </label>
        <label>
          ${t("devices.substitutions")}
          <textarea name="substitutions" rows="3" placeholder="mic_gain=8"
            .value=${others.map(([name, value]) => `${name}=${value}`).join("\n")}></textarea>
          <small>${t("devices.substitutions_hint")}</small>
        </label>
      </details>
      ${this.problem ? showProblem(this.problem) : nothing}
      ${known ? html`<p class="muted">${t("devices.next_flash")}</p>` : nothing}
      <div class="row end">
        <a class="button" href=${known ? `#/devices/${known.name}` : "#/devices"}>${t("app.cancel")}</a>
        <button class="primary" ?disabled=${this.busy}>${known ? t("devices.save") : t("devices.add")}</button>
      </div>
    </form>`;
  }
}
customElements.define("mww-device-form", DeviceForm);

const WIFI = ["wifi_ssid", "wifi_password"];
const MADE_UP = ["mww_api_encryption_key", "mww_ota_password"];

/**
 * ESPHome's secrets.yaml: what is missing can be typed here, and the Wi-Fi changed. No value ever comes back.
 * "filled" is told when it was written.
 */
class Secrets extends View {
  static properties = { secrets: { attribute: false }, busy: { state: true }, problem: { state: true } };

  constructor() {
    super();
    /** @type {Schemas["SecretsView"] | null} */
    this.secrets = null;
    this.busy = false;
    /** @type {import("../../lib/api.js").Problem | null} */
    this.problem = null;
  }

  /** @param {SubmitEvent} event */
  async #fill(event) {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.target);
    this.busy = true;
    this.problem = null;
    try {
      const entries = [...new FormData(form)].map(([name, value]) => ({ name, value: String(value) }));
      this.secrets = await put("api/secrets", { secrets: entries });
      form.reset();
      note(t("devices.secrets_written"));
      this.dispatchEvent(new CustomEvent("filled", { bubbles: true }));
    } catch (error) {
      this.problem = asProblem(error);
    }
    this.busy = false;
  }

  render() {
    if (!this.secrets) return nothing;
    const { path, exists, message, missing, unfilled } = this.secrets;
    if (message) return html`<div class="warning"><p>${message}</p></div>`;
    // What the file is made with needs nobody; the Wi-Fi does.
    const names = [...new Set([...unfilled, ...missing])].filter((name) => exists || !MADE_UP.includes(name));
    if (!names.length && !exists) return nothing;
    if (!names.length) {
      return html`<details>
        <summary>${t("devices.secrets_wifi")}</summary>
        ${this.#form(WIFI, path)}
      </details>`;
    }
    const wifi = names.some((name) => WIFI.includes(name));
    return html`<div class="warning secrets">
      <p><strong>${wifi ? t("devices.secrets") : t("devices.secrets_keys")}</strong></p>
      ${this.#form(wifi ? [...new Set([...WIFI, ...names])] : names, path)}
    </div>`;
  }

  /** @param {string[]} names @param {string} path */
  #form(names, path) {
    return html`<form @submit=${this.#fill}>
      <div class="fields">${names.map((name) => this.#field(name))}</div>
      ${this.problem ? showProblem(this.problem) : nothing}
      <div class="row between">
        <small>${t("devices.secrets_hint", { path })}</small>
        <button class="primary" ?disabled=${this.busy}>${t("devices.save")}</button>
      </div>
    </form>`;
  }

  /** @param {string} name */
  #field(name) {
    const label = WIFI.includes(name) || MADE_UP.includes(name) ? t(`devices.secret_${name}`) : name;
    const hidden = name === "wifi_password";
    const hint = name === "mww_ota_password" ? "secret_made_up" : WIFI.includes(name) ? "" : "secret_key_hint";
    return html`<label>
      ${label}
      <input
        name=${name}
        type=${hidden ? "password" : "text"}
        autocomplete=${hidden ? "new-password" : "off"}
        maxlength="200"
        ?required=${name === "wifi_ssid"}
      />
      ${hint ? html`<small>${t(`devices.${hint}`)}</small>` : nothing}
    </label>`;
  }
}
customElements.define("mww-secrets", Secrets);
