// Answers the questions of the Python tests about the JavaScript implementation, all in one process:
// a JSON list on standard input, a JSON list on standard output. Bytes travel as base64.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const [modules] = process.argv.slice(2);
const sle1 = await import(`${modules}/sle1.mjs`);
const { readSealed } = await import(`${modules}/containers.mjs`);

const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64"));
const text = (value) => Buffer.from(value).toString("base64");
const rings = new Map();

async function ring(masters) {
  const name = masters.join();
  if (!rings.has(name)) rings.set(name, await sle1.keyringOf(masters.map(bytes)));
  return rings.get(name);
}

const answers = {
  async keystream({ key, n, start }) {
    return text(await sle1.keystream(bytes(key), n, { start }));
  },
  async digest({ key, n }) {
    return createHash("sha256").update(await sle1.keystream(bytes(key), n)).digest("hex");
  },
  async kid({ key }) {
    return sle1.keyId(bytes(key));
  },
  async inspect({ envelope }) {
    const info = sle1.inspect(bytes(envelope));
    return { ...info, ctx: text(info.ctx) };
  },
  async open({ envelope, masters, expected }) {
    const options = expected === undefined ? {} : { expectedCtx: bytes(expected) };
    return text(await sle1.openSealed(bytes(envelope), await ring(masters), options));
  },
  async token({ envelope, token }) {
    return text(await sle1.openWithToken(bytes(envelope), token));
  },
  async keyring({ file }) {
    return [...(await sle1.readKeyring(file)).keys()];
  },
  async sealed({ file }) {
    return (await readSealed(bytes(file))).map(text);
  },
};

const given = JSON.parse(readFileSync(0, "utf8"));
const found = [];
for (const question of given) {
  try {
    found.push({ ok: await answers[question.ask](question) });
  } catch (error) {
    found.push({ error: error.name, message: error.message });
  }
}
process.stdout.write(JSON.stringify(found));
