// What the server is asked: docs/guide/serve_api.md.

const ROOT = "/api/v1/";

export class Problem extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status; // 0: nothing answers
  }
}

async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(ROOT + address, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("Nothing answers: cbir serve is not running any more, or out of reach.", 0);
  }
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    throw new Problem("Open the address that cbir serve has printed, with its token.", 401);
  }
  if (!answer.ok) {
    throw new Problem(said.error ?? `The server answered with status ${answer.status}.`, answer.status);
  }
  return { ...said, status: answer.status };
}

function post(address, query, signal) {
  const headers = { "Content-Type": "application/json" };
  return ask(address, { method: "POST", headers, body: JSON.stringify(query), signal });
}

export const state = () => ask("state");
export const facts = (number) => ask(`facts/${number}`);
export const search = (query, signal) => post("search", query, signal);
export const duplicates = (query, signal) => post("duplicates", query, signal);
export const unreadable = (offset, limit, signal) =>
  ask(`unreadable?offset=${offset}&limit=${limit}`, { signal });
export const sync = () => ask("sync");
export const startSync = (retry) => post("sync", retry ? { retry } : {});

export function upload(photo) {
  const headers = { "Content-Type": "application/octet-stream" };
  return ask("upload", { method: "POST", headers, body: photo });
}

export async function isUploadThere(id) {
  const answer = await fetch(`${ROOT}upload/${id}`, { credentials: "same-origin" });
  return answer.status !== 404;
}

// Pictures: of a number, or of the id of an upload.
const isNumber = (of) => typeof of === "number";
export const thumbnail = (of) => ROOT + (isNumber(of) ? `thumbnail/${of}` : `upload/${of}`);
export const large = (of) => ROOT + (isNumber(of) ? `photo/${of}` : `upload/${of}`);
