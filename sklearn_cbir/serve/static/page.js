// The page: what is in the address is asked and shown; whatever is done changes the address.

import * as address from "./address.js";
import * as api from "./api.js";
import { chip, cut } from "./chips.js";
import { at, button, copy, counted, keepUploadName, make, uploadName } from "./dom.js";
import * as filters from "./filters.js";
import * as grid from "./grid.js";
import * as incoming from "./incoming.js";
import * as panels from "./panels.js";
import { Sync } from "./sync.js";
import { Viewer } from "./viewer.js";

const { EMPTY, PAGE, asks } = address;
const PATIENCE = 150; // ms before a wait shows
const REMEMBERED = 12; // answers
const SLOW = 1000; // ms before a wait is said
const SAID = 6000; // ms that a message is there
const KEEP_AFTER = 200; // ms without scrolling

let state = address.read(location.hash);
let server = null; // what the collection is
let shown = null; // {key, view, photos, hasMore, ...}: the answer that is on the page
let asking = null; // what can be called off
const answers = new Map();
const known = new Map(); // photos by number

// Going somewhere ---------------------------------------------------------------------------

function go(changes, { replace = false, opened = false, top = false } = {}) {
  state = { ...state, ...changes };
  if (!asks(state)) Object.assign(state, { unlike: [], max: null });
  const target = address.write(state);
  if (target !== (location.hash || "#")) {
    if (replace) {
      history.replaceState(history.state, "", target);
    } else {
      keepPlace();
      history.pushState({ opened }, "", target);
    }
  }
  if (top) scrollTo({ top: 0 });
  return render();
}

// How far down the page is belongs to its address, for back and reload.
let keeping = null;

function keepPlace() {
  clearTimeout(keeping);
  history.replaceState({ ...history.state, y: scrollY }, "");
}

function keepPlaceSoon() {
  clearTimeout(keeping);
  keeping = setTimeout(() => at("grid").hasAttribute("aria-busy") || keepPlace(), KEEP_AFTER);
}

const FRESH = {
  view: "photos",
  like: [],
  unlike: [],
  upload: "",
  region: null,
  words: "",
  max: null,
  shown: PAGE,
  open: null,
};

function search(changes) {
  return go({ ...FRESH, ...changes }, { top: true });
}

const acts = {
  like(photo) {
    const isInGrid = at("main").contains(document.activeElement);
    search({ like: [photo.number] }).then(() => isInGrid && focusFirst());
  },

  also(photo) {
    if (state.like.includes(photo.number)) return say(`${photo.name} is already in the search.`);
    const unlike = state.unlike.filter((one) => one !== photo.number);
    return judged({ like: [...state.like, photo.number].slice(-100), unlike });
  },

  unlike(photo) {
    if (!asks(state)) return say("Search first: click a photo to find more like it.");
    const like = state.like.filter((one) => one !== photo.number);
    const unlike = [...new Set([...state.unlike, photo.number])].slice(-100);
    if (!asks({ ...state, like })) return say(`${photo.name} is the only photo in the search.`);
    return judged({ like, unlike });
  },

  open(photo) {
    return go({ open: photo.number }, { opened: true });
  },

  // The first click of a double-click has begun a search, which is taken back.
  openInstead(photo) {
    addEventListener("popstate", () => setTimeout(() => acts.open(photo)), { once: true });
    history.back();
  },

  region: (region) => search({ region }).then(focusFirst),

  async copy(photo) {
    const within = viewer.dialog.open ? viewer.dialog : document.body;
    say((await copy(photo.path, within)) ? "Copied the path." : `The path is ${photo.path}`);
  },

  step(way) {
    const photos = inOrder();
    const place = photos.findIndex((photo) => photo.number === state.open);
    const next = photos[place + way];
    if (next) go({ open: next.number }, { replace: true });
  },

  close() {
    const last = state.open;
    if (history.state?.opened) history.back();
    else go({ open: null });
    setTimeout(() => focusNumber(last), 50);
  },
};

// Judging keeps the place in the grid, for the next one to be judged.
async function judged(changes) {
  const items = [...at("grid").children];
  const place = items.findIndex((item) => item.contains(document.activeElement));
  await go({ ...changes, view: "photos", open: null });
  const now = [...at("grid").querySelectorAll(".tile:not(.skeleton)")];
  if (place >= 0 && now.length) grid.focusTile(now[Math.min(place, now.length - 1)]);
}

let saying = null;

function say(text, stays = false) {
  if (viewer.dialog.open) return viewer.say(text);
  clearTimeout(saying);
  at("said").textContent = text;
  if (text && !stays) saying = setTimeout(() => say(""), SAID);
  return undefined;
}

// What is waited for is said if it takes long; the function that is returned ends that.
function waiting(text, after = SLOW) {
  const timer = setTimeout(() => say(text, true), after);
  return () => {
    clearTimeout(timer);
    if (at("said").textContent === text) say("");
  };
}

const WAITS = { photos: "Searching…", duplicates: "Comparing all photos…", unreadable: "Looking…" };

function inOrder() {
  if (shown?.groups) return shown.groups.flat();
  return shown?.photos ?? [];
}

function focusFirst() {
  const first = at("grid").querySelector(".tile:not(.skeleton)");
  first?.querySelector(".open").focus({ preventScroll: true });
}

function focusNumber(number) {
  for (const item of document.querySelectorAll(".tile")) {
    if (item.photo?.number === number && number !== undefined) return grid.focusTile(item);
  }
  return undefined;
}

// Showing -----------------------------------------------------------------------------------

async function render() {
  if (!server) return;
  showControls();
  await showView();
  await showLarge();
}

function showControls() {
  for (const one of document.querySelectorAll("[data-view]")) {
    if (one.dataset.view === state.view) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
  if (document.activeElement !== at("words")) at("words").value = state.words; // it may be typed in
  filters.show(state, server, shown);
  showChips();
  const what = { duplicates: "Duplicates", unreadable: "Unreadable" }[state.view];
  document.title = [what, server.name, "Photo search"].filter(Boolean).join(" · ");
}

async function showView() {
  const load = { photos: loadPhotos, duplicates: loadDuplicates, unreadable: loadUnreadable }[state.view];
  const key = keyOf(state);
  if (shown?.key === key && !(state.shown > shown.photos?.length && shown.hasMore)) return;
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const isMore = shown?.key === key;
  at("grid").setAttribute("aria-busy", "true");
  const timer = setTimeout(() => wait(isMore), shown ? PATIENCE : 0);
  const isThere = waiting(WAITS[state.view]);
  try {
    const answer = answers.get(key) ?? { key, view: state.view };
    if (!answer.groups && !answer.lines) await load(answer, signal);
    if (signal.aborted) return;
    remember(key, answer);
    shown = answer;
    clearTimeout(timer);
    await draw(isMore);
  } catch (problem) {
    if (signal.aborted || problem.name === "AbortError") return;
    clearTimeout(timer);
    await showProblem(problem, isMore);
  } finally {
    clearTimeout(timer);
    isThere();
  }
}

const keyOf = (one) => address.write({ ...one, shown: PAGE, open: null });

function remember(key, answer) {
  answers.delete(key);
  answers.set(key, answer);
  if (answers.size > REMEMBERED) answers.delete(answers.keys().next().value);
}

async function loadPhotos(answer, signal) {
  answer.photos ??= [];
  const most = Math.min(state.shown, server.limits.results);
  while (answer.hasMore !== false && answer.photos.length < most) {
    const offset = answer.photos.length;
    const limit = Math.min(server.limits.page, most - offset);
    const found = await api.search({ ...address.body(state), offset, limit }, signal);
    answer.photos.push(...found.photos);
    answer.n = found.n_photos;
    const isFull = answer.photos.length >= server.limits.results;
    answer.hasMore = found.has_more && found.photos.length > 0 && !isFull;
    for (const photo of [...found.photos, ...(found.asked?.like ?? []), ...(found.asked?.unlike ?? [])]) {
      known.set(photo.number, photo);
    }
  }
  const of = state.region?.of;
  if (typeof of === "number" && !known.has(of)) known.set(of, await api.facts(of));
}

async function loadDuplicates(answer, signal) {
  const query = { where: address.where(state), radius: state.radius ?? filters.usualRadius(server) };
  const offset = answer.groups?.length ?? 0;
  const found = await panels.duplicates(query, offset, signal);
  answer.groups = [...(answer.groups ?? []), ...found.groups];
  Object.assign(answer, { n: found.n_photos, nGroups: found.n_groups, hasMore: found.has_more });
}

async function loadUnreadable(answer, signal) {
  answer.lines ??= [];
  const found = await panels.unreadable(answer.lines.length, signal);
  answer.lines.push(...found.photos);
  Object.assign(answer, { n: found.n_photos, hasMore: found.has_more });
}

function wait(isMore) {
  hideNotice();
  const list = at("grid");
  if (isMore) return void list.append(...grid.skeletons(8));
  const isOther = shown?.view !== state.view;
  at("panel").hidden = true;
  at("more").hidden = true;
  list.hidden = false;
  if (isOther) at("summary").textContent = "";
  if (!isOther && list.querySelector(".tile:not(.skeleton)")) list.classList.add("waiting");
  else list.replaceChildren(...grid.skeletons());
  return undefined;
}

async function draw(isMore) {
  hideNotice();
  const list = at("grid");
  const panel = at("panel");
  list.classList.remove("waiting");
  list.removeAttribute("aria-busy");
  list.hidden = state.view !== "photos";
  panel.hidden = state.view === "photos";
  at("more").hidden = !shown.hasMore;
  if (state.view === "photos") {
    drawPhotos(list, isMore);
  } else if (state.view === "duplicates") {
    list.replaceChildren();
    const groups = shown.groups.map((photos) => panels.group(photos, server.metric, acts, say));
    panel.replaceChildren(...(groups.length ? [panels.rule()] : []), ...groups);
  } else {
    list.replaceChildren();
    const table = panels.table();
    table.querySelector("tbody").append(...shown.lines.map((photo) => panels.line(photo, say)));
    panel.replaceChildren(...(shown.lines.length ? [retryAll(), table] : []));
  }
  filters.show(state, server, shown);
  showChips();
  at("summary").textContent = summary();
  showEmpty();
}

function drawPhotos(list, isMore) {
  list.classList.toggle("searched", asks(state));
  for (const item of list.querySelectorAll(".skeleton")) item.remove();
  const there = isMore ? list.children.length : 0;
  const tiles = shown.photos.slice(there).map((photo) => grid.tile(photo, server.metric, acts));
  if (isMore) list.append(...tiles);
  else list.replaceChildren(...tiles);
  if (!isMore) grid.makeCurrent(list, list.querySelector(".open"));
}

function retryAll() {
  const retry = button("Try them again", () => sync.start(true), { disabled: !server.is_writable });
  return make("p", { className: "ways" }, retry);
}

function summary() {
  if (state.view === "unreadable") {
    return shown.n ? `${counted(shown.n, "photo")} cannot be read.` : "";
  }
  if (state.view === "duplicates") {
    const groups = counted(shown.nGroups, "group");
    return shown.nGroups ? `${counted(shown.n, "photo")} in ${groups} of near-duplicates.` : "";
  }
  const n = shown.photos.length;
  if (!n) return "";
  const isPart = shown.hasMore && state.max === null;
  const some = isPart ? `${n} of ${counted(shown.n, "photo")}` : counted(n, "photo");
  if (asks(state)) return `${some}, nearest first${leftOut()}.`;
  return `${some}${leftOut()}. Click one to find more like it.`;
}

function leftOut() {
  const n = server.n_ready - shown.n;
  if (n <= 0) return "";
  const undated = byYears() ? `, ${nUndated().toLocaleString("en")} of them without a date` : "";
  return `; the filters leave out ${n.toLocaleString("en")}${nUndated() ? undated : ""}`;
}

const byYears = () => state.from !== null || state.to !== null;
const nUndated = () => server.years.find((one) => one.year === null)?.n_photos ?? 0;

// What is searched by -------------------------------------------------------------------------

function showChips() {
  const isShown = state.view === "photos" && asks(state);
  at("query").hidden = !isShown;
  const list = at("chips");
  if (!isShown) return list.replaceChildren();
  const without = (part, number) => () => drop({ [part]: state[part].filter((one) => one !== number) });
  const opening = (number) => () => acts.open({ number });
  const chips = state.like.map((number) =>
    chip("More like", nameOf(number), { of: number, remove: without("like", number), open: opening(number) }),
  );
  if (state.upload) {
    const open = opening(state.upload);
    const remove = () => drop({ upload: "" });
    chips.push(chip("More like", nameOf(state.upload), { of: state.upload, remove, open }));
  }
  if (state.region) {
    const { of } = state.region;
    const made = chip("More like", `a part of ${nameOf(of)}`, { of, remove: () => drop({ region: null }), open: opening(of) });
    cut(made, state.region.box);
    chips.push(made);
  }
  if (state.words) chips.push(chip("Words", state.words, { remove: () => drop({ words: "" }) }));
  for (const number of state.unlike) {
    const open = opening(number);
    const remove = without("unlike", number);
    chips.push(chip("Less like", nameOf(number), { of: number, remove, open, isUnlike: true }));
  }
  return list.replaceChildren(...chips);
}

function nameOf(of) {
  if (typeof of === "number") return known.get(of)?.name ?? `photo ${of}`;
  return uploadName(of) ?? "your photo";
}

async function drop(changes) {
  const buttons = () => [...at("chips").querySelectorAll(".remove")];
  const place = buttons().indexOf(document.activeElement);
  await go({ ...changes, shown: PAGE });
  const left = buttons();
  if (left.length) left[Math.min(Math.max(place, 0), left.length - 1)].focus();
  else focusFirst();
}

// Nothing there, and what went wrong -------------------------------------------------------------

function notice(title, sentence, ways, isProblem = false) {
  const box = at("notice");
  box.classList.toggle("problem", isProblem);
  box.replaceChildren(
    make("h2", { textContent: title }),
    ...(sentence ? [make("p", { textContent: sentence })] : []),
    ...(ways.length ? [make("div", { className: "ways" }, ...ways)] : []),
  );
  box.hidden = false;
}

function hideNotice() {
  at("notice").hidden = true;
  at("notice").replaceChildren();
}

const resetFilters = () => go({ folder: "", label: undefined, from: null, to: null, max: null });

function showEmpty() {
  const reset = button("Reset filters", resetFilters);
  if (state.view === "unreadable") {
    if (!shown.n) notice("Every photo can be read", "", [toPhotos()]);
  } else if (state.view === "duplicates") {
    if (shown.nGroups) return;
    const isNarrowed = Object.keys(address.where(state)).length > 0;
    const among = isNarrowed ? "Only photos that meet the filters are compared. " : "";
    const ways = isNarrowed ? [reset, toPhotos()] : [toPhotos()];
    notice("No near-duplicates", `${among}A larger distance finds photos that are less similar.`, ways);
  } else if (!shown.photos.length) {
    showNoPhotos(reset);
  }
}

function toPhotos() {
  return button("See all photos", () => go({ ...FRESH }));
}

function showNoPhotos(reset) {
  if (!server.n_ready) {
    const ways = server.is_writable ? [button("Sync now", () => sync.start(), { className: "main" })] : [];
    const sentence = server.is_writable
      ? "Sync adds the photos of the folders."
      : "Run cbir sync on the collection first: this page cannot write it.";
    notice("There are no photos yet", sentence, ways);
  } else if (state.max !== null && shown.n) {
    notice("No photo is so near", "The largest distance leaves out all.", [
      button("Any distance", () => go({ max: null })),
    ]);
  } else if (address.countFilters(state)) {
    const undated = byYears() && nUndated() ? " Photos without a date are in no year." : "";
    notice("No photo is left", `No photo meets all of the filters.${undated}`, [reset]);
  } else {
    notice("Nothing else to find", "All photos are already in the search.", [toPhotos()]);
  }
}

// What was shown before is no answer to what is asked now: it stays only if more of it was asked.
async function showProblem(problem, keep = false) {
  const list = at("grid");
  for (const item of list.querySelectorAll(".skeleton")) item.remove();
  list.classList.remove("waiting");
  list.removeAttribute("aria-busy");
  if (!keep) {
    list.replaceChildren();
    at("panel").replaceChildren();
    at("more").hidden = true;
    at("summary").textContent = "";
    shown = null;
  }
  const uploads = [state.upload, state.region?.of].filter((one) => typeof one === "string" && one);
  if (problem.status === 404 && uploads.length && !(await areThere(uploads))) {
    const choose = button("Choose it again", () => at("file").click(), { className: "main" });
    const sentence =
      "It was in the memory of the server, which was started again or has received many others since. Drop, paste or choose it again.";
    return notice("The photo that you searched with is gone", sentence, [choose, toPhotos()], true);
  }
  const again = button("Try again", () => (keep ? more() : reload()), { className: "main" });
  const ways = problem.status === 401 ? [] : [again, ...(server ? [toPhotos()] : [])];
  return notice("That did not work", problem.message, ways, true);
}

async function areThere(uploads) {
  try {
    return (await Promise.all(uploads.map(api.isUploadThere))).every(Boolean);
  } catch {
    return true;
  }
}

// The large view ------------------------------------------------------------------------------

async function showLarge() {
  if (state.open === null) return viewer.close();
  const photos = inOrder();
  const place = photos.findIndex((photo) => photo.number === state.open);
  let photo = photos[place] ?? known.get(state.open);
  if (typeof state.open === "string") photo = { number: state.open, name: nameOf(state.open), distance: null };
  const wanted = state.open;
  try {
    photo ??= await api.facts(wanted);
  } catch (problem) {
    go({ open: null }, { replace: true });
    return notice("That did not work", problem.message, [toPhotos()], true);
  }
  if (state.open !== wanted) return undefined;
  known.set(wanted, photo);
  const after = place >= 0 && place < photos.length - 1;
  const box = state.region?.of === wanted ? state.region.box : null;
  const isSearch = state.view === "photos" && asks(state);
  return viewer.show(photo, server.metric, { before: place > 0, after, box, isSearch });
}

// A photo from outside -------------------------------------------------------------------------

const NO_PHOTO = /^(audio|font|text|video)\/|^application\/(?!octet-stream)/;

async function take(file, n = 1) {
  const other = button("Choose another photo", () => at("file").click());
  if (NO_PHOTO.test(file.type)) {
    return notice("This is not a photo", `${file.name} is not an image.`, [other], true);
  }
  if (file.size > server.limits.upload_bytes) {
    const most = `${Math.round(server.limits.upload_bytes / 2 ** 20)} MB`;
    return notice("That photo is too large", `A photo may have at most ${most}.`, [other], true);
  }
  if (state.open !== null) viewer.close();
  hideNotice();
  const isRead = waiting("Reading the photo…", PATIENCE);
  try {
    const { upload } = await api.upload(file);
    keepUploadName(upload, file.name);
    await search({ upload });
    isRead();
    if (n > 1) say(`Searching with ${file.name}, one of ${n} files.`);
  } catch (problem) {
    isRead();
    const isLater = problem.status === 0 || problem.status === 503;
    const ways = isLater ? [button("Try again", () => take(file), { className: "main" })] : [];
    scrollTo({ top: 0 });
    notice("That photo cannot be used", problem.message, [...ways, other], true);
  }
  return undefined;
}

// Controls ------------------------------------------------------------------------------------

function listen() {
  grid.listen(at("grid"), acts);
  grid.listenForDoubleClicks(acts);
  incoming.listen(take, say);
  filters.listen((changes) => go({ ...changes, shown: PAGE }));
  at("reset").addEventListener("click", () => {
    resetFilters();
    at(at("folder-box").hidden ? "choose" : "folder").focus();
  });
  at("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const words = at("words").value.trim();
    at("words").value = words;
    if (words) search({ words }).then(focusFirst);
    else if (state.words) drop({ words: "" });
  });
  for (const one of document.querySelectorAll("[data-view]")) {
    const view = { view: one.dataset.view, open: null, shown: PAGE };
    one.addEventListener("click", () => go(view, { top: true }));
  }
  at("clear").addEventListener("click", () => search({}).then(focusFirst));
  at("more").addEventListener("click", more);
  at("skip").addEventListener("click", focusFirst);
  at("help").addEventListener("click", () => at("keys").showModal());
  at("keys-close").addEventListener("click", () => at("keys").close());
  addEventListener("keydown", key);
  addEventListener("scroll", keepPlaceSoon, { passive: true });
  addEventListener("popstate", async () => {
    clearTimeout(keeping);
    const y = history.state?.y ?? 0;
    state = address.read(location.hash);
    await render();
    if (state.open === null) scrollTo({ top: y });
  });
}

async function more() {
  if (state.view === "photos") {
    const n = shown.photos.length;
    await go({ shown: n + PAGE }, { replace: true });
    const first = at("grid").querySelectorAll(".open")[n];
    first?.focus({ preventScroll: true });
    return;
  }
  const part = at("panel").querySelectorAll(state.view === "duplicates" ? ".open" : "tr").length;
  const next = { ...shown };
  try {
    await (state.view === "duplicates" ? loadDuplicates : loadUnreadable)(next, new AbortController().signal);
    shown = next;
    remember(next.key, next);
    await draw(false);
    at("panel").querySelectorAll(state.view === "duplicates" ? ".open" : "tr button")[part]?.focus();
  } catch (problem) {
    await showProblem(problem, true);
  }
}

function key(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (viewer.dialog.open || at("keys").open) return;
  const typing = event.target.closest?.("input:not([type='range'], [type='file']), select, textarea");
  if (event.key === "Escape") {
    if (typing === at("words") && typing.value !== state.words) typing.value = state.words;
    else if (typing) focusFirst();
    else if (asks(state) && state.view === "photos") search({}).then(focusFirst);
    return;
  }
  if (typing) return;
  if (event.key === "/" && !at("words-box").hidden) {
    at("words").focus();
    at("words").select();
  } else if (event.key === "?") {
    at("keys").showModal();
  } else if (event.key.startsWith("Arrow") && event.target === document.body) {
    focusFirst();
  } else {
    return;
  }
  event.preventDefault();
}

// Beginning -----------------------------------------------------------------------------------

async function reload() {
  const place = document.activeElement?.closest(".tile")?.photo?.number;
  answers.clear();
  shown = null;
  hideNotice();
  if (!(await meet())) return;
  await render();
  if (place !== undefined && document.activeElement === document.body) focusNumber(place);
}

async function meet() {
  const isMet = waiting("Opening the photos…");
  try {
    server = await api.state();
  } catch (problem) {
    await showProblem(problem);
    return false;
  } finally {
    isMet();
  }
  at("name").textContent = server.name || "Photo search";
  const nBad = server.n_unreadable + server.n_away;
  at("unreadable-count").textContent = nBad ? `(${nBad.toLocaleString("en")})` : "";
  at("sync").hidden = !server.is_writable;
  at("words-box").hidden = !server.has_words;
  filters.fill(server);
  if (server.sync.state === "running") sync.follow();
  return true;
}

const viewer = new Viewer(acts);
const sync = new Sync(reload);
history.scrollRestoration = "manual";
listen();
at("grid").append(...grid.skeletons());
const place = history.state?.y ?? 0;
reload().then(() => place && scrollTo({ top: place }));
