/** Signs drawn by us on a grid of 24, strokes in the colour of the text. */
import { svg, html } from "../vendor/lit.js";

/** @type {Record<string, unknown>} */
const SHAPES = {
  brand: svg`<path d="M4 12v0M8 8v8M12 4v16M16 8v8M20 12v0" />`,
  home: svg`<path d="M4 11 12 4l8 7v9h-5v-6H9v6H4z" />`,
  microphone: svg`<rect x="9" y="3" width="6" height="11" rx="3" /><path d="M5 11a7 7 0 0 0 14 0M12 18v3M9 21h6" />`,
  review: svg`<path d="M4 5h16v11H9l-5 4z" /><path d="m9 10.5 2.2 2.2L15.5 8.5" />`,
  train: svg`<path d="M4 4v16h16" /><path d="m7 9 4 5 3-2 5 5" />`,
  model: svg`<path d="m12 3 8 4.5v9L12 21l-8-4.5v-9z" /><path d="m4 7.5 8 4.5 8-4.5M12 12v9" />`,
  device: svg`<rect x="5" y="3" width="14" height="18" rx="3" /><circle cx="12" cy="14" r="3.5" /><path d="M9 7h6" />`,
  listen: svg`<path d="M4 14v-2a8 8 0 0 1 16 0v2" /><rect x="3" y="14" width="4" height="6" rx="1.5" /><rect x="17" y="14" width="4" height="6" rx="1.5" />`,
  settings: svg`<path d="M4 7h9M17 7h3M4 17h3M11 17h9" /><circle cx="15" cy="7" r="2" /><circle cx="9" cy="17" r="2" />`,
  menu: svg`<path d="M4 6h16M4 12h16M4 18h16" />`,
  dots: svg`<path d="M4 7h16M4 12h16M4 17h16" />`,
  close: svg`<path d="m6 6 12 12M18 6 6 18" />`,
  play: svg`<path d="M8 5v14l11-7z" fill="currentColor" />`,
  pause: svg`<path d="M8 5v14M16 5v14" stroke-width="3" />`,
  stop: svg`<rect x="6" y="6" width="12" height="12" rx="1" fill="currentColor" />`,
  undo: svg`<path d="M9 7 4 12l5 5M4 12h10a6 6 0 0 1 6 6" />`,
  trash: svg`<path d="M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13" />`,
  download: svg`<path d="M12 4v11M7 11l5 5 5-5M5 20h14" />`,
  add: svg`<path d="M12 5v14M5 12h14" />`,
  ok: svg`<path d="m5 13 4.5 4.5L19 7" />`,
  person: svg`<circle cx="12" cy="8" r="4" /><path d="M4 20a8 8 0 0 1 16 0" />`,
};

/** @param {string} name @param {string} [label] what it means, where no text says so */
export function icon(name, label = "") {
  return html`<svg
    class="icon"
    viewBox="0 0 24 24"
    fill="none"
    stroke="currentColor"
    stroke-width="2"
    stroke-linecap="round"
    stroke-linejoin="round"
    role=${label ? "img" : "presentation"}
    aria-hidden=${label ? "false" : "true"}
    aria-label=${label}
  >
    ${SHAPES[name]}
  </svg>`;
}
