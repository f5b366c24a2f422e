// Makes the component: node build.js <output.wasm>
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { componentize } from "@bytecodealliance/componentize-js";

const [output] = process.argv.slice(2);
if (output === undefined) {
  throw new Error("usage: node build.js <output.wasm>");
}
const source = await readFile(new URL("mandrill.js", import.meta.url), "utf8");
const { component } = await componentize(source, {
  witPath: fileURLToPath(new URL("../../../wit/1.0.0", import.meta.url)),
  worldName: "connector",
  // A plugin needs none of them; without them the component imports nothing of WASI.
  disableFeatures: ["clocks", "fetch-event", "http", "random", "stdio"],
});
await writeFile(output, component);
