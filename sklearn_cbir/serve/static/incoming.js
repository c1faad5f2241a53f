// A photo from outside: chosen, pasted or dropped.

import { at } from "./dom.js";

const AFTER = 300; // ms without a dragover: what was dragged has left

export function listen(take, say) {
  at("choose").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", () => {
    const [file] = at("file").files;
    at("file").value = "";
    if (file) take(file);
  });
  addEventListener("paste", (event) => {
    const file = photoOf(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    take(file);
  });
  const veil = at("drop");
  let leaving = null;
  addEventListener("dragover", (event) => {
    event.preventDefault();
    clearTimeout(leaving);
    veil.hidden = !event.dataTransfer.types.includes("Files");
    leaving = setTimeout(() => (veil.hidden = true), AFTER);
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    veil.hidden = true;
    const file = photoOf(event.dataTransfer);
    if (file) take(file, event.dataTransfer.files.length);
    else say("This is not a photo. Save it first, then drop the file.");
  });
}

function photoOf(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.find((one) => one.type.startsWith("image/")) ?? files[0];
}
