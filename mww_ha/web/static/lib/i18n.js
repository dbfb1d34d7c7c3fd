/**
 * Texts, numbers, times. A language is one file: texts/<code>.json, groups of keys; `{name}` is filled in, and a text
 * that depends on a number is an object of plural forms ({"one": …, "other": …}, chosen by `count`).
 */
import { page, address } from "./api.js";

/** Every language there is, by its code, as it calls itself. */
export const LANGUAGES = { en: "English", de: "Deutsch" };

/** @typedef {keyof typeof LANGUAGES} Language */
/** @typedef {string | {[form: string]: string}} Entry */

const KEY = "mww-ha-language";

/** @type {Language} */
export let language = "en";

/** The language with the region the browser asks for, "en-GB": how dates and numbers are written. */
let locale = "en";

/** @type {Record<string, Record<string, Entry>>} */
let texts = {};

/** @returns {Language} */
function choose() {
  const known = /** @type {Language[]} */ (Object.keys(LANGUAGES));
  let stored = "";
  try {
    stored = localStorage.getItem(KEY) ?? "";
  } catch {
    // private windows may have no storage
  }
  const wanted = [stored, ...navigator.languages].map((code) => code.toLowerCase().split("-")[0]);
  return known.find((code) => code === wanted.find((item) => known.some((one) => one === item))) ?? "en";
}

/** Loads the texts of the chosen language, or of the one the browser asks for. */
export async function loadTexts() {
  language = choose();
  locale = navigator.languages.find((code) => code.toLowerCase().split("-")[0] === language) ?? language;
  document.documentElement.lang = language;
  texts = await (await fetch(address(`${page.folder}texts/${language}.json`))).json();
}

/** @param {Language} code */
export async function setLanguage(code) {
  try {
    localStorage.setItem(KEY, code);
  } catch {
    // it holds until the page is left
  }
  await loadTexts();
  window.dispatchEvent(new CustomEvent("mww-language"));
}

/**
 * @param {string} key "group.name"
 * @param {Record<string, string | number>} [values] numbers are written as the language writes them
 * @returns {string}
 */
export function t(key, values = {}) {
  const dot = key.indexOf(".");
  let entry = texts[key.slice(0, dot)]?.[key.slice(dot + 1)];
  if (entry === undefined) return key;
  if (typeof entry !== "string") {
    const count = Number(values["count"] ?? 0);
    entry = entry[new Intl.PluralRules(language).select(count)] ?? entry["other"] ?? key;
  }
  return entry.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    if (value === undefined) return whole;
    return typeof value === "number" ? number(value) : value;
  });
}

/** @param {string} key @returns {boolean} whether the language has that text */
export const has = (key) => t(key) !== key;

/** @param {number} value @param {number} [digits] the most decimals @returns {string} */
export function number(value, digits = 2) {
  return new Intl.NumberFormat(locale, { maximumFractionDigits: digits }).format(value);
}

/** @param {number} share 0 to 1 @param {number} [digits] @returns {string} */
export function percent(share, digits = 0) {
  return new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: digits }).format(share);
}

/** @param {number} seconds @returns {string} "4.2 s", "3 min 20 s", "2 h 5 min" */
export function duration(seconds) {
  if (seconds < 60) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.round(seconds / 60);
  if (seconds < 600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (minutes < 60) return `${minutes} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
}

/** @param {number} bytes @returns {string} */
export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  while (bytes >= 1000 && step < units.length - 1) {
    bytes /= 1000;
    step += 1;
  }
  return `${number(bytes, bytes < 10 && step ? 1 : 0)} ${units[step]}`;
}

/** @param {string} iso @returns {string} date and time, short */
export function moment(iso) {
  if (!iso) return "";
  const at = new Date(iso);
  const sameYear = at.getFullYear() === new Date().getFullYear();
  return new Intl.DateTimeFormat(locale, {
    ...(sameYear ? {} : { year: "numeric" }),
    month: "short", day: "numeric", hour: "2-digit", minute: "2-digit",
  }).format(at);
}

/** @param {string} iso @returns {string} "3 minutes ago", for less than a month; then the date */
export function ago(iso) {
  if (!iso) return "";
  const seconds = (Date.parse(iso) - Date.now()) / 1000;
  const format = new Intl.RelativeTimeFormat(locale, { numeric: "auto" });
  /** @type {[Intl.RelativeTimeFormatUnit, number][]} */
  const units = [["day", 86400], ["hour", 3600], ["minute", 60]];
  if (Math.abs(seconds) > 30 * 86400) return moment(iso);
  for (const [unit, length] of units) {
    if (Math.abs(seconds) >= length) return format.format(Math.round(seconds / length), unit);
  }
  return t("app.just_now");
}

/**
 * A share or a rate never stands without its interval.
 * @param {{value: number, low: number, high: number, events: number, exposure: number, unit: string} | null} rate
 * @returns {string} "93 % (14 of 15; 68–100 %)", "0.3 per hour (3 in 10 h; 0.1–0.9)"
 */
export function interval(rate) {
  if (!rate) return t("app.no_figure");
  if (rate.unit === "share") {
    return t("app.share", {
      value: percent(rate.value), events: rate.events, exposure: Math.round(rate.exposure),
      low: number(100 * rate.low, 0), high: percent(rate.high),
    });
  }
  return t("app.rate", {
    value: number(rate.value, 2), events: rate.events, exposure: number(rate.exposure, rate.exposure < 10 ? 2 : 0),
    low: number(rate.low, 2), high: number(rate.high, 2),
  });
}
