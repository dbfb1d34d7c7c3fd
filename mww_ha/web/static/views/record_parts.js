/** What the guided sessions at the browser and at a satellite show alike. */
import { html, nothing } from "../vendor/lit.js";
import { address, query } from "../lib/api.js";
import { has, number, t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */

/** @param {string} name @param {Record<string, string>} [params] @returns {string} the address of a person */
export const personLink = (name, params = {}) => `#/record/${encodeURIComponent(name)}${query(params)}`;

/** @param {Schemas["Reason"][]} reasons @returns {string} why a take cannot be used, in the page's language */
export function reasonText(reasons) {
  return reasons
    .map(({ fault, text }) => {
      const key = `record.fault_${fault}`;
      return fault !== "unusable" && has(key) ? t(key) : text;
    })
    .join(" ");
}

/** @param {string} text a doubt in the service's words @returns {string} */
export function hintText(text) {
  const model = /^the present model hears no wake word in it/.test(text);
  const read = /^speech-to-text read ['"](.*)['"]$/.exec(text);
  if (model) return t("record.hint_model");
  if (read) return t("record.hint_read", { text: read[1] ?? "" });
  return text === "speech-to-text read nothing" ? t("record.hint_nothing") : text;
}

/** The usual places, as the service and the command line call them too: sessions carry these words. */
export const PLACES = {
  near: "where you usually talk to it",
  door: "from the door",
  far: "from the other end of the room",
  away: "turned away from it",
};

/** @param {string} place @returns {string} a usual one in the page's language, another one as it was written */
export function placeText(place) {
  const usual = Object.entries(PLACES).find(([, words]) => words === place);
  if (usual) return t(`record.place_${usual[0]}`);
  return place || t("record.some_place");
}

/**
 * A dot for each take, place by place; those that are there are filled.
 * @param {Schemas["SittingView"]} sitting
 * @param {string} [here] session that is asked for
 */
export function dots(sitting, here = sitting.next?.session) {
  return html`<ol class="places">
    ${sitting.parts.map(
      (part) => html`<li class=${part.session === here ? "here" : ""} aria-current=${part.session === here ? "step" : "false"}>
        <span>${placeText(part.place)}</span>
        <span class="dots" role="img" aria-label=${t("record.of", { done: part.taken, total: part.wanted })}>
          ${Array.from({ length: part.wanted }, (_, index) => html`<i class=${index < part.taken ? "there" : ""}></i>`)}
        </span>
      </li>`,
    )}
  </ol>`;
}

/** @param {{reasons: Schemas["Reason"][], hints: string[], good: boolean}} take */
export function verdict(take) {
  return html`<p class="verdict ${take.good ? "good" : "bad"}">
      ${icon(take.good ? "ok" : "close")} <strong>${take.good ? t("record.good") : t("record.refused")}</strong>
      ${take.good ? nothing : html`<span>${reasonText(take.reasons)}</span>`}
    </p>
    ${take.hints.map((hint) => html`<p class="muted">${t("record.hint")} ${hintText(hint)}</p>`)}`;
}

/** @type {HTMLAudioElement | null} */
let playing = null;

/** @param {string} sound relative to the base, or the address of a blob; what played before ends */
export async function play(sound) {
  playing?.pause();
  playing = new Audio(sound.startsWith("blob:") ? sound : address(sound));
  await playing.play();
}

/** @param {number} recorded people with takes @param {number} wanted @returns {string} what comes next */
export const whatNext = (recorded, wanted) =>
  recorded < wanted
    ? t("record.next_people", { count: wanted - recorded })
    : t("record.next_train", { people: number(recorded) });
