// Make open.html: page.html with the modules inside, so that it works from a file as it is.
//
//   node bundle.mjs           write open.html
//   node bundle.mjs --check   exit 1 where open.html is stale
//
// A browser loads no module for a page that was opened from a disk, hence one script. Only that
// script may run: the page's policy names its digest.

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";

const beside = (name) => new URL(name, import.meta.url);
const read = (name) => readFileSync(beside(name), "utf8");

const IMPORT = /^import \{[^}]*\} from "\.\/(\w+\.mjs)";$/gm;
const SCRIPT = /(<script type="module">)([^]*?)(<\/script>)/;

function bundle() {
  const page = read("page.html");
  const own = SCRIPT.exec(page)[2];
  const script = own.replace(IMPORT, (_, name) => read(name).replace(/^export /gm, ""));
  const digest = createHash("sha256").update(script).digest("base64");
  return page
    .replace(SCRIPT, (_, open, __, close) => open + script + close)
    .replace("script-src 'self'", () => `script-src 'sha256-${digest}'`);
}

const made = bundle();
if (process.argv.includes("--check")) {
  if (read("open.html") !== made) {
    console.error("open.html is stale; write it anew with `node bundle.mjs`");
    process.exit(1);
  }
} else {
  writeFileSync(beside("open.html"), made);
}
