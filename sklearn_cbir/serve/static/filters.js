// Folder, label, years and the largest distance.

import { asks, countFilters, write } from "./address.js";
import { at, make, shownDistance } from "./dom.js";
import * as folders from "./folders.js";

const STEPS = 100; // of the slider; the last one is any distance
const scales = new Map(); // the distances at the ends of the slider, by query
const NO_LABEL = "\0none";

export function usualRadius(server) {
  if (server.duplicates_radius !== null) return server.duplicates_radius;
  if (server.metric === "hamming") return Math.round(0.025 * server.max_distance);
  return 0.1; // of networks: what is found is hardly ever no copy, though most copies are not found
}

export function fill(server) {
  const option = (value, name, n) =>
    make("option", { value, textContent: `${name} (${n.toLocaleString("en")})` });
  const below = server.folders.filter((one) => one.folder !== "");
  folders.fill(below);
  at("folder-box").hidden = !below.length;
  const labels = server.labels.filter((one) => one.label !== null);
  const without = server.labels.find((one) => one.label === null);
  at("label").replaceChildren(
    make("option", { value: "", textContent: "all" }),
    ...labels.map((one) => option(`=${one.label}`, one.label, one.n_photos)),
    ...(without && labels.length ? [option(NO_LABEL, "without a label", without.n_photos)] : []),
  );
  at("label-box").hidden = !labels.length;
  const years = server.years.filter((one) => one.year !== null);
  at("years-box").hidden = !years.length;
  for (const name of ["from", "to"]) {
    const all = make("option", { value: "", textContent: "any" });
    at(name).replaceChildren(all, ...years.map((one) => option(one.year, one.year, one.n_photos)));
  }
}

export function show(state, server, shown) {
  folders.show(state.folder);
  if (state.folder) at("folder-box").hidden = false;
  choose(at("label"), labelOption(state.label), state.label ?? "without a label");
  for (const name of ["from", "to"]) {
    choose(at(name), String(state[name] ?? ""), state[name]);
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
    select.closest("#years-box, label").hidden = false;
  }
  select.value = value;
}

let scale = [0, 1];
let isRadius = false;
let metric = null;

function showSlider(state, server, shown) {
  isRadius = state.view === "duplicates";
  metric = server.metric;
  at("distance-box").hidden = isRadius ? false : !asks(state);
  const value = isRadius ? (state.radius ?? usualRadius(server)) : state.max;
  scale = isRadius ? radiusScale(value, server) : distanceScale(state, server, shown);
  const [low, high] = scale;
  const place = value === null ? STEPS : Math.round(((value - low) / (high - low)) * STEPS);
  at("distance").value = Math.min(Math.max(place, 0), STEPS);
  showValue(value);
}

function radiusScale(value, server) {
  const key = "duplicates";
  const usual = 4 * usualRadius(server) || 0.2;
  scales.set(key, [0, Math.max(scales.get(key)?.[1] ?? usual, value)]);
  return scales.get(key);
}

// From the nearest result, which every place of the slider leaves in, to the last one.
function distanceScale(state, server, shown) {
  const key = write({ ...state, max: null, shown: 60, open: null });
  const photos = shown?.key && state.max === null && shown.key === key ? shown.photos : null;
  if (photos?.at(-1)?.distance) scales.set(key, ends(photos[0].distance, photos.at(-1).distance));
  const usual = state.max === null ? (server.max_distance ?? 2) : 2 * state.max || 1;
  return scales.get(key) ?? [0, usual];
}

function ends(first, last) {
  if (metric === "hamming") return [first, Math.max(last, first + 1)];
  return [Math.max(Math.ceil(first * 1e4) / 1e4, 0), last * 1.02];
}

function showValue(value) {
  const text = value === null ? "any" : shownDistance(value, metric);
  at("distance-value").textContent = text;
  at("distance").setAttribute("aria-valuetext", value === null ? "any distance" : text);
}

function chosen() {
  const place = Number(at("distance").value);
  if (place === STEPS && !isRadius) return null;
  const value = scale[0] + (place / STEPS) * (scale[1] - scale[0]);
  return metric === "hamming" ? Math.round(value) : Number(value.toFixed(4));
}

export function listen(go) {
  folders.listen((folder) => go({ folder }));
  at("label").addEventListener("change", () => {
    const { value } = at("label");
    go({ label: value === "" ? undefined : value === NO_LABEL ? null : value.slice(1) });
  });
  at("from").addEventListener("change", () => {
    const [from, to] = years();
    go({ from, to: from && to && to < from ? from : to });
  });
  at("to").addEventListener("change", () => {
    const [from, to] = years();
    go({ from: from && to && to < from ? to : from, to });
  });
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

const years = () => ["from", "to"].map((name) => Number(at(name).value) || null);
