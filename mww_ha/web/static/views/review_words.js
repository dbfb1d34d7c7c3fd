/** What captures are called, and what is known of one, in words. */
import { moment, number, percent, t } from "../lib/i18n.js";

/** @typedef {import("../lib/api.js").Schemas} Schemas */

export const KINDS = ["detection", "near_miss", "canary", "false_wake", "prompt"];

/** Verdicts in the order of their buttons, each with its key. */
export const VERDICTS = /** @type {const} */ ([
  ["wake", "w"],
  ["false_accept", "f"],
  ["missed_wake", "m"],
  ["other", "o"],
  ["discard", "d"],
]);

/** @typedef {"undecided" | typeof VERDICTS[number][0]} Verdict */

/** The verdicts that say that somebody spoke the wake word. @param {string} verdict */
export const isSpoken = (verdict) => verdict === "wake" || verdict === "missed_wake";

/** @param {string} verdict @returns {string} class of its tag */
export const toneOf = (verdict) =>
  isSpoken(verdict) ? "good" : verdict === "false_accept" ? "bad" : verdict === "undecided" ? "" : "warn";

/** @param {Schemas["Capture"]} capture @returns {string} "Kitchen, 20 Nov, 12:00" */
export const nameOf = (capture) => t("review.name", { device: capture.device, at: moment(capture.captured_at) });

const OUTCOMES = {
  ok: "review.outcome_ok",
  duplicate_wake_up_detected: "review.outcome_elsewhere",
  "stt-no-text-recognized": "review.outcome_nothing",
  "stt-stream-failed": "review.outcome_nothing",
  "no-speech": "review.outcome_nothing",
};

/** @param {string} outcome @returns {string} what Home Assistant's pipeline made of it */
export function outcomeOf(outcome) {
  const key = OUTCOMES[/** @type {keyof typeof OUTCOMES} */ (outcome)];
  return key ? t(key) : t("review.outcome_other", { code: outcome });
}

/** @param {Schemas["ScoreView"]} score @returns {string} "72 % at a cutoff of 59 %: heard here too" */
export function scoreOf(score) {
  if (score.problem) return t("review.not_scored", { why: score.problem });
  return t(score.reproduced ? "review.score_heard" : "review.score_not_heard", {
    peak: percent(score.peak), cutoff: percent(score.cutoff),
  });
}

/** @param {Schemas["ScoreView"]} score @returns {import("../lib/sound.js").Trace} */
export const traceOf = (score, trigger_s = -1) => ({
  scores: score.trace,
  first_s: score.first_s,
  step_s: score.step_ms / 1000,
  window: score.window,
  cutoff: score.cutoff,
  trigger_s,
  detections_s: score.detections_s,
});

/** @param {Schemas["Capture"]} capture @returns {string} */
export const lengthOf = (capture) => `${number(capture.duration_s, 1)} s`;
