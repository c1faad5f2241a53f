// The photos as tiles: rows of one height, in which one goes from photo to photo by arrow keys.

import { thumbnail } from "./api.js";
import { button, icon, make, shownDistance } from "./dom.js";

export const DISTANCE = "Distance: 0 is the same photo; larger is less similar";

const SKELETONS = [1.5, 0.75, 1.33, 1, 1.5, 0.66, 1.33, 1.5, 0.75, 1, 1.33, 1.5];

export function ratio(photo) {
  const isKnown = photo.width > 0 && photo.height > 0;
  return isKnown ? Math.min(Math.max(photo.width / photo.height, 0.5), 2.6) : 1;
}

export function tile(photo, metric, acts, { isInGroup = false, details = [] } = {}) {
  const isKept = isInGroup && photo.keep;
  const distance = isKept ? "" : shownDistance(photo.distance, metric);
  const badge = isKept ? [make("span", { className: "badge", textContent: "Keep" })] : [];
  const picture = make("span", { className: "picture" }, image(photo), ...badge);
  picture.dataset.act = isInGroup ? "Look closer" : "More like this";
  const caption = make(
    "span",
    { className: "caption" },
    make("span", { textContent: photo.name }),
    ...(distance ? [make("span", { className: "hidden", textContent: ", distance " })] : []),
    make("span", { className: "distance", textContent: distance, title: DISTANCE }),
  );
  const open = make(
    "button",
    { type: "button", className: "open", title: pathOf(photo), tabIndex: -1 },
    picture,
    caption,
    ...details.filter(Boolean).map((detail) => make("span", { className: "detail", textContent: detail })),
  );
  open.setAttribute("aria-describedby", isInGroup ? "group-help" : "tile-help");
  const less = () => tool("less", `Less like ${photo.name}`, "Less like this", () => acts.unlike(photo));
  const larger = tool("larger", `Look closer at ${photo.name}`, "Look closer", () => acts.open(photo));
  const tools = make("div", { className: "tools" }, ...(isInGroup ? [] : [less()]), larger);
  const item = make("li", { className: "tile" }, open, tools);
  item.style.setProperty("--ratio", ratio(photo).toFixed(3));
  item.photo = photo;
  return item;
}

const pathOf = (photo) => [photo.folder, photo.name].filter(Boolean).join("/");

export function skeletons(n = 24) {
  return Array.from({ length: n }, (_, i) => {
    const item = make(
      "li",
      { className: "tile skeleton", ariaHidden: "true" },
      make("span", { className: "picture" }),
      make("span", { className: "caption" }),
    );
    item.style.setProperty("--ratio", SKELETONS[i % SKELETONS.length]);
    return item;
  });
}

function image(photo) {
  const img = make("img", { loading: "lazy", decoding: "async", alt: "", draggable: false });
  img.addEventListener("error", () => {
    img.replaceWith(make("span", { className: "broken", textContent: "This photo cannot be shown." }));
  });
  img.src = thumbnail(photo.number);
  return img;
}

function tool(name, label, title, listener) {
  const one = button(icon(name), listener, { className: name, "aria-label": label, title, tabIndex: -1 });
  one.addEventListener("dblclick", (event) => event.stopPropagation());
  return one;
}

// The photo of the last click, and when it was. The second click of a double-click comes when
// others may be in its place, so it is looked for wherever it falls.
let clicked = null;

export function listenForDoubleClicks(acts) {
  const listener = (event) => {
    if (event.detail < 2 || !clicked || event.timeStamp - clicked.time > 600) return;
    event.preventDefault();
    event.stopPropagation();
    acts.openInstead(clicked.photo);
    clicked = null;
  };
  addEventListener("click", listener, { capture: true });
}

// One tile is in the order of Tab; arrows, Home and End go to the others. In a group, photos are
// looked at, and not searched by.
export function listen(grid, acts, { isGroup = false } = {}) {
  grid.addEventListener("click", (event) => {
    const photo = tileOf(event.target)?.photo;
    if (!photo || !event.target.closest(".open")) return;
    if (isGroup) return acts.open(photo);
    if (event.shiftKey) return acts.unlike(photo);
    clicked = { photo, time: event.timeStamp };
    return acts.like(photo);
  });
  grid.addEventListener("mousedown", (event) => {
    if (event.shiftKey) event.preventDefault(); // no text is selected
  });
  grid.addEventListener("focusin", (event) => {
    if (event.target.matches(".open")) makeCurrent(grid, event.target);
  });
  grid.addEventListener("keydown", (event) => {
    const item = tileOf(event.target);
    if (!item?.photo || !event.target.matches(".open")) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const always = { Enter: acts.open, c: acts.copy, C: acts.copy };
    const act = { ...always, ...(isGroup ? {} : { "-": acts.unlike, "+": acts.also }) }[event.key];
    const target = act ? null : neighbor(grid, item, event.key);
    if (act) act(item.photo);
    else if (target) focusTile(target);
    else return;
    event.preventDefault();
  });
}

const tileOf = (target) => target.closest(".tile");
const openOf = (item) => item.querySelector(".open");

export function focusTile(item) {
  openOf(item)?.focus();
  item.scrollIntoView({ block: "nearest" });
}

export function makeCurrent(grid, open) {
  for (const other of grid.querySelectorAll(".open[tabindex='0']")) other.tabIndex = -1;
  if (open) open.tabIndex = 0;
}

function neighbor(grid, item, key) {
  const items = [...grid.querySelectorAll(".tile:not(.skeleton)")];
  const place = items.indexOf(item);
  if (key === "ArrowRight") return items[place + 1];
  if (key === "ArrowLeft") return items[place - 1];
  if (key === "Home") return items[0];
  if (key === "End") return items.at(-1);
  if (key === "ArrowDown") return inRow(item, items.slice(place + 1), 1);
  if (key === "ArrowUp") return inRow(item, items.slice(0, place).reverse(), -1);
  return undefined;
}

// The tile of the next row whose middle is nearest.
function inRow(item, others, way) {
  const from = item.getBoundingClientRect();
  const middle = (box) => box.left + box.width / 2;
  let row = null;
  let best = null;
  let least = Infinity;
  for (const other of others) {
    const box = other.getBoundingClientRect();
    if (way * (box.top - from.top) < from.height / 2) continue;
    row ??= box.top;
    if (Math.abs(box.top - row) > 2) break;
    const away = Math.abs(middle(box) - middle(from));
    if (away < least) [best, least] = [other, away];
  }
  return best;
}
