// The @COLOR@ version @VERSION@ of the demo's script.
"use strict";

const box = (name) => document.getElementById(name);

function who(name, answerer) {
  const line = box(name).querySelector("[data-who]");
  const badge = document.createElement("span");
  badge.className = `badge ${answerer.color}`;
  badge.textContent = `${answerer.color} ${answerer.version}`;
  line.replaceChildren("Answered by ", badge, ` (${answerer.instance})`);
}

function failed(name, why) {
  const line = box(name).querySelector("[data-who]");
  const badge = document.createElement("span");
  badge.className = "badge failed";
  badge.textContent = "failed";
  line.replaceChildren(badge, ` ${why}`);
}

// A degraded answer is an answer: it says so by a field, and has no color.
function standIn(name, response) {
  const kind = response.headers.get("X-Gateway-Served-By");
  if (kind !== "stale" && kind !== "static") return false;
  const line = box(name).querySelector("[data-who]");
  const badge = document.createElement("span");
  badge.className = "badge";
  badge.textContent = kind === "stale" ? "a stored copy" : "a static page";
  line.replaceChildren("Answered by ", badge);
  return true;
}

const BANNERS = {
  full: () => "",
  degraded: (names) => `Some of this is limited at the moment: ${names}.`,
  read_only: (names) => `Read-only at the moment: you can look, but not send anything (${names}).`,
};

// The live region stands empty in the page, so that what is put into it is read out.
async function platform() {
  try {
    const { mode, services } = await (await fetch("/.well-known/gateway/status")).json();
    const names = Object.keys(services).filter((name) => services[name] !== "up").join(", ");
    const text = (BANNERS[mode] ?? BANNERS.full)(names);
    if (box("platform").textContent !== text) box("platform").textContent = text;
  } catch {
    // No status, no banner: the page works without.
  }
  setTimeout(platform, 5000);
}

function why(response) {
  const kind = response.headers.get("X-Gateway-Error");
  return kind ? `${response.status} from the gateway: ${kind}` : `${response.status} from the service`;
}

async function list(name, path, key, line) {
  try {
    const response = await fetch(path, { headers: { Accept: "application/json" } });
    if (!response.ok) return failed(name, why(response));
    const answer = await response.json();
    if (!standIn(name, response)) who(name, answer);
    box(name).querySelector("ul").replaceChildren(...answer[key].map((item) => {
      const entry = document.createElement("li");
      entry.textContent = line(item);
      return entry;
    }));
  } catch (error) {
    failed(name, error.message);
  }
}

function loadAll() {
  list("events", "/api/events/upcoming", "events", (e) => `${e.title}: ${e.when}, ${e.where}`);
  list("newsroom", "/api/newsroom/articles", "articles", (a) => `${a.title} (${a.minutes} min)`);
}

// Server-sent events are read with fetch, since an EventSource cannot say why it failed.
async function ask(question) {
  const reply = box("reply");
  reply.textContent = "";
  const response = await fetch(`/api/ivor/chat?q=${encodeURIComponent(question)}`);
  if (!response.ok) return failed("ivor", why(response));
  if (standIn("ivor", response)) {
    reply.textContent = (await response.json()).message;
    return undefined;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return undefined;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const name = /^event: (.*)$/m.exec(event)?.[1];
      const data = JSON.parse(/^data: (.*)$/m.exec(event)?.[1] ?? "{}");
      if (name === "who") who("ivor", data);
      if (name === "word") reply.append(`${data.text} `);
    }
  }
}

function live() {
  const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/api/events/live`);
  const button = box("say").querySelector("button");
  socket.addEventListener("message", ({ data }) => {
    const told = JSON.parse(data);
    if (told.hello) {
      who("live", told);
      button.disabled = false;
      return;
    }
    const entry = document.createElement("li");
    entry.textContent = `${told.echo} (${told.color})`;
    box("echoes").append(entry);
    while (box("echoes").children.length > 5) box("echoes").firstChild.remove();
  });
  socket.addEventListener("close", () => {
    button.disabled = true;
    failed("live", "closed; connecting again");
    setTimeout(live, 3000);
  }, { once: true });
  box("say").onsubmit = (submit) => {
    submit.preventDefault();
    socket.send(box("message").value);
  };
}

box("ask").addEventListener("submit", (submit) => {
  submit.preventDefault();
  ask(box("question").value).catch((error) => failed("ivor", error.message));
});
box("refresh").addEventListener("click", loadAll);
platform();
loadAll();
live();
