// Where sealed data lives in a file: the reading half of what the Python library writes.
//
// One blob a file: "SLEB" | version 1 | three zero bytes | u32 count | each envelope after its u32
// length, little-endian. A JPEG carries it in APP9 segments, a PNG in one `slEp` chunk, a WebP in
// one `SLE1` chunk, a TIFF in a private tag, and a `.sle` sidecar is the blob itself. No length is
// trusted.

const webCrypto = globalThis.crypto ?? (await import("node:crypto")).webcrypto;

const MAX_PARTS = 100_000; // segments or chunks in one file
const MAX_ENVELOPES = 10_000; // in one file
const BLOB_HEAD_BYTES = 12;
const APP9_HEAD_BYTES = 17; // "SLE1\0", 8 bytes of SHA-256, u16 index, u16 count
const TIFF_TAG = 65211; // bytes (type 7), in the first directory

/** The file cannot be read, or its sealed data is damaged. The message says what to do. */
export class ContainerError extends Error {
  constructor(message) {
    super(message);
    this.name = "ContainerError";
  }
}

/**
 * The envelopes in a JPEG, PNG, WebP, TIFF or `.sle` file, in order; none where it carries none.
 *
 * @param {Uint8Array} data the whole file
 * @returns {Promise<Uint8Array[]>}
 */
export async function readSealed(data) {
  if (starts(data, 0, "SLEB")) return unpack(data);
  if (starts(data, 0, "SLE1")) return [data]; // one envelope, as a program may have kept it
  if (starts(data, 0, "\xff\xd8")) return readJpeg(data);
  if (starts(data, 0, "\x89PNG\r\n\x1a\n")) return readPng(data);
  if (starts(data, 0, "RIFF") && starts(data, 8, "WEBP")) return readWebp(data);
  if (starts(data, 0, "II*\0") || starts(data, 0, "MM\0*")) return readTiff(data);
  throw new ContainerError("this is no JPEG, PNG, WebP, TIFF or .sle file; give one of these");
}

function unpack(blob) {
  if (blob.length < BLOB_HEAD_BYTES || !starts(blob, 0, "SLEB")) throw damaged();
  const view = viewOf(blob);
  if (blob[4] !== 1) {
    throw new ContainerError(`the sealed data has version ${blob[4]}, this page reads 1`);
  }
  const count = view.getUint32(8, true);
  if (blob[5] || blob[6] || blob[7] || count > MAX_ENVELOPES) throw damaged();
  const envelopes = [];
  let at = BLOB_HEAD_BYTES;
  for (let i = 0; i < count; i++) {
    if (at + 4 > blob.length) throw damaged();
    const end = at + 4 + view.getUint32(at, true);
    if (end > blob.length) throw damaged();
    envelopes.push(blob.slice(at + 4, end));
    at = end;
  }
  if (at !== blob.length || count === 0) throw damaged();
  return envelopes;
}

async function readJpeg(data) {
  const pieces = new Map();
  const sets = new Set();
  let segments = 0;
  for (const [marker, start, end] of jpegSegments(data)) {
    if (marker !== 0xe9 || !starts(data, start, "SLE1\0", end)) continue;
    if (end - start < APP9_HEAD_BYTES) throw damaged();
    const index = viewOf(data).getUint16(start + 13, true);
    const count = viewOf(data).getUint16(start + 15, true);
    sets.add(`${data.slice(start + 5, start + 13)}/${count}`);
    pieces.set(index, data.subarray(start + APP9_HEAD_BYTES, end));
    segments += 1;
  }
  if (segments === 0) return [];
  if (sets.size > 1) {
    throw new ContainerError("the sealed data of several pictures is mixed in this file");
  }
  const [identity, count] = [...sets][0].split("/");
  const ordered = [...pieces.keys()].sort((a, b) => a - b);
  const complete = segments === Number(count) && ordered.length === segments;
  if (!complete || ordered.some((index, at) => index !== at)) throw damaged();
  const whole = await new Blob(ordered.map((index) => pieces.get(index))).arrayBuffer();
  const blob = new Uint8Array(whole);
  const digest = new Uint8Array(await webCrypto.subtle.digest("SHA-256", blob)).slice(0, 8);
  if (String(digest) !== identity) throw damaged();
  return unpack(blob);
}

/** Marker, start and end of the payload of each segment, up to the first scan. */
function* jpegSegments(data) {
  let at = 2;
  for (let parts = 0; parts < MAX_PARTS; parts++) {
    while (at + 1 < data.length && (data[at] !== 0xff || [0x00, 0xff].includes(data[at + 1]))) at++;
    const marker = data[at + 1];
    at += 2;
    if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd7)) continue; // these stand alone
    if (marker === 0xd9 || at + 2 > data.length) throw cutOff("JPEG");
    const end = at + viewOf(data).getUint16(at);
    if (end < at + 2 || end > data.length) throw cutOff("JPEG");
    yield [marker, at + 2, end];
    if (marker === 0xda) return;
    at = end;
  }
  throw tooMany();
}

function readPng(data) {
  let sealed = null;
  let at = 8;
  for (let parts = 0; parts < MAX_PARTS; parts++) {
    if (at + 12 > data.length) throw cutOff("PNG");
    const body = at + 8;
    const end = body + viewOf(data).getUint32(at);
    if (end + 4 > data.length) throw cutOff("PNG");
    if (starts(data, at + 4, "slEp")) {
      const right = viewOf(data).getUint32(end) === crc32(data.subarray(at + 4, end));
      if (sealed !== null || !right) throw damaged();
      sealed = unpack(data.subarray(body, end));
    }
    if (starts(data, at + 4, "IEND")) return sealed ?? [];
    at = end + 4;
  }
  throw tooMany();
}

function readWebp(data) {
  const whole = 8 + viewOf(data).getUint32(4, true);
  if (whole > data.length) throw cutOff("WebP");
  let sealed = null;
  let at = 12;
  for (let parts = 0; at + 8 <= whole; parts++) {
    if (parts === MAX_PARTS) throw tooMany();
    const length = viewOf(data).getUint32(at + 4, true);
    const end = at + 8 + length;
    if (end > whole) throw cutOff("WebP");
    if (starts(data, at, "SLE1")) {
      if (sealed !== null) throw damaged();
      sealed = unpack(data.subarray(at + 8, end));
    }
    at = end + (length % 2);
  }
  return sealed ?? [];
}

function readTiff(data) {
  const view = viewOf(data);
  const little = data[0] === 0x49;
  if (data.length < 8) throw cutOff("TIFF");
  const directory = view.getUint32(4, little);
  if (directory + 2 > data.length) throw cutOff("TIFF");
  const entries = view.getUint16(directory, little);
  if (directory + 2 + 12 * entries > data.length) throw cutOff("TIFF");
  for (let entry = 0; entry < entries; entry++) {
    const at = directory + 2 + 12 * entry;
    if (view.getUint16(at, little) !== TIFF_TAG) continue;
    const length = view.getUint32(at + 4, little);
    const start = view.getUint32(at + 8, little);
    if (view.getUint16(at + 2, little) !== 7 || start + length > data.length) throw damaged();
    return unpack(data.subarray(start, start + length));
  }
  return [];
}

/** The CRC-32 of PNG. */
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const value of bytes) {
    crc ^= value;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
  }
  return ~crc >>> 0;
}

function starts(data, at, text, end = data.length) {
  if (at + text.length > end) return false;
  return [...text].every((letter, i) => data[at + i] === letter.charCodeAt(0));
}

function viewOf(data) {
  return new DataView(data.buffer, data.byteOffset, data.byteLength);
}

function cutOff(kind) {
  return new ContainerError(`the ${kind} image is damaged or ends too early; fetch it again`);
}

function damaged() {
  return new ContainerError("the sealed data is damaged or was changed; take an unchanged copy");
}

function tooMany() {
  return new ContainerError(`the file has more than ${MAX_PARTS} parts; that is no real picture`);
}
