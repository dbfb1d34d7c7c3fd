// Makes mww_ha/web/static/vendor/ of the libraries that package.json names: one ES module each, and their licences.
// Run it after a change there: (cd tools/panel && npm ci && npm run vendor). What it writes is committed, so that neither a
// user's installation nor the panel needs Node.
import { build } from "esbuild";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const target = path.resolve(here, "../../mww_ha/web/static/vendor");

const modules = {
  lit: `export { LitElement, html, svg, nothing, noChange } from "lit";
export { repeat } from "lit/directives/repeat.js";
export { live } from "lit/directives/live.js";
export { ref, createRef } from "lit/directives/ref.js";
export { classMap } from "lit/directives/class-map.js";
export { ifDefined } from "lit/directives/if-defined.js";
export { guard } from "lit/directives/guard.js";
export { keyed } from "lit/directives/keyed.js";
export { until } from "lit/directives/until.js";
export { virtualize, virtualizerRef } from "@lit-labs/virtualizer/virtualize.js";`,
  uplot: `export { default } from "uplot";`,
  wavesurfer: `export { default } from "wavesurfer.js";`,
};
const types = {
  lit: `export type { TemplateResult, PropertyDeclarations, PropertyValues, ReactiveController, ReactiveControllerHost } from "lit";\n`,
};
const owners = ["lit", "lit-html", "lit-element", "@lit/reactive-element", "@lit-labs/virtualizer", "uplot", "wavesurfer.js"];

await rm(target, { recursive: true, force: true });
await mkdir(target, { recursive: true });
for (const [name, contents] of Object.entries(modules)) {
  await build({
    stdin: { contents, resolveDir: here },
    outfile: path.join(target, `${name}.js`),
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    conditions: ["production"],
    legalComments: "none",
    charset: "utf8",
  });
  // For tools/panel/check alone, which knows where the libraries' own types are; the service does not send them.
  await writeFile(path.join(target, `${name}.d.ts`), `${contents}\n${types[name] ?? ""}`);
}
await writeFile(path.join(target, "uplot.css"), await readFile(path.join(here, "node_modules/uplot/dist/uPlot.min.css")));

let notice = "Libraries in this folder, bundled by tools/panel/vendor.mjs and otherwise unchanged.\n";
for (const owner of owners) {
  const folder = path.join(here, "node_modules", owner);
  const about = JSON.parse(await readFile(path.join(folder, "package.json"), "utf8"));
  notice += `\n${"=".repeat(100)}\n${about.name} ${about.version}, ${about.license}\n${"=".repeat(100)}\n\n`;
  notice += (await readFile(path.join(folder, "LICENSE"), "utf8")).trim() + "\n";
}
await writeFile(path.join(target, "LICENSES.txt"), notice);
