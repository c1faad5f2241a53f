// The whole query is in the address, behind "#": back, reload and a copied address bring it again.

export const PAGE = 60;

export const EMPTY = Object.freeze({
  view: "photos",
  like: [],
  unlike: [],
  upload: "",
  region: null, // {of: number or upload, box: [left, top, right, bottom]}
  words: "",
  folder: "",
  label: undefined, // null: photos without one
  from: null,
  to: null,
  max: null, // largest distance; null: any
  radius: null, // of duplicates; null: as the server says
  shown: PAGE,
  open: null, // number of the photo in the large view, or the upload
});

const VIEWS = ["photos", "duplicates", "unreadable"];

export function read(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const state = { ...EMPTY };
  if (VIEWS.includes(given.get("view"))) state.view = given.get("view");
  state.like = numbers(given.getAll("like"));
  state.unlike = numbers(given.getAll("unlike")).filter((one) => !state.like.includes(one));
  state.upload = id(given.get("upload")) ?? "";
  state.region = region(given.get("region"), given.get("box"));
  state.words = given.get("words") ?? "";
  state.folder = given.get("folder") ?? "";
  if (given.has("label")) state.label = given.get("label");
  if (given.has("unlabeled")) state.label = null;
  const years = ["from", "to"].map((part) => integer(given.get(part)));
  if (!years.includes(null)) years.sort((one, other) => one - other);
  [state.from, state.to] = years;
  state.max = number(given.get("max"));
  state.radius = number(given.get("radius"));
  state.shown = Math.min(Math.max(integer(given.get("shown")) ?? PAGE, PAGE), 10_000);
  state.open = name(given.get("open"));
  return state;
}

export function write(state) {
  const given = new URLSearchParams();
  if (state.view !== "photos") given.set("view", state.view);
  for (const one of state.like) given.append("like", one);
  for (const one of state.unlike) given.append("unlike", one);
  if (state.upload) given.set("upload", state.upload);
  if (state.region) {
    given.set("region", state.region.of);
    given.set("box", state.region.box.map((one) => one.toFixed(4)).join(" "));
  }
  for (const part of ["words", "folder"]) if (state[part]) given.set(part, state[part]);
  if (state.label === null) given.set("unlabeled", "");
  else if (state.label !== undefined) given.set("label", state.label);
  for (const part of ["from", "to", "max", "radius", "open"]) {
    if (state[part] !== null) given.set(part, state[part]);
  }
  if (state.shown !== PAGE) given.set("shown", state.shown);
  return `#${given}`;
}

export function asks(state) {
  return Boolean(state.like.length || state.upload || state.region || state.words);
}

export function countFilters(state) {
  const has = [state.folder, state.label !== undefined, state.from !== null || state.to !== null];
  return [...has, state.max !== null].filter(Boolean).length;
}

// What the server is asked, but for offset and limit.
export function body(state) {
  const query = { where: where(state) };
  if (asks(state)) {
    if (state.like.length) query.like = state.like;
    if (state.unlike.length) query.unlike = state.unlike;
    if (state.upload) query.upload = state.upload;
    if (state.region) query.region = state.region;
    if (state.words) query.words = state.words;
    if (state.max !== null) query.max_distance = state.max;
  }
  return query;
}

export function where(state) {
  const kept = {};
  if (state.folder) kept.folder = state.folder;
  if (state.label !== undefined) kept.label = state.label;
  if (state.from !== null || state.to !== null) kept.years = [state.from, state.to];
  return kept;
}

function integer(text) {
  return /^\d{1,9}$/.test(text ?? "") ? Number(text) : null;
}

function number(text) {
  return /^\d+(\.\d+)?$/.test(text ?? "") ? Number(text) : null;
}

function id(text) {
  return /^[\w-]{10,64}$/.test(text ?? "") ? text : null;
}

// Numbers have at most nine digits, ids of uploads at least ten letters.
function name(text) {
  return integer(text) ?? id(text);
}

function numbers(texts) {
  return [...new Set(texts.map(integer).filter((one) => one !== null))].slice(0, 100);
}

function region(of, box) {
  const edges = (box ?? "").split(" ").map(number);
  const isBox = edges.length === 4 && edges.every((one) => one !== null && one <= 1);
  return isBox && name(of) !== null ? { of: name(of), box: edges } : null;
}
