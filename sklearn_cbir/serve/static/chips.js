// What is searched by, each with a button that takes it away.

import { thumbnail } from "./api.js";
import { icon, make } from "./dom.js";

const SIDE = 44; // px, as in page.css

export function chip(kind, name, { of = null, remove, open = null, isUnlike = false }) {
  const text = make("p", { title: name }, make("b", { textContent: kind }), name);
  const label = `Remove ${name} from the search`;
  const away = make(
    "button",
    { type: "button", className: "quiet remove", "aria-label": label, title: label, on: { click: remove } },
    icon("remove"),
  );
  const item = make("li", { className: isUnlike ? "chip unlike" : "chip" });
  if (of !== null) {
    const look = `Look closer at ${name}`;
    const picture = make("img", { alt: "", src: thumbnail(of) });
    const opens = { type: "button", className: "quiet look", title: look, on: { click: open } };
    const button = make("button", { ...opens, "aria-label": look }, picture);
    picture.addEventListener("error", () => button.remove()); // an upload that is gone
    item.append(button);
  }
  item.append(text, away);
  return item;
}

// Show only the part of the picture that is searched by, filling the chip.
export function cut(item, [x0, y0, x1, y1]) {
  const img = item.querySelector("img");
  const frame = make("span", { className: "cut" });
  img.replaceWith(frame);
  frame.append(img);
  const fit = () => {
    const { naturalWidth: width, naturalHeight: height } = img;
    const scale = SIDE / Math.min((x1 - x0) * width, (y1 - y0) * height);
    img.style.width = `${width * scale}px`;
    img.style.height = `${height * scale}px`;
    img.style.left = `${SIDE / 2 - ((x0 + x1) / 2) * width * scale}px`;
    img.style.top = `${SIDE / 2 - ((y0 + y1) / 2) * height * scale}px`;
  };
  if (img.complete && img.naturalWidth) fit();
  else img.addEventListener("load", fit);
}
