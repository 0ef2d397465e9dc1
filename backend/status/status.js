// Replaces what changed on a status page while it is looked at.
"use strict";

const EVERY_MS = 2000, AFTER_ERROR_MS = 10000;
const connection = document.getElementById("connection");
let timer = 0;

function parts() {
  return [...document.querySelectorAll("[data-box] > [data-v]")].map((part) => `${part.id}.${part.dataset.v}`).join(",");
}

function say(sentence) {
  if (connection.textContent !== sentence) connection.textContent = sentence;
}

function element(html) {
  const template = document.createElement("template"); // rows of a table are parsed in one, outside of any table
  template.innerHTML = html;
  return template.content.firstElementChild;
}

function made(html, old) {
  const part = element(html);
  const open = old ? [...old.querySelectorAll("details[open]")].map((details) => details.id) : [];
  for (const details of part.querySelectorAll("details")) details.open = open.includes(details.id);
  return part;
}

function show(update) {
  const focused = document.activeElement && document.activeElement.id;
  for (const [name, keys] of Object.entries(update.boxes)) {
    const box = document.querySelector(`[data-box="${name}"]`);
    if (!box) continue;
    for (const part of [...box.children]) if (!keys.includes(part.id)) part.remove();
    let at = box.firstElementChild;
    for (const key of keys) {
      const html = update.parts[key];
      const old = document.getElementById(key);
      if (!old && !html) continue; // it did not fit, and comes with the next update
      const part = html ? made(html, old) : old;
      const inPlace = old !== null && old === at;
      if (inPlace) at = at.nextElementSibling;
      if (inPlace && part !== old) old.replaceWith(part);
      if (inPlace) continue;
      if (old && part !== old) old.remove();
      box.insertBefore(part, at);
    }
  }
  if (focused && document.activeElement === document.body) {
    const again = document.getElementById(focused);
    if (again) again.focus({ preventScroll: true });
  }
}

async function look() {
  let wait = EVERY_MS;
  try {
    const address = new URL(document.body.dataset.update, location.href);
    address.searchParams.set("have", parts());
    const answer = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const update = await answer.json();
    show(update);
    if (update.more) wait = 100;
    say("");
  } catch (error) {
    say("The backend gives no news at present. What you see may be out of date; it is asked again.");
    wait = AFTER_ERROR_MS;
  }
  plan(wait);
}

function plan(wait) {
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(look, wait);
}

// What was done is told once: a page that is opened again must not tell it as if it were so still.
const shown = new URL(location.href);
if (shown.searchParams.has("done")) {
  for (const name of ["done", "what"]) shown.searchParams.delete(name);
  history.replaceState(null, "", shown);
}

document.addEventListener("visibilitychange", () => plan(0));
plan(EVERY_MS);
