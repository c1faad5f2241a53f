// Taking in what is new: the button, and how far it is.

import * as api from "./api.js";
import { at, counted } from "./dom.js";

const EVERY = 1000; // ms

export class Sync {
  constructor(done) {
    this.done = done;
    this.isFollowing = false;
    at("sync").addEventListener("click", () => this.start());
    at("progress-close").addEventListener("click", () => {
      at("progress").hidden = true;
      at("sync").focus();
    });
  }

  async start(retry = false) {
    try {
      await api.startSync(retry);
    } catch (problem) {
      if (problem.status !== 409) return this.show(problem.message); // 409: one runs, so follow it
    }
    return this.follow();
  }

  async follow() {
    if (this.isFollowing) return;
    this.isFollowing = true;
    at("sync").disabled = true;
    this.show("Reading the folders…", {});
    try {
      for (;;) {
        const now = await api.sync();
        if (now.state === "running") {
          this.show(running(now), now);
        } else {
          this.show(now.state === "failed" ? now.error : finished(now.report));
          break;
        }
        await new Promise((wait) => setTimeout(wait, EVERY));
      }
    } catch (problem) {
      this.show(problem.message);
    }
    this.isFollowing = false;
    at("sync").disabled = false;
    this.done();
  }

  // `now`: how far it is; without it, it is over.
  show(text, now = null) {
    at("progress").hidden = false;
    const line = at("progress-text");
    line.setAttribute("role", "status");
    if (line.textContent !== text) line.textContent = text;
    const bar = at("progress-bar");
    bar.hidden = now === null;
    at("progress-close").hidden = now !== null;
    if (now?.total) Object.assign(bar, { max: now.total, value: now.done });
    else bar.removeAttribute("value");
  }
}

function running({ done, total }) {
  return total ? `${done.toLocaleString("en")} of ${counted(total, "photo")}` : "Reading the folders…";
}

function finished(report) {
  if (!report) return "The folders are up to date.";
  const parts = ["added", "changed", "moved", "removed", "relabeled"]
    .filter((part) => report[part])
    .map((part) => `${report[part].toLocaleString("en")} ${part}`);
  if (!parts.length) parts.push("nothing has changed");
  if (report.unreadable) parts.push(`${report.unreadable.toLocaleString("en")} cannot be read`);
  return `Synced: ${parts.join(", ")}.`;
}
