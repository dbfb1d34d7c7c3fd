/**
 * The way to the service: requests that end in a value or a `Problem`, and what happens there as it happens.
 *
 * All addresses are relative to the page's base, which Home Assistant's ingress chooses.
 */

/** @typedef {import("api").components["schemas"]} Schemas */

/** Why something did not work, in the service's own words, with the way out. */
export class Problem extends Error {
  /** @param {string} message @param {{hint?: string, error?: string, status?: number}} [more] */
  constructor(message, { hint = "", error = "", status = 0 } = {}) {
    super(message);
    this.hint = hint;
    this.error = error;
    this.status = status;
  }
}

const about = /** @type {HTMLMetaElement} */ (document.querySelector('meta[name="mww-ha"]'));

export const page = {
  version: about.content,
  folder: about.dataset.folder ?? "",
  setup: about.dataset.setup === "true",
  nonce: about.dataset.nonce ?? "",
};

/**
 * @param {string} path relative to the base: "api/review"
 * @returns {string} the whole address
 */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

/**
 * @template T
 * @param {string} method
 * @param {string} path
 * @param {{json?: unknown, body?: BodyInit, type?: string, signal?: AbortSignal}} [options]
 * @returns {Promise<T>}
 */
async function ask(method, path, { json, body, type, signal } = {}) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (json !== undefined) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(json);
  } else if (type) {
    headers["Content-Type"] = type;
  }
  let answer;
  try {
    answer = await fetch(address(path), { method, headers, body, signal, credentials: "same-origin" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem("offline", { error: "Offline" });
  }
  if (answer.status === 204) return /** @type {T} */ (undefined);
  const isJson = (answer.headers.get("Content-Type") ?? "").startsWith("application/json");
  if (answer.ok) return isJson ? await answer.json() : /** @type {T} */ (await answer.text());
  const said = isJson ? await answer.json() : { message: `${answer.status} ${answer.statusText}` };
  throw new Problem(said.message, { hint: said.hint, error: said.error, status: answer.status });
}

/** @template T @param {string} path @param {AbortSignal} [signal] @returns {Promise<T>} */
export const get = (path, signal) => ask("GET", path, { signal });

/** @template T @param {string} path @param {unknown} [json] @returns {Promise<T>} */
export const post = (path, json) => ask("POST", path, json === undefined ? {} : { json });

/** @template T @param {string} path @param {unknown} json @returns {Promise<T>} */
export const put = (path, json) => ask("PUT", path, { json });

/** @template T @param {string} path @param {unknown} [json] @returns {Promise<T>} */
export const remove = (path, json) => ask("DELETE", path, json === undefined ? {} : { json });

/**
 * Sends a body as it is, for sound and archives.
 * @template T
 * @param {string} path
 * @param {BodyInit} body
 * @param {string} type
 * @returns {Promise<T>}
 */
export const send = (path, body, type) => ask("POST", path, { body, type });

/**
 * @param {Record<string, string | number | boolean | null | undefined>} values those that are empty are left out
 * @returns {string} "?a=b", or nothing
 */
export function query(values) {
  const made = new URLSearchParams();
  for (const [key, value] of Object.entries(values)) {
    if (value !== null && value !== undefined && value !== "") made.set(key, String(value));
  }
  const text = made.toString();
  return text ? `?${text}` : "";
}

/**
 * Server-sent events with a name, as the browser keeps them coming: it connects again by itself and reads on where it was.
 * @param {string} path
 * @param {string[]} types
 * @param {(type: string, data: any, id: string) => void} hear
 * @param {{lost?: () => void, found?: () => void}} [state] connection gone, and back
 * @returns {() => void} ends it
 */
export function follow(path, types, hear, { lost, found } = {}) {
  const source = new EventSource(address(path));
  for (const type of types) {
    source.addEventListener(type, (event) => {
      const message = /** @type {MessageEvent<string>} */ (event);
      hear(type, message.data ? JSON.parse(message.data) : null, message.lastEventId);
    });
  }
  source.addEventListener("open", () => found?.());
  source.addEventListener("error", () => lost?.());
  return () => source.close();
}

/**
 * What is told of a job's log, until the job has ended.
 * @param {string} id
 * @param {(type: string, data: any) => void} hear
 * @returns {() => void} ends it
 */
export function followJob(id, hear) {
  const stop = follow(
    `api/jobs/${id}/events`,
    ["state", "progress", "log", "result", "error", "gap", "end"],
    (type, data) => {
      if (type === "end") stop();
      hear(type, data);
    },
  );
  return stop;
}

const kinds = [
  "job", "capture", "scored", "transcribed", "canary", "judged", "outcome", "deleted", "expired", "recording", "people",
  "settings", "devices", "found", "reset",
];

/**
 * All that happens in the service; each event is dispatched under its type, "reset" asks to read the lists again.
 * Types beyond `kinds` are added there.
 */
class Live extends EventTarget {
  /** @type {(() => void) | null} */
  #stop = null;
  connected = true;

  start() {
    this.#stop ??= follow(
      "api/events",
      kinds,
      (type, data) => this.dispatchEvent(new CustomEvent(type, { detail: data })),
      {
        lost: () => this.#say(false),
        found: () => this.#say(true),
      },
    );
  }

  /** @param {boolean} connected */
  #say(connected) {
    if (this.connected !== connected) {
      this.connected = connected;
      this.dispatchEvent(new CustomEvent("connection", { detail: connected }));
    }
  }
}

export const live = new Live();
