"use strict";

const NAMES = {
  phone: "Phone", laptop: "Laptop", thief: "Thief", operator: "Operator", server: "Server",
  wechat: "WeChat", users: "User store", tokens: "Token store", listener: "Listener",
};
const HOLDERS = ["phone", "laptop", "thief"];
const SEPARATOR = { openid: "", sku: "|", nonce: "|", generation: "", mac: "" };
const MAX_BEFORE = 30; // earlier actions that stay on the page

const find = (selector, root = document) => root.querySelector(selector);
const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

/** Create an element; texts are never markup. */
function make(tag, className, ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content);
  return element;
}

/** A duration such as 0.8 ms. */
function milliseconds(seconds) {
  const value = seconds * 1000;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

/** Show how long something lives, and count down. */
function lives(element, before, left) {
  element.dataset.before = before;
  element.dataset.ends = String(Date.now() + left);
  tick(element);
}

function tick(element) {
  const seconds = Math.max(0, Math.ceil((Number(element.dataset.ends) - Date.now()) / 1000));
  const text = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  element.textContent = `${element.dataset.before}${text}`;
}

let state = { tokens: {}, sessions: [], user: null, ban: null };
let actor = null; // whose action happens now
let shown = null; // whose token is shown

const socket = new WebSocket(`ws://${location.host}/tab`);
const receive = {
  begin({ device, title }) {
    keepBefore();
    actor = device;
    find("#title").textContent = title;
    Object.assign(find(".now").dataset, { outcome: "bad", summary: "It was not answered." });
    find("#hint").hidden = true;
  },
  step(step) {
    find("#steps").append(stepItem(step));
    if (step.story) finish(step.story);
  },
  end({ summary, is_bad, state: after }) {
    const now = find(".now");
    now.dataset.outcome = is_bad ? "bad" : "good";
    now.dataset.summary = summary;
    now.dataset.actions = String(Number(now.dataset.actions) + 1);
    const screen = find(`[data-device="${actor}"] [data-part="screen"]`);
    if (screen) screen.textContent = summary;
    const latest = find("#latest");
    latest.textContent = `Steps: ${find("#title").textContent}`;
    latest.hidden = false;
    if (after.tokens[actor]) shown = actor;
    receive.state({ state: after });
  },
  state({ state: after }) {
    state = after;
    showDevices();
    showToken();
    showStores();
    document.documentElement.dataset.ready = "yes";
  },
  failed({ message }) {
    tell(message);
  },
};

socket.addEventListener("message", ({ data }) => {
  const message = JSON.parse(data);
  receive[message.type](message);
});
socket.addEventListener("close", ({ reason, wasClean }) => {
  // What closes cleanly and without a reason has told it before.
  const why = reason || "The connection to the playground is gone: see whether it runs.";
  if (reason || !wasClean) tell(`${why} Then start over.`);
  for (const button of findAll("button")) button.disabled = true;
});

document.addEventListener("click", ({ target }) => {
  const { action, holder } = target.closest("button")?.dataset ?? {};
  if (action) send(action, target.closest("[data-device]").dataset.device);
  if (!holder) return;
  shown = holder;
  showToken();
});
find("#forge").addEventListener("click", () => send("forge", shown));
find("#settings").addEventListener("submit", (event) => event.preventDefault());
setInterval(() => findAll("[data-ends]").forEach(tick), 500);

function send(action, device) {
  find("#notice").hidden = true;
  const [policy, life] = [find("#policy").value, find("#life").value];
  socket.send(JSON.stringify({ action, device, policy, life }));
}

function tell(text) {
  const notice = find("#notice");
  notice.textContent = text;
  notice.hidden = false;
}

function stepItem({ source, target, title, detail, value, seconds, is_bad: isBad }) {
  const route = make("span", "route", party(source));
  if (target !== source) route.append(make("span", "arrow", "→"), party(target));
  const what = make("span", "what", make("b", "", title));
  if (detail) what.append(make("span", "detail", detail));
  if (value) what.append(make("code", "value", value));
  const item = make("li", isBad ? "step bad" : "step", route, what);
  if (seconds !== null) item.append(make("span", "time", milliseconds(seconds)));
  return item;
}

function party(name) {
  return make("span", `party ${name}`, NAMES[name]);
}

/** Put the last action among the earlier ones, folded. */
function keepBefore() {
  const steps = find("#steps");
  if (!steps.children.length) return;
  const now = find(".now");
  const outcome = now.dataset.outcome === "bad" ? "bad" : "good";
  const list = make("ol", "", ...steps.children);
  const summary = make("summary", "", make("b", "", find("#title").textContent));
  summary.append(make("span", `outcome ${outcome}`, now.dataset.summary || ""));
  const before = find("#before");
  before.prepend(make("details", "", summary, list));
  while (before.children.length > MAX_BEFORE) before.lastChild.remove();
  find("#earlier").hidden = false;
}

function finish(story) {
  find(`[data-story="${story}"]`).classList.add("done");
  suggest();
}

function suggest() {
  const stories = findAll("#stories li");
  const done = stories.filter((item) => item.classList.contains("done"));
  const next = stories.find((item) => !item.classList.contains("done"));
  for (const item of stories) item.classList.toggle("current", item === next);
  find("#count").textContent = `${done.length} of ${stories.length}`;
  const hint = next ? [make("b", "", "Next: "), ...next.lastElementChild.cloneNode(true).childNodes]
    : [make("b", "", "You have seen it all.")];
  find("#next").replaceChildren(...hint);
}

function showDevices() {
  for (const holder of HOLDERS) {
    const device = find(`[data-device="${holder}"]`);
    const token = state.tokens[holder];
    const status = find('[data-part="status"]', device);
    // An owner need not have done anything for their token to die.
    const died = token && token.status !== "active" && token.status !== status.textContent;
    if (died && holder !== actor) find('[data-part="screen"]', device).textContent = token.why;
    status.textContent = token ? token.status : "no token";
    status.dataset.status = token ? token.status : "";
    // All tokens of a user begin alike: its session tells one from another.
    const session = token ? token.text.slice(-3).map(([, text]) => text) : [];
    find('[data-part="held"]', device).textContent = token ? `…|${session.join("")}` : "";
    for (const button of findAll("button", device)) {
      const { action } = button.dataset;
      if (action === "copy") button.disabled = !(state.tokens.phone || state.tokens.laptop);
      else button.disabled = action !== "login" && !token;
    }
  }
}

function showToken() {
  const holders = HOLDERS.filter((holder) => state.tokens[holder]);
  find("#no-token").hidden = holders.length > 0;
  find("#token").hidden = holders.length === 0;
  if (!holders.length) return;
  if (!state.tokens[shown]) shown = holders[0];
  for (const button of findAll("[data-holder]")) {
    button.hidden = !holders.includes(button.dataset.holder);
    button.setAttribute("aria-pressed", String(button.dataset.holder === shown));
  }
  const token = state.tokens[shown];
  const spans = token.text.flatMap(([name, text]) => [SEPARATOR[name], make("span", name, text)]);
  find("#token-text").replaceChildren(...spans);
  const verdict = find("#token-status");
  verdict.dataset.status = token.status;
  const more = make("span", "");
  if (token.expires_in !== null) lives(more, " It lives for ", token.expires_in);
  verdict.replaceChildren(make("b", "", token.status), ` ${token.why}`, more);
  const values = Object.fromEntries(token.text);
  values.generation = String(token.generation);
  values.mac = token.mac;
  for (const [name, text] of Object.entries(values)) {
    find(`#token [data-part="${name}"]`).textContent = text;
  }
}

function showStores() {
  const { user, sessions, ban } = state;
  const row = user ? [make("code", "", user.open_id)] : ["no row"];
  if (user) row.push(` since ${new Date(user.created_at).toLocaleTimeString("en-GB")}`);
  find("#user").replaceChildren(...row);
  find("#no-sessions").hidden = sessions.length > 0;
  find("#sessions").replaceChildren(...sessions.map((session) => {
    const life = make("span", "");
    lives(life, "", session.expires_in);
    const text = `${session.device}, generation ${session.generation}, `;
    return make("li", "", make("code", "", session.id), " ", text, life);
  }));
  const ends = make("span", "");
  if (ban) lives(ends, `${ban.reason}, for `, ban.ends_in);
  find("#ban").replaceChildren(ban ? ends : "no");
  const button = find("#ban-button");
  button.dataset.action = ban ? "unban" : "ban";
  button.textContent = ban ? "Lift the ban" : "Ban the user";
  for (const each of findAll('[data-device="operator"] button')) each.disabled = false;
}

/** Lead to the steps when they are out of sight. */
new IntersectionObserver(([{ isIntersecting }]) => {
  find("#latest").classList.toggle("needed", !isIntersecting);
}, { rootMargin: "-25% 0px" }).observe(find(".now"));

suggest();
