/** The panel's frame: who is asked, where one is, and one view at a time. An address is "#/view/rest?key=value". */
import { html, nothing } from "./vendor/lit.js";
import { get, live, page } from "./lib/api.js";
import { joinHomeAssistant, toggleMenu } from "./lib/home_assistant.js";
import { loadTexts, percent, t } from "./lib/i18n.js";
import { icon } from "./lib/icons.js";
import { ENDED, Loaded, View, jobName, note } from "./lib/ui.js";
import { applyScheme } from "./lib/scheme.js";

/** @typedef {import("./lib/api.js").Schemas} Schemas */
/** @typedef {{text: string, undo?: () => unknown, undoText?: string, bad?: boolean, stay_ms?: number, place?: string}} Note */

/** The views in the order of the menu: name, icon, and the module that defines `<mww-NAME>`. */
const VIEWS = /** @type {const} */ ([
  ["home", "home"],
  ["record", "microphone"],
  ["review", "review"],
  ["train", "train"],
  ["models", "model"],
  ["devices", "device"],
  ["listen", "listen"],
  ["settings", "settings"],
]);

class App extends View {
  static properties = {
    view: { state: true },
    loaded: { state: true },
    menu: { state: true },
    notes: { state: true },
    connected: { state: true },
    framed: { state: true },
  };

  constructor() {
    super();
    this.view = "home";
    /** @type {Record<string, boolean | "failed">} */
    this.loaded = {};
    this.menu = false;
    /** @type {Note[]} */
    this.notes = [];
    this.connected = true;
    this.framed = false;
    this.project = this.#load("api/project");
    this.status = this.#load("api/status");
    this.jobs = this.#load("api/jobs?limit=20");
  }

  /** @param {string} path @returns {Loaded<any>} without a project there is nothing to read yet */
  #load(path) {
    return new Loaded(this, (signal) => (page.setup ? Promise.resolve(null) : get(path, signal)));
  }

  connectedCallback() {
    super.connectedCallback();
    this.while(window, "hashchange", () => this.#route());
    this.while(window, "mww-note", (event) => this.#note(event.detail));
    this.while(window, "keydown", (event) => event.key === "Escape" && (this.menu = false));
    this.while(live, "connection", (event) => (this.connected = event.detail));
    this.while(window, "mww-home-assistant", (event) => (this.framed = event.detail.narrow));
    if (page.setup) {
      this.#show("setup");
      return;
    }
    live.start();
    this.hear(["capture", "judged", "deleted", "expired", "scored"], () => this.status.soon());
    this.hear(["job"], () => this.jobs.soon(100));
    this.hear(["settings"], () => this.project.soon());
    this.#route();
  }

  #route() {
    const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
    const parts = (path ?? "").split("/").filter(Boolean).map(decodeURIComponent);
    const known = VIEWS.some(([name]) => name === parts[0]);
    this.path = known ? parts.slice(1) : [];
    this.params = Object.fromEntries(new URLSearchParams(search ?? ""));
    this.menu = false;
    this.#show(known ? String(parts[0]) : "home");
  }

  /** @param {string} view */
  async #show(view) {
    const moved = view !== this.view || !this.loaded[view];
    this.view = view;
    if (!this.loaded[view] || this.loaded[view] === "failed") {
      try {
        await import(`./views/${view}.js`);
        this.loaded = { ...this.loaded, [view]: true };
      } catch (error) {
        console.error(error);
        this.loaded = { ...this.loaded, [view]: "failed" };
      }
    }
    if (moved && this.hasUpdated) {
      await this.updateComplete;
      const main = /** @type {HTMLElement | null} */ (this.querySelector("main"));
      main?.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
  }

  /** @param {Note} one */
  #note(one) {
    const others = this.notes.filter((other) => !one.place || other.place !== one.place);
    this.notes = [...others.slice(-2), one];
    setTimeout(() => this.#drop(one), one.stay_ms ?? (one.undo || one.bad ? 9000 : 4000));
  }

  /** @param {Note} one */
  #drop(one) {
    this.notes = this.notes.filter((other) => other !== one);
  }

  render() {
    const phrase = /** @type {Schemas["ProjectSummary"] | undefined} */ (this.project.value)?.phrase;
    const title = page.setup ? t("setup.title") : t(`nav.${this.view}`);
    document.title = [title, phrase ?? "mww-ha"].join(" – ");
    return html`
      <a class="skip" href="#/${this.view}" @click=${this.#skip}>${t("app.skip")}</a>
      <header class="top">
        ${this.framed
          ? html`<button type="button" class="plain" aria-label=${t("app.ha_menu")} @click=${toggleMenu}>
              ${icon("menu")}
            </button>`
          : nothing}
        <a class="brand" href="#/home">${icon("brand")}<span>${phrase ?? "mww-ha"}</span></a>
        <span class="grow"></span>
        ${this.#busy()}
        ${page.setup
          ? nothing
          : html`<button
              type="button"
              class="plain menu"
              aria-expanded=${this.menu}
              aria-controls="nav"
              aria-label=${t("app.menu")}
              @click=${() => (this.menu = !this.menu)}
            >
              ${icon(this.menu ? "close" : "dots")}
            </button>`}
      </header>
      ${page.setup ? nothing : this.#nav()}
      <main tabindex="-1" id="main">
        ${this.connected ? nothing : html`<p class="banner" role="status">${t("app.reconnecting")}</p>`}
        <h1>${title}</h1>
        ${this.#content()}
      </main>
      <div class="notes" role="status" aria-live="polite">
        ${this.notes.map(
          (one) => html`<div class="note ${one.bad ? "bad" : ""}">
            <span>${one.text}</span>
            ${one.undo
              ? html`<button type="button" @click=${() => this.#undo(one)}>${one.undoText ?? t("app.undo")}</button>`
              : nothing}
            <button type="button" class="plain" aria-label=${t("app.close")} @click=${() => this.#drop(one)}>
              ${icon("close")}
            </button>
          </div>`,
        )}
      </div>
    `;
  }

  /** @param {Event} event */
  #skip(event) {
    event.preventDefault();
    /** @type {HTMLElement | null} */ (this.querySelector("main"))?.focus();
  }

  /** @param {Note} one */
  #undo(one) {
    this.#drop(one);
    void one.undo?.();
  }

  #nav() {
    const waiting = /** @type {Schemas["Status"] | undefined} */ (this.status.value)?.waiting ?? 0;
    return html`<nav id="nav" class=${this.menu ? "open" : ""} aria-label=${t("app.menu")}>
      ${VIEWS.map(
        ([name, sign]) => html`<a href="#/${name}" aria-current=${this.view === name ? "page" : "false"}>
          ${icon(sign)}<span class="grow">${t(`nav.${name}`)}</span>
          ${name === "review" && waiting
            ? html`<span class="badge" aria-label=${t("app.waiting", { count: waiting })}>${waiting}</span>`
            : nothing}
        </a>`,
      )}
    </nav>`;
  }

  #busy() {
    const jobs = /** @type {Schemas["Job"][]} */ (this.jobs.value ?? []);
    const job = jobs.find((one) => one.state === "running") ?? jobs.find((one) => !ENDED.includes(one.state));
    if (!job) return nothing;
    const progress = job.progress;
    const share = progress?.total ? percent(Math.min(1, progress.done / progress.total)) : "";
    const device = job.order["device"];
    const where = device ? `#/devices/${device}` : job.order["every"] ? "#/devices" : "#/train";
    return html`<a class="chip" href=${where}><span class="spin" aria-hidden="true"></span>${jobName(job)} ${share}</a>`;
  }

  #content() {
    const state = this.loaded[this.view];
    if (state === "failed") {
      return html`<div class="problem" role="alert">
        <p>${t("app.view_missing")}</p>
        <button type="button" @click=${() => this.#show(this.view)}>${t("app.again")}</button>
      </div>`;
    }
    if (!state) return html`<p class="loading" role="status">${t("app.loading")}</p>`;
    const { path, params } = this;
    switch (this.view) {
      case "record":
        return html`<mww-record .path=${path} .params=${params}></mww-record>`;
      case "review":
        return html`<mww-review .path=${path} .params=${params}></mww-review>`;
      case "train":
        return html`<mww-train .path=${path} .params=${params}></mww-train>`;
      case "models":
        return html`<mww-models .path=${path} .params=${params}></mww-models>`;
      case "devices":
        return html`<mww-devices .path=${path} .params=${params}></mww-devices>`;
      case "listen":
        return html`<mww-listen .path=${path} .params=${params}></mww-listen>`;
      case "settings":
        return html`<mww-settings .path=${path} .params=${params}></mww-settings>`;
      case "setup":
        return html`<mww-setup></mww-setup>`;
      default:
        return html`<mww-home .path=${path} .params=${params}></mww-home>`;
    }
  }
}

applyScheme();
joinHomeAssistant();
await loadTexts();
customElements.define("mww-app", App);

// What nobody caught is said, not swallowed.
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof DOMException && event.reason.name === "AbortError") return;
  note(String(event.reason?.message ?? event.reason), { bad: true });
});


