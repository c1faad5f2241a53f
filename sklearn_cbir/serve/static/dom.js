// Elements are made by name and text, never from HTML: a file may be called anything.

export const at = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name in element && !name.startsWith("aria-")) {
      element[name] = value;
    } else {
      element.setAttribute(name, value);
    }
  }
  element.append(...children);
  return element;
}

const PATHS = {
  remove: "m4 4 8 8m0-8-8 8",
  less: "M3 8h10",
  larger: "M9.5 2.5H13.5v4M6.5 13.5h-4v-4M13 3 9 7M3 13l4-4",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

export function button(text, listener, properties = {}) {
  return make("button", { type: "button", on: { click: listener }, ...properties }, text);
}

export function counted(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

export function shownDistance(distance, metric) {
  if (distance === null || distance === undefined) return "";
  return metric === "hamming" ? String(Math.round(distance)) : distance.toFixed(3);
}

// The name of an uploaded photo is not sent: the window keeps it, where the browser allows that.
const names = new Map();

export function keepUploadName(id, name) {
  names.set(id, name);
  try {
    sessionStorage.setItem(id, name);
  } catch {
    // shown until the page is loaded anew
  }
}

export function uploadName(id) {
  try {
    return names.get(id) ?? sessionStorage.getItem(id);
  } catch {
    return null;
  }
}

// Copy to the clipboard; over plain HTTP to another machine there is no clipboard object.
export async function copy(text, within = document.body) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const box = make("textarea", { value: text, className: "hidden" });
    const focused = document.activeElement;
    within.append(box);
    box.select();
    const copied = document.execCommand("copy");
    box.remove();
    focused?.focus();
    return copied;
  }
}
