// SLE1 envelopes and the LCL-1 keystream, written from the specification a second time.
//
// It opens what the Python library seals: with a master key, or with a disclosure token for one
// envelope. It seals nothing. It runs in Node 18 or newer and in every current browser, and needs
// nothing but `crypto.subtle`. All integers are little-endian, all word arithmetic is modulo 2^32.

// Node 18 keeps it in a module; everything else has it by itself.
const { subtle } = globalThis.crypto ?? (await import("node:crypto")).webcrypto;

const LANES = 512;
const STEPS = 64;
const WARM_UP_STEPS = 8;
const GOLDEN = 0x9e3779b9;
const ROW_BYTES = 4 * LANES;
const SEGMENT_BYTES = ROW_BYTES * STEPS;
const SEED_BYTES = 8 * LANES; // of AES-256-CTR keystream, a segment
const SEGMENTS_AT_ONCE = 64;

const HEAD_BYTES = 84;
const TAG_BYTES = 16;
const NONCE_AT = 16;
const COMMIT_AT = 40;
const TOKEN_BYTES = 104;
const MASTER_BYTES = 32;
const LARGEST_KEYRING = 1 << 20; // characters

/** Content types of an envelope. */
export const PIXELS = 1;
export const RECORD = 2;
export const FRAME = 3;

/** An envelope or a token does not open. One type, one message: it never says why. */
export class EnvelopeError extends Error {
  constructor() {
    super("the envelope does not open: wrong key, other context, or changed bytes");
    this.name = "EnvelopeError";
  }
}

/** A keyring file cannot be used. The message never quotes the file. */
export class KeyringError extends Error {
  constructor(message) {
    super(message);
    this.name = "KeyringError";
  }
}

// ---- LCL-1

/**
 * `n` bytes of the LCL-1 keystream of `key`, from byte `start` on.
 *
 * @param {Uint8Array} key 32 bytes
 * @param {number} n how many bytes
 * @param {{start?: number}} [options] offset in bytes; costs at most one segment of extra work
 * @returns {Promise<Uint8Array>}
 */
export async function keystream(key, n, { start = 0 } = {}) {
  if (key.length !== MASTER_BYTES) {
    throw new RangeError(`an LCL-1 key has ${MASTER_BYTES} bytes, not ${key.length}`);
  }
  if (![n, start, n + start].every((value) => Number.isSafeInteger(value) && value >= 0)) {
    throw new RangeError(`n = ${n} and start = ${start} must be whole numbers, not negative`);
  }
  const aes = await subtle.importKey("raw", key, "AES-CTR", false, ["encrypt"]);
  const first = Math.floor(start / SEGMENT_BYTES);
  const skip = start - first * SEGMENT_BYTES;
  const rows = Math.ceil((skip + n) / ROW_BYTES);
  const out = new DataView(new ArrayBuffer(rows * ROW_BYTES));
  for (let row = 0; row < rows; row += SEGMENTS_AT_ONCE * STEPS) {
    const count = Math.min(SEGMENTS_AT_ONCE, Math.ceil((rows - row) / STEPS));
    const seeds = await segmentSeeds(aes, first + row / STEPS, count);
    for (let at = 0; at < count; at++) {
      fillSegment(seeds, at * SEED_BYTES, out, row + at * STEPS, rows);
    }
  }
  return new Uint8Array(out.buffer, skip, n);
}

/** The seeds of `count` segments from segment `first` on: AES-256-CTR over zeros. */
async function segmentSeeds(aes, first, count) {
  const counter = new DataView(new ArrayBuffer(16));
  counter.setBigUint64(8, BigInt(first) * BigInt(SEED_BYTES / 16)); // big-endian, as CTR counts
  const algorithm = { name: "AES-CTR", counter: counter.buffer, length: 128 };
  const zeros = new Uint8Array(count * SEED_BYTES);
  return new DataView(await subtle.encrypt(algorithm, aes, zeros));
}

/** Write the rows of one segment, from `row` on and below `end`, into `out`. */
function fillSegment(seeds, seedAt, out, row, end) {
  let x = new Uint32Array(LANES);
  let after = new Uint32Array(LANES);
  const w = new Uint32Array(LANES);
  const m = new Uint32Array(LANES);
  for (let i = 0; i < LANES; i++) {
    x[i] = seeds.getUint32(seedAt + 4 * i, true);
    w[i] = seeds.getUint32(seedAt + 4 * (LANES + i), true);
  }
  const steps = Math.min(STEPS, end - row);
  for (let t = -WARM_UP_STEPS; t < steps; t++) {
    step(x, w, m, after);
    if (t >= 0) emit(m, after, out, (row + t) * ROW_BYTES);
    [x, after] = [after, x];
  }
}

/** One iteration of all lanes: the map in Q32, the Weyl sequence, the coupling. */
function step(x, w, m, after) {
  for (let i = 0; i < LANES; i++) {
    // p = x * ~x has 62 bits, more than a number holds: 16-bit halves, then p = high * 2^32 + low.
    const low1 = x[i] & 0xffff;
    const high1 = x[i] >>> 16;
    const low2 = 0xffff - low1;
    const high2 = 0xffff - high1;
    const lowest = low1 * low2;
    const middle = low1 * high2 + high1 * low2 + (lowest >>> 16);
    const high = high1 * high2 + Math.floor(middle / 0x10000);
    const low = (middle << 16) | (lowest & 0xffff);
    m[i] = (high << 18) | (low >>> 14);
    w[i] += Math.imul(GOLDEN, 2 * i + 1);
    after[i] = ((high << 2) | (low >>> 30)) + w[i] + x[(i + 1) % LANES];
  }
}

function emit(m, after, out, at) {
  for (let i = 0; i < LANES; i++) {
    const word = (m[i] + m[(i + 1) % LANES]) ^ after[(i + LANES / 2) % LANES];
    out.setUint32(at + 4 * i, word, true);
  }
}

// ---- Envelopes

/**
 * The public part of an envelope. No key is needed and nothing is verified.
 *
 * @param {Uint8Array} envelope
 * @returns {{contentType: number, flags: number, kid: string, nonce: string, ctx: Uint8Array,
 *   plaintextBytes: number}} kid and nonce in hexadecimal
 */
export function inspect(envelope) {
  const { ctxBytes, plaintextBytes } = readHead(envelope);
  return {
    contentType: envelope[6],
    flags: envelope[7],
    kid: toHex(envelope.subarray(8, NONCE_AT)),
    nonce: toHex(envelope.subarray(NONCE_AT, COMMIT_AT)),
    ctx: envelope.slice(HEAD_BYTES, HEAD_BYTES + ctxBytes),
    plaintextBytes,
  };
}

/**
 * The plaintext of an envelope, with a master key.
 *
 * @param {Uint8Array} envelope
 * @param {Map<string, Uint8Array>} keyring masters by key id, as `keyringOf` gives them
 * @param {{expectedCtx?: Uint8Array}} [options] opens only with exactly this context
 * @returns {Promise<Uint8Array>}
 */
export async function openSealed(envelope, keyring, { expectedCtx } = {}) {
  const { ctxBytes } = readHead(envelope);
  const master = keyring.get(toHex(envelope.subarray(8, NONCE_AT)));
  if (master === undefined) throw new EnvelopeError();
  const ctx = envelope.subarray(HEAD_BYTES, HEAD_BYTES + ctxBytes);
  const keys = await envelopeKeys(envelope, ctx, master);
  const committed = sameBytes(keys.commit, envelope.subarray(COMMIT_AT, COMMIT_AT + 32));
  const expected = expectedCtx === undefined || sameBytes(ctx, expectedCtx);
  if (!(committed && expected)) throw new EnvelopeError();
  return openWithKeys(envelope, ctxBytes, keys);
}

/**
 * The plaintext of the one envelope that a disclosure token opens.
 *
 * The token's bytes are not verified by themselves: one whose LCL-1 key was changed gives noise.
 *
 * @param {Uint8Array} envelope
 * @param {string} token base64url, padded or not
 * @returns {Promise<Uint8Array>}
 */
export async function openWithToken(envelope, token) {
  const { ctxBytes } = readHead(envelope);
  const raw = readToken(token);
  if (!sameBytes(raw.subarray(4, 28), envelope.subarray(NONCE_AT, COMMIT_AT))) {
    throw new EnvelopeError();
  }
  const keys = { gcm: raw.subarray(28, 60), iv: raw.subarray(60, 72), chaos: raw.subarray(72) };
  return openWithKeys(envelope, ctxBytes, keys);
}

/** The N, in hexadecimal, of the envelope that a token opens. */
export function nonceOfToken(token) {
  return toHex(readToken(token).subarray(4, 28));
}

function readHead(envelope) {
  if (!(envelope instanceof Uint8Array)) throw new TypeError("an envelope is a Uint8Array");
  if (envelope.length < HEAD_BYTES + TAG_BYTES) throw new EnvelopeError();
  const view = new DataView(envelope.buffer, envelope.byteOffset, envelope.byteLength);
  const known = toHex(envelope.subarray(0, 6)) === "534c45310101"; // SLE1, version 1, suite 1
  const typed = [PIXELS, RECORD, FRAME].includes(envelope[6]) && [0, 2].includes(envelope[7]);
  const ctxBytes = view.getUint32(72, true);
  const plaintextBytes = view.getBigUint64(76, true);
  const rest = BigInt(envelope.length - HEAD_BYTES - TAG_BYTES);
  if (!(known && typed && BigInt(ctxBytes) + plaintextBytes === rest)) throw new EnvelopeError();
  return { ctxBytes, plaintextBytes: Number(plaintextBytes) };
}

async function envelopeKeys(envelope, ctx, master) {
  const info = join(
    ascii("SLE1 LCL1+A256GCM v1"),
    envelope.subarray(0, NONCE_AT), // hdr8 and kid
    new Uint8Array(await subtle.digest("SHA-256", ctx)),
  );
  const okm = await hkdf(master, envelope.subarray(NONCE_AT, COMMIT_AT), info, 108);
  return {
    gcm: okm.subarray(0, 32),
    iv: okm.subarray(32, 44),
    chaos: okm.subarray(44, 76),
    commit: okm.subarray(76),
  };
}

/** Verify, then remove LCL-1: no unverified byte reaches it. */
async function openWithKeys(envelope, ctxBytes, keys) {
  const start = HEAD_BYTES + ctxBytes;
  const key = await subtle.importKey("raw", keys.gcm, "AES-GCM", false, ["decrypt"]);
  const additionalData = envelope.subarray(0, start);
  const algorithm = { name: "AES-GCM", iv: keys.iv, additionalData, tagLength: 8 * TAG_BYTES };
  let masked;
  try {
    masked = await subtle.decrypt(algorithm, key, envelope.subarray(start));
  } catch {
    throw new EnvelopeError();
  }
  const plain = new Uint8Array(masked);
  const mask = await keystream(keys.chaos, plain.length);
  for (let i = 0; i < plain.length; i++) plain[i] ^= mask[i];
  return plain;
}

function readToken(token) {
  const digits = /^([A-Za-z0-9_-]{139})=*$/.exec(token);
  if (digits === null) throw new EnvelopeError();
  const text = atob(digits[1].replaceAll("-", "+").replaceAll("_", "/"));
  const raw = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  if (raw.length !== TOKEN_BYTES || toHex(raw.subarray(0, 4)) !== "534c5431") {
    throw new EnvelopeError();
  }
  return raw;
}

// ---- Masters

/** The key id of a master, 8 bytes in hexadecimal. */
export async function keyId(master) {
  return toHex(await hkdf(master, ascii("SLE1 master"), ascii("SLE1 kid"), 8));
}

/**
 * Masters by their key id, as `openSealed` takes them.
 *
 * @param {Iterable<Uint8Array>} masters 32 bytes each
 */
export async function keyringOf(masters) {
  const keyring = new Map();
  for (const master of masters) {
    if (master.length !== MASTER_BYTES) {
      throw new KeyringError(`a master has ${MASTER_BYTES} bytes, this one ${master.length}`);
    }
    keyring.set(await keyId(master), master);
  }
  return keyring;
}

/**
 * The masters of a keyring file (JSON), by their key id.
 *
 * @param {string} text the file
 */
export async function readKeyring(text) {
  const damaged = new KeyringError("this is no keyring file, or it is damaged");
  let entries;
  try {
    if (text.length > LARGEST_KEYRING) throw damaged;
    const document = JSON.parse(text);
    if (document.keyring !== 1) throw damaged;
    entries = document.masters.map(({ kid, key }) => [String(kid), fromHex(key)]);
  } catch {
    throw damaged;
  }
  const keyring = await keyringOf(entries.map(([, master]) => master));
  const named = entries.every(([kid]) => keyring.has(kid));
  if (entries.length === 0 || entries.length !== keyring.size || !named) throw damaged;
  return keyring;
}

async function hkdf(master, salt, info, bytes) {
  const key = await subtle.importKey("raw", master, "HKDF", false, ["deriveBits"]);
  const algorithm = { name: "HKDF", hash: "SHA-256", salt, info };
  return new Uint8Array(await subtle.deriveBits(algorithm, key, 8 * bytes));
}

// ---- Bytes

/** Whether two byte arrays are equal; looks at every byte whatever it finds. */
function sameBytes(one, two) {
  if (one.length !== two.length) return false;
  let difference = 0;
  for (let i = 0; i < one.length; i++) difference |= one[i] ^ two[i];
  return difference === 0;
}

function join(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function ascii(text) {
  return new TextEncoder().encode(text);
}

function toHex(bytes) {
  return Array.from(bytes, (value) => value.toString(16).padStart(2, "0")).join("");
}

function fromHex(text) {
  if (!/^([0-9a-f]{2})*$/i.test(text)) throw new KeyringError("not hexadecimal");
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}
