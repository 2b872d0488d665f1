// Asks for /status.json every two seconds and writes it into the page, as text alone.
"use strict";

const part = (name) => document.getElementById(name);
const time = (iso) => (iso ? new Date(iso).toLocaleTimeString() : "");
let heard = null;

function list(name, entries) {
  part(`${name}-section`).hidden = !entries.length;
  part(name).replaceChildren(...entries.map((entry) => {
    const item = document.createElement("li");
    item.textContent = entry;
    return item;
  }));
}

function row(site, count, presence) {
  const line = document.createElement("tr");
  const dice = site.dice == null ? "" : `${(100 * site.dice).toFixed(1)} %`;
  for (const text of [site.site, "", site.what, count, dice, time(site.since), site.finished]) {
    line.insertCell().textContent = text;
  }
  if (presence) line.cells[1].className = presence.online ? "there" : "missing";
  return line;
}

function show(status) {
  part("study").textContent = status.study || "The coordinator";
  part("headline").textContent = status.headline || "";
  part("headline").className = status.silent || status.state === "stopped" ? "warning" : "";
  const bar = part("stages");
  bar.hidden = !status.stages;
  bar.max = status.stages || 1;
  bar.value = status.stages_done || 0;
  part("text").hidden = !status.text;
  part("text").textContent = status.text || "";
  const present = new Map((status.present || []).map((one) => [one.site, one]));
  const named = (status.sites || []).map((site) => site.site);
  const idle = [...present.keys()].filter((name) => !named.includes(name)).map(
    (name) => ({ site: name, what: "", since: "", done: 0, of: 0, dice: null, finished: "" }));
  const sites = [...(status.sites || []), ...idle];
  part("sites-section").hidden = !sites.length && !status.present_error;
  part("sites").replaceChildren(...sites.map(
    (site, place) => row(site, (status.counts || [])[place] || "", present.get(site.site))));
  part("present-error").hidden = !status.present_error;
  part("present-error").textContent = status.present_error || "";
  list("parked", status.parked || []);
  list("recent", status.recent || []);
}

async function ask() {
  try {
    const answer = await fetch("/status.json", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    show(await answer.json());
    heard = new Date();
    part("age").textContent = `As of ${heard.toLocaleTimeString()}.`;
  } catch {
    part("age").textContent = `The coordinator's program does not answer${heard ? ` since ${heard.toLocaleTimeString()}` : ""}.`;
  }
  setTimeout(ask, 2000);
}

ask();
