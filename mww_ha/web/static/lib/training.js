/** What the views Train and Models both show: a training's curves, what a retraining came to, names of things measured. */
import { html, nothing } from "../vendor/lit.js";
import { has, interval, moment, number, percent, t } from "./i18n.js";
import "./charts.js";

/** @typedef {import("./api.js").Schemas} Schemas */

/** Names that the service gives, in the language where it has them. */
const NAMES = /** @type {Record<string, string>} */ ({
  "wake words": "wake",
  "everything else": "rest",
  "quiet": "quiet",
  "noise": "noise",
  "babble": "babble",
  "room": "room",
  "quiet room, 25 dB": "quiet",
  "noise, 10 dB": "noise",
  "four-talker babble, 5 dB": "babble",
  "reverberant room and noise, 15 dB": "room",
  "synthetic ambient": "ambient",
  "real ambient": "real",
  "recorded speech, rendered anew": "varied",
});

/** @param {string} name @returns {string} a condition, a kind of sound or a line as the language calls it */
export function measured(name) {
  const key = NAMES[name];
  return key ? t(`measured.${key}`) : name;
}

/** @param {string} label @returns {string} */
export const labelName = (label) => t(`measured.label_${label}`);

/** @param {string} origin @returns {string} */
export const originName = (origin) => t(`measured.origin_${origin}`);

/** @param {string} name "step 1600", "mean of 6" */
export function weightsName(name) {
  const [, what, count] = /^(step|mean of) (\d+)$/.exec(name) ?? [];
  return what ? t(what === "step" ? "measured.step" : "measured.mean", { number: Number(count) }) : name;
}

/** @param {readonly Schemas["Series"][]} series the curves of a training @param {number} [steps] all that it will make */
export function trainingCharts(series, steps = 0) {
  const plots = [...new Set(series.filter((line) => line.x.length).map((line) => line.plot))];
  return plots.map((plot) => {
    const lines = series.filter((line) => line.plot === plot && line.x.length);
    const loss = plot === "loss";
    const last = Math.max(steps, ...lines.map((line) => line.x.at(-1) ?? 0));
    return html`<mww-chart
      data-plot=${loss ? "loss" : "misses"}
      .chart=${{
        title: t(loss ? "measured.loss" : "measured.misses"),
        x: { label: t("measured.steps"), text: (/** @type {number} */ value) => number(value, 0), min: 0, max: last || 1 },
        y: loss
          ? { label: t("measured.loss_axis"), text: (/** @type {number} */ value) => number(value, 3), min: 0 }
          : { label: t("measured.misses_axis"), text: (/** @type {number} */ value) => percent(value, 1), min: 0, max: 1 },
        lines: lines.map((line) => ({ name: measured(line.name), x: line.x, y: line.y })),
        height: 220,
      }}
    ></mww-chart>`;
  });
}

/** @param {string} outcome better | no difference | worse | passed | failed … @returns {string} a class of .tag */
export const outcomeClass = (outcome) =>
  ({ better: "good", worse: "bad", done: "good", failed: "bad", passed: "good", skipped: "warn", stopped: "warn",
    running: "running" })[outcome] ?? "";

/** @param {string} outcome @returns {string} */
export function outcomeName(outcome) {
  const key = `measured.outcome_${outcome.replaceAll(" ", "_")}`;
  return has(key) ? t(key) : outcome;
}

/** @param {Schemas["ProposalView"]} one what a retraining came to */
export function proposalCard(one) {
  return html`<article class="proposal">
    <div class="row">
      <span class="tag ${outcomeClass(one.outcome)}">${outcomeName(one.outcome)}</span>
      <span class="tag ${one.offered ? "good" : "warn"}">${t(one.offered ? "measured.offered" : "measured.not_offered")}</span>
      ${one.model ? html`<a href="#/models/${one.model}">${one.model}</a>` : nothing}
      <span class="muted">${moment(one.made_at)}</span>
    </div>
    <p>${one.reason}</p>
    <p class="muted">${t("measured.proposal", { captures: one.learned_from, start: one.start, against: one.against })}</p>
    ${pairedTable(t("measured.decided_by"), one.decided_by)}
    ${one.also.length ? html`<details><summary>${t("measured.also")}</summary>${pairedTable("", one.also)}</details>` : nothing}
    ${one.notes.length ? html`<ul class="notes-list">${one.notes.map((text) => html`<li>${text}</li>`)}</ul>` : nothing}
  </article>`;
}

/** @param {string} caption @param {readonly Schemas["PairedView"][]} rows */
function pairedTable(caption, rows) {
  if (!rows.length) return nothing;
  return html`<div class="wide" tabindex="0" role="group" aria-label=${caption || t("measured.also")}>
    <table>
      ${caption ? html`<caption>${caption}</caption>` : nothing}
      <thead>
        <tr>
          <th scope="col">${t("measured.what")}</th>
          <th scope="col">${t("measured.old")}</th>
          <th scope="col">${t("measured.new")}</th>
          <th scope="col" class="number">${t("measured.better")}</th>
          <th scope="col" class="number">${t("measured.worse")}</th>
          <th scope="col" class="number">p</th>
          <th scope="col">${t("measured.outcome")}</th>
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          (row) => html`<tr>
            <th scope="row">${row.what}</th>
            <td>${interval(row.old)}</td>
            <td>${interval(row.new)}</td>
            <td class="number">${row.better}</td>
            <td class="number">${row.worse}</td>
            <td class="number">${number(row.p, 3)}</td>
            <td><span class="tag ${outcomeClass(row.outcome)}">${outcomeName(row.outcome)}</span></td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}
