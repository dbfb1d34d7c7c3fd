/**
 * What the frame around us says when Home Assistant shows the panel: whether its own menu is hidden, for then we offer
 * a button that opens it. Nothing here is needed outside of it.
 */

/** Asks the frame to tell us; dispatches "mww-home-assistant" {narrow}. */
export function joinHomeAssistant() {
  if (window.parent === window) return;
  window.addEventListener("message", (event) => {
    if (event.source !== window.parent || event.origin !== location.origin) return;
    if (event.data?.type === "home-assistant/properties") {
      window.dispatchEvent(new CustomEvent("mww-home-assistant", { detail: { narrow: Boolean(event.data.narrow) } }));
    }
  });
  window.parent.postMessage({ type: "home-assistant/subscribe-properties" }, location.origin);
}

/** Opens or closes Home Assistant's own menu. */
export function toggleMenu() {
  window.parent.postMessage({ type: "home-assistant/toggle-menu" }, location.origin);
}
