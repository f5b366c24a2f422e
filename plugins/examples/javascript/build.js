// Builds the component: node build.js <output.wasm> [<source.js> <contract>]
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { componentize } from "@bytecodealliance/componentize-js";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

const [output, path = here("mandrill.js"), contract = here("../../../wit/1.0.0")] = process.argv.slice(2);
if (output === undefined) {
  throw new Error("usage: node build.js <output.wasm> [<source.js> <contract>]");
}
const { component } = await componentize(await readFile(path, "utf8"), {
  witPath: contract,
  worldName: "connector",
  // A plugin needs none of these features. Without "clocks" and "random" the engine would give the time and the random numbers of
  // this build.
  disableFeatures: ["fetch-event", "http", "stdio"],
});
await writeFile(output, component);
