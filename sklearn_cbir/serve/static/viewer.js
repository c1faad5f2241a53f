// The large view of a photo, and the rectangle that selects a part of it.

import { large } from "./api.js";
import { at, make, shownDistance } from "./dom.js";
import { DISTANCE } from "./grid.js";

const LEAST = 0.04; // of a side: what is smaller was a click
const STEP = 0.02;

export class Viewer {
  constructor(acts) {
    this.acts = acts;
    this.photo = null;
    this.box = null; // [left, top, right, bottom], fractions of the photo
    this.dialog = at("viewer");
    this.image = at("large");
    this.frame = at("frame");
    this.region = at("region");
    this.listen();
  }

  // `box`: the part that is already in the search; `isSearch`: something is searched by.
  show(photo, metric, { before, after, box, isSearch }) {
    const isOther = this.photo?.number !== photo.number;
    this.photo = photo;
    if (isOther || !this.dialog.open) {
      this.select(box);
      this.say("");
      this.image.removeAttribute("src");
      this.image.alt = photo.name;
      this.image.src = large(photo.number);
    }
    at("viewer-name").textContent = photo.name;
    at("facts").replaceChildren(...facts(photo, metric));
    at("previous").disabled = !before;
    at("next").disabled = !after;
    const isUpload = typeof photo.number !== "number";
    for (const name of ["like", "copy"]) at(`viewer-${name}`).hidden = isUpload;
    for (const name of ["also", "unlike"]) at(`viewer-${name}`).hidden = isUpload || !isSearch;
    if (!this.dialog.open) {
      this.dialog.showModal();
      at("close").focus();
    }
    this.fit();
  }

  close() {
    if (this.dialog.open) this.dialog.close();
    this.image.removeAttribute("src");
    this.photo = null;
    this.select(null);
  }

  say(text) {
    at("viewer-said").textContent = text;
  }

  // The frame is exactly the photo, so that fractions of it are fractions of the photo.
  fit() {
    const stage = at("stage");
    const style = getComputedStyle(stage);
    const inner = (a, b, whole) => whole - parseFloat(style[a]) - parseFloat(style[b]);
    const isNarrow = style.gridTemplateColumns.split(" ").length < 2;
    const sides = isNarrow ? 0 : 2 * (40 + parseFloat(style.columnGap));
    const width = inner("paddingLeft", "paddingRight", stage.clientWidth) - sides;
    const height = inner("paddingTop", "paddingBottom", stage.clientHeight);
    const { naturalWidth, naturalHeight } = this.image;
    const whole = naturalWidth || this.photo?.width || 1;
    const tall = naturalHeight || this.photo?.height || 1;
    const scale = Math.min(width / whole, height / tall);
    this.frame.style.width = `${Math.max(whole * scale, 1)}px`;
    this.frame.style.height = `${Math.max(tall * scale, 1)}px`;
  }

  select(box) {
    this.box = box;
    this.region.hidden = !box;
    at("viewer-region").textContent = box ? "Search by this part" : "Search by a part";
    at("region-hint").textContent = box
      ? "Draw again for another part; a click outside of it, or Esc, for none"
      : "or draw a rectangle on the photo";
    if (!box) return;
    const [left, top, right, bottom] = box.map((one) => `${100 * one}%`);
    Object.assign(this.region.style, { left, top });
    this.region.style.width = `calc(${right} - ${left})`;
    this.region.style.height = `calc(${bottom} - ${top})`;
  }

  searchByRegion() {
    if (this.box) {
      this.acts.region({ of: this.photo.number, box: this.box });
    } else {
      this.select([0.25, 0.25, 0.75, 0.75]);
      this.region.focus();
    }
  }

  listen() {
    const { acts } = this;
    at("close").addEventListener("click", () => acts.close());
    at("previous").addEventListener("click", () => acts.step(-1));
    at("next").addEventListener("click", () => acts.step(1));
    at("viewer-region").addEventListener("click", () => this.searchByRegion());
    at("viewer-like").addEventListener("click", () => acts.like(this.photo));
    at("viewer-also").addEventListener("click", () => acts.also(this.photo));
    at("viewer-unlike").addEventListener("click", () => acts.unlike(this.photo));
    at("viewer-copy").addEventListener("click", () => acts.copy(this.photo));
    this.image.addEventListener("load", () => this.fit());
    this.image.addEventListener("error", () => this.say("This photo cannot be shown."));
    addEventListener("resize", () => this.dialog.open && this.fit());
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.escape();
    });
    this.dialog.addEventListener("keydown", (event) => this.key(event));
    this.frame.addEventListener("pointerdown", (event) => this.draw(event));
  }

  escape() {
    if (this.box) {
      this.select(null);
      at("viewer-region").focus();
    } else {
      this.acts.close();
    }
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = this.region === document.activeElement ? this.regionKey(event) : this.photoKey(event);
    if (!act) return;
    event.preventDefault();
    act();
  }

  photoKey(event) {
    const known = {
      ArrowLeft: () => at("previous").disabled || this.acts.step(-1),
      ArrowRight: () => at("next").disabled || this.acts.step(1),
      r: () => this.box || this.searchByRegion(),
    };
    const ofPhotos = {
      "-": () => this.acts.unlike(this.photo),
      "+": () => this.acts.also(this.photo),
      c: () => this.acts.copy(this.photo),
    };
    if (typeof this.photo?.number === "number") Object.assign(known, ofPhotos);
    return known[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  }

  regionKey(event) {
    if (event.key === "Enter") return () => this.searchByRegion();
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!(event.key in way)) return undefined;
    const [right, down] = way[event.key].map((one) => one * STEP);
    const [x0, y0, x1, y1] = this.box;
    if (event.shiftKey) {
      return () => this.select([x0, y0, within(x1 + right, x0 + LEAST, 1), within(y1 + down, y0 + LEAST, 1)]);
    }
    const x = within(x0 + right, 0, 1 - (x1 - x0));
    const y = within(y0 + down, 0, 1 - (y1 - y0));
    return () => this.select([x, y, x + x1 - x0, y + y1 - y0]);
  }

  // A rectangle is drawn anew; one that is pulled inside of itself moves.
  draw(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    const frame = this.frame.getBoundingClientRect();
    const place = (one) => [
      within((one.clientX - frame.left) / frame.width, 0, 1),
      within((one.clientY - frame.top) / frame.height, 0, 1),
    ];
    const [x, y] = place(event);
    const before = event.target === this.region ? [...this.box] : null;
    const move = (one) => {
      const [toX, toY] = place(one);
      if (before) this.select(moved(before, toX - x, toY - y));
      else this.select([Math.min(x, toX), Math.min(y, toY), Math.max(x, toX), Math.max(y, toY)]);
    };
    const end = () => {
      this.frame.removeEventListener("pointermove", move);
      if (!this.box) return;
      const [x0, y0, x1, y1] = this.box;
      if (x1 - x0 < LEAST || y1 - y0 < LEAST) this.select(null);
      else this.region.focus({ focusVisible: false });
    };
    this.frame.setPointerCapture(event.pointerId);
    this.frame.addEventListener("pointermove", move);
    this.frame.addEventListener("lostpointercapture", end, { once: true });
  }
}

function moved([x0, y0, x1, y1], right, down) {
  const x = within(x0 + right, 0, 1 - (x1 - x0));
  const y = within(y0 + down, 0, 1 - (y1 - y0));
  return [x, y, x + x1 - x0, y + y1 - y0];
}

function within(value, low, high) {
  return Math.min(Math.max(value, low), Math.max(low, high));
}

function facts(photo, metric) {
  const size = photo.width && photo.height ? `${photo.width} × ${photo.height} pixels` : null;
  const known = {
    Distance: shownDistance(photo.distance, metric) || null,
    Folder: photo.folder,
    Label: photo.label,
    Taken: photo.taken,
    Size: size,
    Path: photo.path,
  };
  return Object.entries(known)
    .filter(([, value]) => value)
    .flatMap(([name, value]) => [
      make("dt", { textContent: name, title: name === "Distance" ? DISTANCE : "" }),
      make("dd", { textContent: value }),
    ]);
}
