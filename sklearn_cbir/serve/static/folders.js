// The folder: a box to type a part of its path into, over the list of those that have it.

import { at, make } from "./dom.js";

const MOST = 100; // folders in the list at once

let folders = [];
let chosen = "";
let active = -1; // place in the list; -1: none

export function fill(all) {
  folders = all.map((one) => ({ ...one, plain: plain(one.folder), depth: one.folder.split("/").length }));
}

export function show(folder) {
  chosen = folder;
  at("folder").title = folder;
  if (isClosed()) at("folder").value = folder;
}

const isClosed = () => at("folder-popup").hidden;
const options = () => [...at("folder-list").children];
const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

function open(typed = "") {
  const words = plain(typed).split(/\s+/).filter(Boolean);
  const found = folders.filter((one) => words.every((word) => one.plain.includes(word)));
  const few = highest(found);
  const all = typed.trim() ? [] : [option("", "all")];
  at("folder-list").replaceChildren(...all, ...few.map((one) => option(one.folder, one.folder, one.n_photos)));
  at("folder-list").hidden = !options().length;
  const note = noteOf(found.length, few.length);
  at("folder-note").textContent = note;
  at("folder-note").hidden = !note;
  at("folder-popup").hidden = false;
  at("folder").setAttribute("aria-expanded", "true");
  const place = options().findIndex((one) => one.dataset.folder === chosen);
  activate(typed.trim() ? 0 : place);
}

// The upper levels that fit, or the first folders of the uppermost.
function highest(found) {
  if (found.length <= MOST) return found;
  const depths = found.map((one) => one.depth).sort((one, other) => one - other);
  const upper = found.filter((one) => one.depth < depths[MOST]);
  return upper.length ? upper : found.filter((one) => one.depth === depths[0]).slice(0, MOST);
}

function noteOf(n, nShown) {
  if (!n) return "No folder has this in its path.";
  return n > nShown ? `${(n - nShown).toLocaleString("en")} more: type a part of the path` : "";
}

function option(folder, text, n = null) {
  const isChosen = folder === chosen;
  const count = n === null ? [] : [make("span", { className: "count", textContent: n.toLocaleString("en") })];
  const one = make("li", { role: "option", "aria-selected": String(isChosen) }, make("span", {}, text), ...count);
  one.dataset.folder = folder;
  return one;
}

function close() {
  at("folder-popup").hidden = true;
  at("folder").setAttribute("aria-expanded", "false");
  at("folder").removeAttribute("aria-activedescendant");
  at("folder").value = chosen;
  active = -1;
}

function activate(place) {
  const all = options();
  active = Math.min(place, all.length - 1);
  all.forEach((one, i) => {
    one.id = i === active ? "folder-active" : "";
    one.classList.toggle("active", i === active);
  });
  if (active < 0) return at("folder").removeAttribute("aria-activedescendant");
  at("folder").setAttribute("aria-activedescendant", "folder-active");
  return all[active].scrollIntoView({ block: "nearest" });
}

export function listen(take) {
  const box = at("folder");
  const choose = (one) => {
    chosen = one.dataset.folder;
    close();
    take(chosen);
  };
  const begin = () => {
    if (!isClosed()) return;
    open();
    box.select();
  };
  const step = (way) => {
    const n = options().length;
    if (n) activate(active < 0 && way < 0 ? n - 1 : (active + way + n) % n);
  };
  const keys = {
    ArrowDown: () => (isClosed() ? begin() : step(1)),
    ArrowUp: () => (isClosed() ? begin() : step(-1)),
    Enter: () => (isClosed() ? begin() : options()[active] && choose(options()[active])),
    Escape: () => isClosed() || close(),
  };
  box.addEventListener("click", begin);
  box.addEventListener("input", () => open(box.value));
  box.addEventListener("blur", () => isClosed() || close());
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (!(event.key in keys) || (event.key === "Escape" && isClosed())) return;
    event.preventDefault();
    keys[event.key]();
  });
  at("folder-popup").addEventListener("pointerdown", (event) => event.preventDefault()); // the box keeps the focus
  at("folder-popup").addEventListener("mousedown", (event) => event.preventDefault());
  at("folder-list").addEventListener("click", (event) => {
    const one = event.target.closest("[role=option]");
    if (one) choose(one);
  });
}
