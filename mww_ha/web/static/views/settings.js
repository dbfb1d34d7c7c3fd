/** Settings: everything that can be set, who may send, what there is, and the project as a file. */
import { html, nothing } from "../vendor/lit.js";
import { Problem, address, get, page, post, put, remove } from "../lib/api.js";
import { LANGUAGES, ago, has, language, moment, percent, setLanguage, size, t } from "../lib/i18n.js";
import { applyScheme, chosenScheme } from "../lib/scheme.js";
import { ENDED, Loaded, View, asProblem, attempt, confirm, copy, empty, note, showProblem, start, watchJobs } from "../lib/ui.js";
import { sendArchive } from "./settings_archive.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */
/** @typedef {Schemas["SettingView"]} Setting */

const PARTS = /** @type {const} */ ([
  "page", "project", "voices", "training", "captures", "home_assistant", "builder", "storage", "archive", "health", "all", "about",
]);

/** The settings that have a place of their own beside the table of all of them. */
const CHOSEN = {
  project: ["phrase", "language", "effort"],
  captures: ["capture.keep_days", "capture.max_mb", "capture.undo_minutes", "retrain.verdicts", "retrain.every_days", "retrain.automatic"],
  home_assistant: ["home_assistant.url", "home_assistant.token_file", "home_assistant.notifications"],
  mqtt: ["mqtt.host", "mqtt.port", "mqtt.username", "mqtt.password_file", "mqtt.tls", "mqtt.ca_file"],
  builder: ["flash.builder_url", "flash.handoff_dir", "flash.esphome"],
};

const LISTS = ["texts", "numbers", "whole numbers"];

/** @param {Setting} setting @param {unknown} value @returns {string} as it stands in a field */
function written(setting, value) {
  if (value === null || value === undefined) return "";
  return Array.isArray(value) ? value.join(", ") : String(value);
}

/**
 * What was written into a field, as the service wants it. Numbers are written with a point, as in project.yaml.
 * @param {Setting} setting @param {string} text
 */
function read(setting, text) {
  const trimmed = text.trim();
  if (setting.kind === "text" || setting.kind === "choice") return trimmed;
  if (LISTS.includes(setting.kind)) {
    const items = trimmed ? trimmed.split(",").map((item) => item.trim()).filter(Boolean) : [];
    return setting.kind === "texts" ? items : items.map(asNumber);
  }
  return asNumber(trimmed);
}

/** A text that is no number goes as it is: the service says what is wrong with it. @param {string} text */
const asNumber = (text) => (text !== "" && Number.isFinite(Number(text)) ? Number(text) : text);

class SettingsView extends View {
  static properties = {
    search: { state: true }, changed: { state: true }, token: { state: true }, checked: { state: true },
    checking: { state: true }, sending: { state: true }, problems: { state: true }, doctorOpen: { state: true },
  };

  constructor() {
    super();
    this.search = "";
    this.changed = false;
    /** @type {Schemas["NewToken"] | null} */
    this.token = null;
    /** @type {Schemas["BuilderView"] | null} */
    this.checked = null;
    this.checking = false;
    /** @type {number | null} */
    this.sending = null;
    this.doctorOpen = false;
    /** @type {Record<string, Problem>} what is wrong with which setting */
    this.problems = {};
    /** @param {string} path @returns {Loaded<any>} */
    const loaded = (path) => new Loaded(this, (signal) => get(path, signal));
    /** @type {Loaded<Setting[]>} */
    this.settings = loaded("api/settings");
    /** @type {Loaded<Schemas["VoicesView"]>} */
    this.voices = loaded("api/voices");
    /** @type {Loaded<Schemas["StorageView"]>} */
    this.storage = loaded("api/storage");
    /** @type {Loaded<Schemas["TokenView"][]>} */
    this.tokens = loaded("api/tokens");
    /** @type {Loaded<Schemas["DeviceState"][]>} */
    this.devices = loaded("api/devices");
    /** @type {Loaded<Schemas["Status"]>} */
    this.status = loaded("api/status");
    /** @type {Loaded<Schemas["Me"]>} */
    this.me = loaded("api/me");
    /** @type {Loaded<Schemas["Home"]>} */
    this.home = loaded("api/home");
    /** @type {Loaded<Schemas["Item"][] | null>} */
    this.health = new Loaded(this, async (signal) => (this.doctorOpen ? await get("api/doctor", signal) : null));
    /** @type {Loaded<Schemas["TrainingState"]>} */
    this.training = loaded("api/training");
    this.jobs = watchJobs(this, ["download_voice", "install_training"]);
  }

  connectedCallback() {
    super.connectedCallback();
    this.hear(["settings"], () => {
      this.settings.soon(50);
      this.status.soon(800);
      this.voices.soon(300);
    });
    this.hear(["job"], (job) => {
      if (!job || !ENDED.includes(job.state)) return;
      if (job.kind === "download_voice") this.voices.soon();
      if (job.kind === "install_training") this.training.soon();
    });
    // Home Assistant's state changes by itself; nothing tells of it.
    const timer = setInterval(() => document.visibilityState === "visible" && void this.status.load(), 5000);
    this.ends.push(() => clearInterval(timer));
  }

  /** @param {Map<string, unknown>} changed */
  updated(changed) {
    if (changed.has("path") && this.path[0]) this.#scroll(this.path[0]);
  }

  /** @param {string} part */
  async #scroll(part) {
    await new Promise((resolve) => setTimeout(resolve, 150)); // what is above it has its height by then
    const section = /** @type {HTMLElement | null} */ (this.querySelector(`#settings-${CSS.escape(part)}`));
    section?.scrollIntoView({ block: "start" });
    section?.querySelector("h2")?.focus({ preventScroll: true });
  }

  render() {
    return html`<nav class="parts" aria-label=${t("settings.parts")}>
        ${PARTS.map((part) => html`<a href="#/settings/${part}">${t(`settings.part_${part}`)}</a>`)}
      </nav>
      <div class="stack">
        ${this.#page()} ${this.#project()} ${this.#voices()} ${this.#training()} ${this.#captures()} ${this.#homeAssistant()}
        ${this.#builder()} ${this.#storage()} ${this.#archive()} ${this.#health()} ${this.#all()} ${this.#about()}
      </div>`;
  }

  /** @param {typeof PARTS[number]} part @param {unknown} content @param {string} [text] */
  #part(part, content, text = "") {
    return html`<section class="card" id="settings-${part}" aria-labelledby="settings-${part}-title">
      <h2 id="settings-${part}-title" tabindex="-1">${t(`settings.part_${part}`)}</h2>
      ${text ? html`<p class="muted">${text}</p>` : nothing} ${content}
    </section>`;
  }

  // --- this page

  #page() {
    const schemes = /** @type {const} */ (["auto", "light", "dark"]);
    return this.#part(
      "page",
      html`<div class="fields">
        <label>
          ${t("settings.page_language")}
          <select @change=${(/** @type {any} */ event) => setLanguage(event.target.value)}>
            ${Object.entries(LANGUAGES).map(
              ([code, name]) => html`<option value=${code} lang=${code} ?selected=${code === language}>${name}</option>`,
            )}
          </select>
        </label>
        <label>
          ${t("settings.scheme")}
          <select @change=${(/** @type {any} */ event) => applyScheme(event.target.value)}>
            ${schemes.map(
              (scheme) => html`<option value=${scheme} ?selected=${scheme === chosenScheme()}>
                ${t(`settings.scheme_${scheme}`)}
              </option>`,
            )}
          </select>
        </label>
      </div>`,
      t("settings.page_text"),
    );
  }

  // --- single settings

  /** @param {readonly string[]} keys @param {(rows: Setting[]) => unknown} [draw] */
  #fields(keys, draw) {
    return this.settings.show((rows) => {
      const found = keys.flatMap((key) => rows.filter((row) => row.key === key));
      return html`<div class="settings">${found.map((row) => this.#field(row))}</div>
        ${draw ? draw(found) : nothing}`;
    });
  }

  /** @param {Setting} row */
  #field(row) {
    const key = row.key.replace(".", "_");
    const known = has(`settings.key_${key}`);
    const label = known ? t(`settings.key_${key}`) : row.key;
    const hint = has(`settings.hint_${key}`) ? t(`settings.hint_${key}`) : known ? "" : row.help;
    return html`<div class="setting">
      ${this.#input(row, label, hint)} ${this.#reset(row)} ${this.#wrong(row)}
    </div>`;
  }

  /** @param {Setting} row */
  #wrong(row) {
    const problem = this.problems[row.key];
    return problem ? showProblem(problem) : nothing;
  }

  /** @param {Setting} row */
  #reset(row) {
    if (!row.is_set || row.default === null) return nothing;
    return html`<button
      type="button"
      class="plain reset"
      title=${written(row, row.default)}
      aria-label=${t("settings.reset_of", { key: row.key })}
      @click=${() => this.#save(row, null)}
    >
      ${t("settings.reset")}
    </button>`;
  }

  /** @param {Setting} row @param {string} label @param {string} hint */
  #input(row, label, hint) {
    const about = [hint, row.hides_login ? t("settings.hides_login") : ""].filter(Boolean).join(" ");
    const small = about ? html`<small>${about}</small>` : nothing;
    if (row.kind === "yes or no") {
      return html`<label class="choice switch">
        <input
          type="checkbox"
          .checked=${Boolean(row.value)}
          @change=${(/** @type {any} */ event) => this.#save(row, event.target.checked)}
        />
        <span>${label}${small}</span>
      </label>`;
    }
    if (row.kind === "choice") {
      return html`<label>
        ${label}
        <select @change=${(/** @type {any} */ event) => this.#save(row, event.target.value)}>
          ${row.choices.map(
            (choice) => html`<option value=${choice} ?selected=${choice === row.value}>
              ${row.key === "effort" ? t(`effort.${choice}`) : choice}
            </option>`,
          )}
        </select>
        ${row.key === "effort" ? html`<small>${t(`effort.${row.value}_text`)}</small>` : small}
      </label>`;
    }
    const numeric = row.kind === "number" || row.kind === "whole number";
    return html`<label>
      ${label}${row.unit ? html` <span class="muted">(${row.unit === "days" ? t("settings.days") : row.unit})</span>` : nothing}
      <input
        .value=${written(row, row.value)}
        inputmode=${numeric ? "decimal" : "text"}
        autocomplete="off"
        autocapitalize="off"
        spellcheck="false"
        placeholder=${LISTS.includes(row.kind) ? t("settings.list") : ""}
        aria-invalid=${row.key in this.problems}
        @change=${(/** @type {any} */ event) => this.#save(row, read(row, event.target.value), event.target)}
      />
      ${small}
    </label>`;
  }

  /**
   * Changes a setting; a note offers the way back.
   * @param {Setting} row @param {unknown} value null: its default @param {HTMLInputElement} [field]
   */
  async #save(row, value, field) {
    if (row.key === "phrase" && value !== row.value) {
      const yes = await confirm({
        title: t("settings.phrase_title", { phrase: String(value) }), text: t("settings.phrase_text"), yes: t("settings.phrase_yes"),
      });
      if (!yes) {
        if (field) field.value = written(row, row.value);
        return;
      }
    }
    try {
      this.settings.value = await put("api/settings", { changes: [{ key: row.key, value }] });
    } catch (error) {
      this.problems = { ...this.problems, [row.key]: asProblem(error) };
      this.requestUpdate();
      return;
    }
    const { [row.key]: _, ...others } = this.problems;
    this.problems = others;
    this.requestUpdate();
    const before = row.is_set ? row.value : null;
    // A login that was hidden cannot be put back from here.
    const undo = row.hides_login ? undefined : () => this.#back(row.key, before);
    note(t("settings.saved", { key: row.key }), { undo });
  }

  /** @param {string} key @param {unknown} value */
  async #back(key, value) {
    const rows = await attempt(() => put("api/settings", { changes: [{ key, value }] }));
    if (rows) this.settings.value = /** @type {Setting[]} */ (rows);
    this.requestUpdate();
  }

  #project() {
    return this.#part("project", this.#fields(CHOSEN.project));
  }

  /**
   * The jobs of a kind that run, or the last one if it did not end well.
   * @param {string} kind
   */
  #work(kind) {
    const jobs = (this.jobs.value ?? []).filter((job) => job.kind === kind);
    return {
      busy: jobs.some((job) => !ENDED.includes(job.state)),
      shown: jobs.filter((job, index) => !ENDED.includes(job.state) || (index === 0 && job.state !== "done")),
    };
  }

  // --- training

  #training() {
    const { busy, shown } = this.#work("install_training");
    return this.#part(
      "training",
      this.training.show((told) => {
        const offered = told.state === "missing" || told.state === "outdated";
        const values = { download: size(told.download_mb * 1e6), room: size(told.size_mb * 1e6) };
        return html`<p>${t(`settings.training_${told.state}`, values)}</p>
          ${told.obstacle ? html`<p class="warning">${told.obstacle}</p>` : nothing}
          ${offered
            ? html`<p>
                <button
                  type="button"
                  class="primary"
                  ?disabled=${busy || Boolean(told.obstacle)}
                  @click=${() => start({ kind: "install_training" })}
                >
                  ${t("settings.training_install")}
                </button>
              </p>`
            : nothing}
          ${shown.map((job) => html`<mww-job .job=${job}></mww-job>`)}`;
      }),
    );
  }

  // --- voices

  #voices() {
    const { busy, shown } = this.#work("download_voice");
    return this.#part(
      "voices",
      this.voices.show(
        (told) => html`
          ${told.problem ? showProblem(new Problem(told.problem, { hint: told.hint })) : nothing}
          ${told.engines.length
            ? html`<ul class="voices">
                ${told.engines.map(
                  (row) => html`<li>
                    <strong>${row.engine}</strong> ${t("settings.voices", { count: row.voices })}
                    ${row.used ? nothing : html`<span class="tag">${t("settings.unused")}</span>`}
                    <small>${row.names.join(", ")}${row.voices > row.names.length ? " …" : ""}</small>
                  </li>`,
                )}
              </ul>`
            : empty(t("settings.no_voices", { language: told.language }), t("settings.no_voices_text"))}
          ${this.#recommended(told, busy)}
          ${shown.map((job) => html`<mww-job .job=${job}></mww-job>`)}
          <form class="row fetch" @submit=${this.#fetchVoice}>
            <label class="grow">
              ${t("settings.other_voice")}
              <input name="voice" required placeholder=${told.recommended || "de_DE-mls-medium"} autocomplete="off" spellcheck="false" />
            </label>
            <button>${t("settings.fetch")}</button>
          </form>
        `,
      ),
      t("settings.voices_text"),
    );
  }

  /** @param {Schemas["VoicesView"]} told @param {boolean} busy */
  #recommended(told, busy) {
    if (told.has_recommended) return html`<p class="good">${t("settings.has_voice", { voice: told.recommended })}</p>`;
    if (!told.recommended) return html`<p class="muted">${t("settings.no_recommended", { language: told.language })}</p>`;
    if (!told.can_download) return html`<p class="warning">${t("settings.no_piper")}</p>`;
    return html`<div class="row">
      <p class="grow">${t("settings.recommended", { voice: told.recommended })}</p>
      <button type="button" class="primary" ?disabled=${busy} @click=${() => start({ kind: "download_voice", name: told.recommended })}>
        ${t("settings.fetch_recommended")}
      </button>
    </div>`;
  }

  /** @param {SubmitEvent} event */
  async #fetchVoice(event) {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.target);
    const name = String(new FormData(form).get("voice")).trim();
    if (await start({ kind: "download_voice", name })) form.reset();
  }

  // --- captures and who may send them

  #captures() {
    return this.#part(
      "captures",
      html`${this.#fields(CHOSEN.captures)}
        <h3 class="above">${t("settings.tokens")}</h3>
        <p class="muted">${t("settings.tokens_text")}</p>
        ${this.#newToken()}
        ${this.tokens.show((tokens) => (tokens.length ? this.#tokenTable(tokens) : empty(t("settings.no_tokens"), t("settings.no_tokens_text"))))}
        ${this.devices.show((devices) =>
          devices.length
            ? html`<form class="row fetch" @submit=${this.#makeToken}>
                <label class="grow">
                  ${t("settings.token_device")}
                  <select name="device">
                    ${devices.map((one) => html`<option value=${one.device.name}>${one.device.friendly_name || one.device.name}</option>`)}
                  </select>
                </label>
                <button>${t("settings.token_make")}</button>
              </form>`
            : nothing,
        )}`,
    );
  }

  #newToken() {
    const made = this.token;
    if (!made) return nothing;
    return html`<div class="warning token" role="alert">
      <p><strong>${t("settings.token_made", { device: made.device })}</strong></p>
      <p><code>${made.token}</code></p>
      <div class="row">
        <button type="button" class="primary" @click=${() => copy(made.token)}>${t("settings.copy")}</button>
        <button type="button" @click=${() => (this.token = null)}>${t("settings.token_kept")}</button>
      </div>
    </div>`;
  }

  /** @param {Schemas["TokenView"][]} tokens */
  #tokenTable(tokens) {
    return html`<div class="wide" tabindex="0" role="region" aria-label=${t("settings.tokens")}>
      <table>
        <thead>
          <tr>
            <th>${t("settings.token_device")}</th><th>${t("settings.token_at")}</th><th>${t("settings.token_used")}</th><th></th>
          </tr>
        </thead>
        <tbody>
          ${tokens.map(
            (one) => html`<tr>
              <td>${one.device}</td>
              <td>${moment(one.made_at)}</td>
              <td>${one.last_used_at ? ago(one.last_used_at) : t("settings.never")}</td>
              <td class="end">
                ${one.revoked_at
                  ? html`<span class="tag">${t("settings.revoked")}</span>`
                  : html`<button
                      type="button"
                      class="danger"
                      aria-label=${t("settings.revoke_of", { device: one.device, at: moment(one.made_at) })}
                      @click=${() => this.#revoke(one)}
                    >
                      ${t("settings.revoke")}
                    </button>`}
              </td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`;
  }

  /** @param {SubmitEvent} event */
  async #makeToken(event) {
    event.preventDefault();
    const device = new FormData(/** @type {HTMLFormElement} */ (event.target)).get("device");
    const made = await attempt(() => post("api/tokens", { device }));
    if (!made) return;
    this.token = /** @type {Schemas["NewToken"]} */ (made);
    await this.tokens.load();
  }

  /** @param {Schemas["TokenView"]} one */
  async #revoke(one) {
    const yes = await confirm({
      title: t("settings.revoke_title", { device: one.device }), text: t("settings.revoke_text"), yes: t("settings.revoke"), danger: true,
    });
    if (!yes) return;
    await attempt(() => remove(`api/tokens/${one.id}`));
    await this.tokens.load();
  }

  // --- Home Assistant

  #homeAssistant() {
    return this.#part(
      "home_assistant",
      html`${this.status.show((status) => {
          const link = status.link;
          if (!link) return nothing;
          return html`<dl class="facts" aria-live="polite">
            <dt>${t("settings.home_assistant")}</dt>
            <dd>${this.#peer(link.home_assistant)} ${link.version ? html`<span class="muted">${link.version}</span>` : nothing}</dd>
            <dt>${t("settings.mqtt")}</dt>
            <dd>${this.#peer(link.mqtt)}</dd>
            ${link.problem ? html`<dt>${t("settings.problem")}</dt><dd>${link.problem}</dd>` : nothing}
          </dl>`;
        })}
        <details>
          <summary>${t("settings.set_home_assistant")}</summary>
          ${this.#fields(CHOSEN.home_assistant)}
        </details>
        <details>
          <summary>${t("settings.set_mqtt")}</summary>
          ${this.#fields(CHOSEN.mqtt)}
        </details>`,
      t("settings.home_assistant_text"),
    );
  }

  /** @param {Schemas["PeerState"]} peer */
  #peer(peer) {
    const colour = { connected: "good", refused: "bad", failed: "bad", connecting: "warn", off: "" }[peer.state];
    return html`<span class="tag ${colour}">${t(`settings.peer_${peer.state}`)}</span>
      ${peer.error ? showProblem(new Problem(peer.error, { hint: peer.hint })) : nothing}`;
  }

  // --- ESPHome elsewhere

  #builder() {
    return this.#part(
      "builder",
      html`${this.#fields(CHOSEN.builder)}
        <div class="row">
          <button type="button" ?disabled=${this.checking} @click=${this.#check}>${t("settings.check")}</button>
          <span role="status">${this.#checked()}</span>
        </div>
        ${this.checked?.error ? showProblem(new Problem(this.checked.error, { hint: this.checked.hint })) : nothing}`,
      t("settings.builder_text"),
    );
  }

  #checked() {
    if (this.checking) return t("settings.checking");
    const told = this.checked;
    if (!told) return nothing;
    if (told.builder === "off" && told.folder === "off") return t("settings.builder_off");
    return [
      told.builder === "ok" ? t("settings.builder_ok", { title: told.title, version: told.esphome_version }) : "",
      told.folder === "ok" ? t("settings.folder_ok") : "",
    ].filter(Boolean).join(" · ");
  }

  async #check() {
    this.checking = true;
    this.checked = null;
    this.checked = /** @type {Schemas["BuilderView"] | undefined} */ (await attempt(() => post("api/builder/check"))) ?? null;
    this.checking = false;
  }

  // --- room

  #storage() {
    const kinds = /** @type {const} */ (["audio", "captures", "features", "runs", "models", "esphome", "rest"]);
    return this.#part(
      "storage",
      this.storage.show((told) => {
        const most = Math.max(1, ...kinds.map((kind) => told[kind]));
        const used = kinds.reduce((sum, kind) => sum + told[kind], 0);
        return html`<p>${t("settings.used", { used: size(used), free: size(told.free), total: size(told.total) })}</p>
          <div class="wide" tabindex="0" role="region" aria-label=${t("settings.part_storage")}>
            <table class="room">
              <tbody>
                ${kinds.map(
                  (kind) => html`<tr>
                    <th scope="row">${t(`settings.room_${kind}`)}</th>
                    <td class="bar"><progress max=${most} .value=${told[kind]} aria-hidden="true"></progress></td>
                    <td class="number">${size(told[kind])}</td>
                  </tr>`,
                )}
              </tbody>
            </table>
          </div>`;
      }),
    );
  }

  // --- the project as a file

  #archive() {
    const home = this.home.value;
    const isNew = home && !home.models && !home.people && !home.devices;
    return this.#part(
      "archive",
      html`<p>${t("settings.export_text")}</p>
        <p class="muted">${t("settings.export_not")}</p>
        <p><a class="button" href=${address("api/project/archive")} download>${t("settings.export")}</a></p>
        ${isNew
          ? html`<h3 class="above">${t("settings.import_title")}</h3>
              <p>${t("settings.import_text")}</p>
              ${this.sending === null
                ? html`<label>
                    ${t("settings.import")}
                    <input type="file" accept=".tar,application/x-tar" @change=${this.#import} />
                  </label>`
                : html`<div class="row progress" role="status">
                    <progress max="1" .value=${this.sending} aria-label=${t("settings.importing")}></progress>
                    <span class="number">${percent(this.sending)}</span>
                  </div>`}
              ${this.problems["archive"] ? showProblem(this.problems["archive"]) : nothing}`
          : html`<p class="muted">${t("settings.import_elsewhere")}</p>`}`,
    );
  }

  /** @param {Event & {target: HTMLInputElement}} event */
  async #import(event) {
    const file = event.target.files?.[0];
    if (!file) return;
    const { archive: _, ...others } = this.problems;
    this.problems = others;
    this.sending = 0;
    try {
      await sendArchive("api/project/archive", file, (share) => (this.sending = share));
      location.hash = "#/home";
      location.reload();
    } catch (error) {
      this.problems = { ...this.problems, archive: asProblem(error) };
    }
    this.sending = null;
  }

  // --- what is installed

  #health() {
    return this.#part(
      "health",
      this.doctorOpen
        ? this.health.show((items) => {
            const order = ["broken", "gap", "ok"];
            const sorted = [...(items ?? [])].sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state));
            return html`<ul class="findings">
                ${sorted.map(
                  (item) => html`<li>
                    <span class="tag ${{ ok: "good", gap: "warn", broken: "bad" }[item.state] ?? ""}">${t(`settings.state_${item.state}`)}</span>
                    <div><strong>${item.name}</strong> ${item.found}${item.way_out ? html`<small>${item.way_out}</small>` : nothing}</div>
                  </li>`,
                )}
              </ul>
              ${items ? html`<button type="button" @click=${() => this.health.load()}>${t("settings.look_again")}</button>` : html`<p role="status">${t("app.loading")}</p>`}`;
          })
        : html`<button type="button" @click=${this.#examine}>${t("settings.look")}</button>`,
      t("settings.health_text"),
    );
  }

  #examine() {
    this.doctorOpen = true;
    void this.health.load();
  }

  // --- all settings

  #all() {
    return this.#part(
      "all",
      html`<label>
          ${t("settings.search")}
          <input
            type="search"
            .value=${this.search}
            placeholder=${t("settings.search_example")}
            @input=${(/** @type {any} */ event) => (this.search = event.target.value)}
          />
        </label>
        <label class="choice switch">
          <input
            type="checkbox"
            .checked=${this.changed}
            @change=${(/** @type {any} */ event) => (this.changed = event.target.checked)}
          />
          <span>${t("settings.only_changed")}</span>
        </label>
        ${this.settings.show((rows) => this.#table(rows))}`,
      t("settings.all_text"),
    );
  }

  /** @param {Setting[]} rows */
  #table(rows) {
    const words = this.search.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.filter(
      (row) => (!this.changed || row.is_set) && words.every((word) => `${row.key} ${row.help}`.toLowerCase().includes(word)),
    );
    const shown = words.length || this.changed ? found : [];
    return html`<p class="muted" role="status">
        ${words.length || this.changed ? t("settings.found", { count: found.length }) : t("settings.found_none_yet", { count: rows.length })}
      </p>
      <div class="settings">
        ${shown.map(
          (row) => html`<div class="setting">
            ${this.#input(row, row.key, row.help)}
            <p class="muted default">${row.default === null ? nothing : t("settings.default", { value: written(row, row.default) || "–" })}</p>
            ${this.#reset(row)} ${this.#wrong(row)}
          </div>`,
        )}
      </div>`;
  }

  // --- about

  #about() {
    return this.#part(
      "about",
      html`<dl class="facts">
          <dt>mww-ha</dt>
          <dd>${page.version} · Apache-2.0</dd>
          <dt>${t("settings.parts_of")}</dt>
          <dd><a href=${address(`${page.folder}vendor/LICENSES.txt`)} target="_blank" rel="noopener">${t("settings.licences")}</a></dd>
          <dt>${t("settings.api")}</dt>
          <dd><a href=${address("api/openapi.json")} target="_blank" rel="noopener">api/openapi.json</a></dd>
        </dl>
        ${this.me.show((me) =>
          me.way === "token"
            ? html`<form method="post" action=${address("logout")} class="above"><button>${t("settings.sign_out")}</button></form>`
            : html`<p class="muted">${t("settings.signed_in", { user: me.user_name || "–" })}</p>`,
        )}`,
    );
  }
}
customElements.define("mww-settings", SettingsView);
