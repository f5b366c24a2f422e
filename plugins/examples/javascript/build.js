// Builds the component: node build.js <output.wasm> [<source.js> <contract> [<feature that the source uses> …]]
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { componentize } from "@bytecodealliance/componentize-js";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

const [output, path = here("mandrill.js"), contract = here("../../../wit/1.0.0"), ...used] = process.argv.slice(2);
if (output === undefined) {
  throw new Error("usage: node build.js <output.wasm> [<source.js> <contract> [<feature> …]]");
}
const { component } = await componentize(await readFile(path, "utf8"), {
  witPath: contract,
  worldName: "connector",
  // A plugin needs none of them; without them the component imports nothing of WASI.
  disableFeatures: ["clocks", "fetch-event", "http", "random", "stdio"].filter((feature) => !used.includes(feature)),
});
await writeFile(output, component);
