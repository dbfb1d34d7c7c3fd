/** Light or dark: as the browser says, which follows Home Assistant's own theme when it frames us, or as chosen here. */

const KEY = "mww-ha-scheme";

/** @typedef {"auto" | "light" | "dark"} Scheme */

/** @returns {Scheme} */
export function chosenScheme() {
  try {
    const stored = localStorage.getItem(KEY);
    return stored === "light" || stored === "dark" ? stored : "auto";
  } catch {
    return "auto";
  }
}

/** @param {Scheme} [scheme] without it: as it was chosen before */
export function applyScheme(scheme) {
  if (scheme) {
    try {
      localStorage.setItem(KEY, scheme);
    } catch {
      // it holds until the page is left
    }
  }
  const chosen = scheme ?? chosenScheme();
  const root = document.documentElement;
  if (chosen === "auto") root.removeAttribute("data-scheme");
  else root.dataset["scheme"] = chosen;
  window.dispatchEvent(new CustomEvent("mww-scheme"));
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
  window.dispatchEvent(new CustomEvent("mww-scheme")),
);

/** @param {string} name "--accent" @returns {string} the colour as it is now, for what draws on a canvas */
export function colour(name) {
  // The variable itself says light-dark(…), which a canvas does not know: an element has one of the two.
  const probe = document.createElement("i");
  probe.hidden = true;
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
