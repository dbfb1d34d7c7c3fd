/** Sends an archive of a project, and tells how far it is: `fetch` does not say. */
import { Problem, address } from "../lib/api.js";

/**
 * @param {string} path
 * @param {File} file
 * @param {(share: number) => void} tell 0 to 1
 * @returns {Promise<import("../lib/api.js").Schemas["TakenOver"]>}
 */
export function sendArchive(path, file, tell) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path));
    request.responseType = "json";
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.addEventListener("progress", (event) => tell(event.total ? event.loaded / event.total : 0));
    request.addEventListener("error", () => reject(new Problem("offline", { error: "Offline" })));
    request.addEventListener("load", () => {
      const said = request.response;
      if (request.status < 300) resolve(said);
      else reject(new Problem(said?.message ?? `${request.status}`, { hint: said?.hint, error: said?.error, status: request.status }));
    });
    request.send(file);
  });
}
