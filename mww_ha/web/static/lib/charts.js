/**
 * Charts with intervals: `<mww-chart .chart=${chart}></mww-chart>`. Lines with `low` and `high` have a band; a table under
 * the picture says the same in numbers, which is what a screen reader gets.
 */
import { html, nothing, svg } from "../vendor/lit.js";
import UPlot from "../vendor/uplot.js";
import { t } from "./i18n.js";
import { colour } from "./scheme.js";
import { View } from "./ui.js";

/** @typedef {number | null} Value */
/**
 * @typedef {{name: string, x: readonly number[], y: readonly Value[], low?: readonly Value[], high?: readonly Value[],
 *   kind?: "line" | "steps" | "points" | "bars", text?: (place: number) => string}} Line
 *   x ascending; `text` says a point in the table, where there is more to say than its number
 */
/**
 * @typedef {{label: string, text: (value: number) => string, log?: boolean, min?: number, max?: number}} Axis
 *   a logarithmic axis needs `min` and `max`; what lies outside is drawn at its edge
 */
/** @typedef {{name: string, x: number, y?: number}} Mark a point with a name; without y a line from top to bottom */
/** @typedef {{title: string, x: Axis, y: Axis, lines: readonly Line[], marks?: readonly Mark[], height?: number}} Chart */

const COLOURS = ["--accent", "--warn", "--good", "--bad", "--muted", "--text"];
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2], [1, 4]];
const FONT = "12px system-ui, sans-serif";
const MOST_ROWS = 260;

/** @param {string} name @param {number} [alpha] @returns {string} a colour of the sheet that a canvas understands */
function ink(name, alpha = 1) {
  // The sheet says light-dark(…): an element resolves it.
  const probe = document.createElement("i");
  probe.style.color = colour(name) || "currentColor";
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  const [red, green, blue] = found.match(/[\d.]+/g) ?? [];
  return alpha === 1 ? found : `rgba(${red}, ${green}, ${blue}, ${alpha})`;
}

/** @param {Axis} axis @param {Value | undefined} value @returns {Value} inside the axis */
function place(axis, value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return null;
  return Math.min(axis.max ?? Infinity, Math.max(axis.min ?? -Infinity, value));
}

/** @param {Chart} chart @returns {UPlot.AlignedData} x, then for each line y, low, high */
function align(chart) {
  const all = [...new Set(chart.lines.flatMap((line) => line.x.map((value) => Number(place(chart.x, value)))))];
  all.sort((one, other) => one - other);
  const places = new Map(all.map((value, index) => [value, index]));
  /** @type {Value[][]} */
  const columns = [];
  for (const line of chart.lines) {
    for (const values of [line.y, line.low, line.high]) {
      const column = /** @type {Value[]} */ (new Array(all.length).fill(null));
      if (values) {
        line.x.forEach((x, index) => {
          column[places.get(Number(place(chart.x, x))) ?? 0] = place(chart.y, values[index]);
        });
      }
      columns.push(column);
    }
  }
  return /** @type {UPlot.AlignedData} */ (/** @type {unknown} */ ([all, ...columns]));
}

/** @param {Chart} chart @returns {string} what a plot is made anew for; other changes are only drawn */
const shapeOf = (chart) =>
  JSON.stringify([
    chart.height, chart.x, chart.y, chart.lines.map(({ name, kind, low }) => [name, kind, Boolean(low)]),
  ]);

class ChartView extends View {
  static properties = { chart: { attribute: false }, open: { state: true } };

  constructor() {
    super();
    /** @type {Chart | null} */
    this.chart = null;
    this.open = false;
    /** @type {UPlot | null} */
    this.plot = null;
    this.shape = "";
    this.observer = new ResizeObserver(() => this.#resize());
  }

  connectedCallback() {
    super.connectedCallback();
    this.while(window, "mww-scheme", () => this.#draw(true));
    if (this.hasUpdated) this.#draw(true);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this.observer.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }

  /** @param {Map<string, unknown>} changed */
  updated(changed) {
    if (changed.has("chart")) this.#draw(false);
  }

  get #host() {
    return /** @type {HTMLElement | null} */ (this.querySelector(".chart"));
  }

  #resize() {
    const host = this.#host;
    if (!host || !this.plot || !host.clientWidth || host.clientWidth === this.plot.width) return;
    this.plot.setSize({ width: host.clientWidth, height: this.plot.height });
  }

  /** @param {boolean} anew */
  #draw(anew) {
    const host = this.#host;
    const chart = this.chart;
    if (!host || !chart) return;
    const shape = shapeOf(chart);
    if (this.plot && !anew && shape === this.shape) {
      this.plot.setData(align(chart));
      this.dataset["points"] = String(this.plot.data[0].length);
      return;
    }
    this.plot?.destroy();
    this.shape = shape;
    this.plot = new UPlot(this.#options(chart, host.clientWidth || 300), align(chart), host);
    this.dataset["points"] = String(this.plot.data[0].length);
    this.observer.disconnect();
    this.observer.observe(host);
  }

  /** @param {Chart} chart @param {number} width @returns {UPlot.Options} */
  #options(chart, width) {
    const line = ink("--line");
    const muted = ink("--muted");
    /** @param {Axis} axis @returns {UPlot.Scale} */
    const scale = (axis) => ({
      time: false,
      distr: axis.log ? 3 : 1,
      range: (_plot, low, high) => {
        const from = axis.min ?? low ?? 0;
        const to = axis.max ?? high ?? 1;
        if (to > from) return [from, to];
        return axis.log ? [from / 2, to * 2] : [from - 0.5, to + 0.5];
      },
    });
    /** @param {Axis} axis @returns {Partial<UPlot.Axis>} */
    const axis = (axis) => ({
      stroke: muted,
      font: FONT,
      grid: { stroke: line, width: 1 },
      ticks: { stroke: line, width: 1 },
      values: (_plot, splits) => splits.map((value) => (value === null ? "" : axis.text(value))),
    });
    /** @type {UPlot.Series[]} */
    const series = [{}];
    /** @type {UPlot.Band[]} */
    const bands = [];
    chart.lines.forEach((one, number) => {
      const name = COLOURS[number % COLOURS.length] ?? "--accent";
      const shown = ink(name);
      const paths =
        one.kind === "steps" ? UPlot.paths.stepped?.({ align: 1 })
        : one.kind === "bars" ? UPlot.paths.bars?.({ size: [1, 64], align: 1 })
        : one.kind === "points" ? () => null
        : UPlot.paths.linear?.();
      series.push({
        label: one.name,
        stroke: shown,
        fill: one.kind === "bars" ? ink(name, 0.55) : undefined,
        width: 2,
        dash: one.kind === "bars" ? [] : DASHES[number % DASHES.length],
        spanGaps: true,
        paths,
        points: { show: one.kind === "points" || (one.kind !== "bars" && one.x.length < 40), size: 5, fill: shown },
      });
      for (let bound = 0; bound < 2; bound += 1) {
        series.push({ stroke: "transparent", width: 0, spanGaps: true, paths, points: { show: false } });
      }
      if (one.low) bands.push({ series: [series.length - 1, series.length - 2], fill: ink(name, 0.18) });
    });
    const longest = (/** @type {string[] | null} */ values) => Math.max(2, ...(values ?? []).map((text) => text.length));
    return {
      width,
      height: chart.height ?? 260,
      scales: { x: scale(chart.x), y: scale(chart.y) },
      axes: [
        { ...axis(chart.x), label: chart.x.label, labelFont: FONT, labelSize: 20, size: 34, space: 56 },
        { ...axis(chart.y), size: (_plot, values) => 22 + 7 * longest(values) },
      ],
      series,
      bands,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      hooks: {
        draw: [(plot) => this.#mark(plot)],
        setCursor: [(plot) => this.#read(plot)],
      },
    };
  }

  /** @param {UPlot} plot */
  #mark(plot) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.font = `${12 * ratio}px system-ui, sans-serif`;
    ctx.fillStyle = ctx.strokeStyle = ink("--text");
    ctx.lineWidth = 2 * ratio;
    ctx.textAlign = "left";
    /** @type {{from: number, to: number, base: number}[]} */
    const taken = [];
    for (const mark of this.chart?.marks ?? []) {
      const chart = /** @type {Chart} */ (this.chart);
      const x = plot.valToPos(Number(place(chart.x, mark.x)), "x", true);
      if (mark.y === undefined) {
        ctx.setLineDash([5 * ratio, 4 * ratio]);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        ctx.setLineDash([]);
        continue;
      }
      const y = plot.valToPos(Number(place(chart.y, mark.y)), "y", true);
      ctx.beginPath();
      ctx.arc(x, y, 5 * ratio, 0, 2 * Math.PI);
      ctx.stroke();
      // The name goes where there is room: not over the edge, not over another name.
      const wide = ctx.measureText(mark.name).width;
      const left = x + 9 * ratio + wide < bbox.left + bbox.width ? x + 9 * ratio : x - 9 * ratio - wide;
      let base = y + 16 * ratio;
      while (taken.some((one) => left < one.to && left + wide > one.from && Math.abs(base - one.base) < 14 * ratio)) {
        base += 15 * ratio;
      }
      taken.push({ from: left, to: left + wide, base });
      ctx.fillText(mark.name, left, base);
    }
    ctx.restore();
  }

  /** Values under the pointer, beside the names. @param {UPlot} plot */
  #read(plot) {
    const chart = this.chart;
    const index = plot.cursor.idx;
    if (!chart) return;
    const x = index === null || index === undefined ? null : plot.data[0][index];
    const at = this.querySelector(".chart-at");
    if (at) at.textContent = x === null || x === undefined ? "" : `${chart.x.label}: ${chart.x.text(x)}`;
    chart.lines.forEach((_line, number) => {
      const value = x === null || x === undefined ? null : plot.data[1 + 3 * number]?.[Number(index)];
      const shown = this.querySelector(`[data-line="${number}"]`);
      if (shown) shown.textContent = value === null || value === undefined ? "" : chart.y.text(value);
    });
  }

  render() {
    const chart = this.chart;
    if (!chart) return nothing;
    const lone = chart.lines.length === 1 && chart.lines[0]?.name === chart.title;
    return html`<figure class="chart-figure">
      <figcaption>
        <strong>${chart.title}</strong>
        <span class="chart-at muted" aria-hidden="true"></span>
      </figcaption>
      <small class="muted">${chart.y.label}</small>
      <div class="chart" role="img" aria-label=${`${chart.title}. ${t("chart.table_below")}`}></div>
      <ul class="chart-keys">
        ${chart.lines.map(
          (line, number) => html`<li ?hidden=${lone}>
            <svg class="chart-key k${number % COLOURS.length}" viewBox="0 0 28 10" aria-hidden="true">
              ${keyShape(line, number)}
            </svg>
            ${line.name} <span class="number muted" data-line=${number} aria-hidden="true"></span>
          </li>`,
        )}
      </ul>
      <details @toggle=${(/** @type {Event} */ event) => (this.open = /** @type {HTMLDetailsElement} */ (event.target).open)}>
        <summary>${t("chart.as_table")}</summary>
        ${this.open ? this.#table(chart) : nothing}
      </details>
    </figure>`;
  }

  /** @param {Chart} chart */
  #table(chart) {
    const all = [...new Set(chart.lines.flatMap((line) => line.x))].sort((one, other) => one - other);
    const every = Math.ceil(all.length / MOST_ROWS);
    const shown = all.filter((_x, index) => index % every === 0 || index === all.length - 1);
    const places = chart.lines.map((line) => new Map(line.x.map((x, index) => [x, index])));
    return html`<div class="wide chart-table" tabindex="0" role="group" aria-label=${chart.title}>
      <table>
        <thead>
          <tr>
            <th scope="col" class="number">${chart.x.label}</th>
            ${chart.lines.map((line) => html`<th scope="col" class="number">${line.name}</th>`)}
          </tr>
        </thead>
        <tbody>
          ${shown.map(
            (x) => html`<tr>
              <td class="number">${chart.x.text(x)}</td>
              ${chart.lines.map((line, number) => html`<td class="number">${say(chart, line, places[number]?.get(x))}</td>`)}
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`;
  }
}
customElements.define("mww-chart", ChartView);

/** @param {Chart} chart @param {Line} line @param {number | undefined} index @returns {string} */
function say(chart, line, index) {
  if (index === undefined) return "";
  if (line.text) return line.text(index);
  const value = line.y[index];
  if (value === null || value === undefined) return "";
  const [low, high] = [line.low?.[index], line.high?.[index]];
  const range = typeof low === "number" && typeof high === "number" ? ` [${chart.y.text(low)}–${chart.y.text(high)}]` : "";
  return chart.y.text(value) + range;
}

/** @param {Line} line @param {number} number what stands beside a line's name */
function keyShape(line, number) {
  if (line.kind === "bars") return svg`<rect width="28" height="10" fill="currentColor" opacity=".55" />`;
  if (line.kind === "points") return svg`<circle cx="14" cy="5" r="3" fill="currentColor" />`;
  const dash = (DASHES[number % DASHES.length] ?? []).join(" ");
  return svg`${line.low ? svg`<rect width="28" height="10" fill="currentColor" opacity=".18" />` : nothing}
    <path d="M0 5h28" stroke="currentColor" stroke-width="2" stroke-dasharray=${dash || "none"} />`;
}

/**
 * Shares with their intervals as bars from 0 to 100 %.
 * @param {readonly {name: string, share: {value: number, low: number, high: number}}[]} rows
 * @param {(row: any) => string} text what is written at the end
 */
export const bars = (rows, text) =>
  html`<ul class="bars">
    ${rows.map(
      (row) => html`<li>
        <span class="name">${row.name}</span> <span class="value">${text(row)}</span>
        <svg viewBox="0 0 100 14" preserveAspectRatio="none" aria-hidden="true">
          <rect y="3" width=${100 * row.share.value} height="8" fill="currentColor" opacity=".75"></rect>
          <path
            d=${`M${100 * row.share.low} 7H${100 * row.share.high}`}
            stroke="var(--text)"
            stroke-width="2"
            vector-effect="non-scaling-stroke"
          ></path>
        </svg>
      </li>`,
    )}
  </ul>`;
