// Near-duplicates in groups, and the photos that cannot be read.

import * as api from "./api.js";
import { button, copy, counted, make } from "./dom.js";
import { listen, tile } from "./grid.js";

const GROUPS = 20;
const LINES = 100;

export async function duplicates(query, offset, signal) {
  for (;;) {
    const found = await api.duplicates({ ...query, offset, limit: GROUPS }, signal);
    if (found.status !== 202) return found;
    await new Promise((done) => setTimeout(done, 1000));
    if (signal.aborted) throw new DOMException("", "AbortError");
  }
}

export const unreadable = (offset, signal) => api.unreadable(offset, LINES, signal);

export function group(photos, metric, acts, say) {
  const [kept, ...others] = photos;
  const tiles = photos.map((photo) => {
    const size = [pixels(photo), bytes(photo.size)].filter(Boolean).join(", ");
    return tile(photo, metric, acts, { isInGroup: true, details: [photo.folder, size] });
  });
  tiles[0].querySelector(".open").tabIndex = 0;
  const name = `${counted(photos.length, "photo")}: keep ${kept.name}`;
  const grid = make("ul", { className: "grid", "aria-label": name }, ...tiles);
  listen(grid, acts, { isGroup: true });
  const text = others.length === 1 ? "Copy path of the other" : "Copy paths of the others";
  const copyOthers = button(text, async () => {
    const paths = others.map((photo) => photo.path).join("\n");
    const copied = await copy(paths);
    say(copied ? `Copied ${counted(others.length, "path")}.` : "The browser refused to copy.");
  });
  const head = make("header", {}, make("h2", { textContent: name }), copyOthers);
  return make("section", { className: "group", "aria-label": name }, head, grid);
}

export function rule() {
  const text =
    "Keep marks the photo with the most pixels, then the largest file. Nothing is deleted. A larger distance finds more.";
  return make("p", { className: "hint", textContent: text });
}

export function table() {
  const heads = ["Name", "Folder", "Why", "Path"].map((text) => make("th", { scope: "col", textContent: text }));
  const body = make("tbody");
  const whole = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body);
  return make("div", { className: "table" }, whole);
}

export function line(photo, say) {
  const copyPath = button("Copy path", async () => {
    say((await copy(photo.path)) ? `Copied the path of ${photo.name}.` : "The browser refused to copy.");
  });
  const why = photo.state === "away" ? `${photo.reason ?? "out of reach"}; tried again by every sync` : photo.reason;
  const texts = [photo.name, photo.folder, why];
  copyPath.setAttribute("aria-label", `Copy path of ${photo.name}`);
  const cells = texts.map((text) => make("td", { textContent: text ?? "" }));
  return make("tr", {}, ...cells, make("td", {}, copyPath));
}

function pixels(photo) {
  return photo.width && photo.height ? `${photo.width} × ${photo.height}` : "";
}

function bytes(size) {
  if (!size) return "";
  return size < 1e6 ? `${Math.max(Math.round(size / 1e3), 1)} kB` : `${(size / 1e6).toFixed(1)} MB`;
}
