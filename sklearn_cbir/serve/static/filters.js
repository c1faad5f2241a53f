// Folder, label, years and the largest distance.

import { asks, countFilters, write } from "./address.js";
import { at, make, shownDistance } from "./dom.js";

const STEPS = 100; // of the slider; the last one is any distance
const scales = new Map(); // the distance at the end of the slider, by query
const NO_LABEL = "\0none";

export function usualRadius(server) {
  if (server.duplicates_radius !== null) return server.duplicates_radius;
  const part = 0.025 * (server.max_distance ?? 2);
  return server.metric === "hamming" ? Math.round(part) : part;
}

export function fill(server) {
  const option = (value, name, n) =>
    make("option", { value, textContent: `${name} (${n.toLocaleString("en")})` });
  const folders = server.folders.filter((one) => one.folder !== "");
  at("folder").replaceChildren(
    make("option", { value: "", textContent: "all" }),
    ...folders.map((one) => option(one.folder, one.folder, one.n_photos)),
  );
  at("folder-box").hidden = !folders.length;
  const labels = server.labels.filter((one) => one.label !== null);
  const without = server.labels.find((one) => one.label === null);
  at("label").replaceChildren(
    make("option", { value: "", textContent: "all" }),
    ...labels.map((one) => option(`=${one.label}`, one.label, one.n_photos)),
    ...(without && labels.length ? [option(NO_LABEL, "without a label", without.n_photos)] : []),
  );
  at("label-box").hidden = !labels.length;
  const years = server.years.map((one) => one.year).filter((year) => year !== null);
  at("years-box").hidden = !years.length;
  at("from").placeholder = years.length ? Math.min(...years) : "";
  at("to").placeholder = years.length ? Math.max(...years) : "";
}

export function show(state, server, shown) {
  choose(at("folder"), state.folder, state.folder);
  choose(at("label"), labelOption(state.label), state.label ?? "without a label");
  for (const name of ["from", "to"]) {
    if (document.activeElement !== at(name)) at(name).value = state[name] ?? "";
  }
  at("filters").hidden = state.view === "unreadable";
  const n = countFilters(state);
  at("filters-count").textContent = n ? `(${n})` : "";
  at("reset").hidden = !n;
  showSlider(state, server, shown);
}

function labelOption(label) {
  if (label === undefined) return "";
  return label === null ? NO_LABEL : `=${label}`;
}

// A value of the address that the collection does not have is shown all the same.
function choose(select, value, name) {
  if (![...select.options].some((one) => one.value === value)) {
    select.append(make("option", { value, textContent: name }));
    select.closest("label").hidden = false;
  }
  select.value = value;
}

let scale = 1;
let isRadius = false;
let metric = null;

function showSlider(state, server, shown) {
  isRadius = state.view === "duplicates";
  metric = server.metric;
  at("distance-box").hidden = isRadius ? false : !asks(state);
  const value = isRadius ? (state.radius ?? usualRadius(server)) : state.max;
  scale = isRadius ? radiusScale(value, server) : distanceScale(state, server, shown);
  const place = value === null ? STEPS : Math.min(Math.round((value / scale) * STEPS), STEPS);
  at("distance").value = place;
  showValue(value);
}

function radiusScale(value, server) {
  const key = "duplicates";
  const usual = 4 * usualRadius(server) || 0.2;
  scales.set(key, Math.max(scales.get(key) ?? usual, value));
  return scales.get(key);
}

function distanceScale(state, server, shown) {
  const key = write({ ...state, max: null, shown: 60, open: null });
  const last = shown?.key && state.max === null && shown.key === key ? shown.photos?.at(-1) : null;
  if (last?.distance) scales.set(key, last.distance * 1.02);
  const usual = state.max === null ? (server.max_distance ?? 2) : 2 * state.max || 1;
  return scales.get(key) ?? usual;
}

function showValue(value) {
  const text = value === null ? "any" : shownDistance(value, metric);
  at("distance-value").textContent = text;
  at("distance").setAttribute("aria-valuetext", value === null ? "any distance" : text);
}

function chosen() {
  const place = Number(at("distance").value);
  if (place === STEPS && !isRadius) return null;
  const value = (place / STEPS) * scale;
  return metric === "hamming" ? Math.round(value) : Number(value.toFixed(4));
}

export function listen(go) {
  at("folder").addEventListener("change", () => go({ folder: at("folder").value }));
  at("label").addEventListener("change", () => {
    const { value } = at("label");
    go({ label: value === "" ? undefined : value === NO_LABEL ? null : value.slice(1) });
  });
  for (const name of ["from", "to"]) {
    at(name).addEventListener("change", () => {
      const value = year(at(name).value);
      at(name).value = value ?? "";
      go({ [name]: value });
    });
  }
  at("distance").addEventListener("input", () => {
    const value = chosen();
    showValue(value);
    if (isRadius) return;
    for (const item of document.querySelectorAll("#grid .tile")) {
      item.hidden = value !== null && item.photo?.distance > value;
    }
  });
  at("distance").addEventListener("change", () => go(isRadius ? { radius: chosen() } : { max: chosen() }));
  at("toggle-filters").addEventListener("click", () => {
    const isShown = at("filters").classList.toggle("shown");
    at("toggle-filters").setAttribute("aria-expanded", isShown);
  });
}

const year = (text) => (/^\d{1,4}$/.test(text) ? Number(text) : null);
