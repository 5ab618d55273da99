// The swarm view: asks swarm.json every two seconds and draws what it says; the chat box asks the OpenAI API of the same gateway.
// Everything that comes from elsewhere becomes text nodes, never markup: peers' names are strangers' words.
"use strict";

const EVERY = 2000; // milliseconds between two looks; the gateway takes no picture more often than every 1.5 s
const SHOWN_TRIPS = 16; // peers in the matrix; more are unreadable
const SHOWN_PEERS = 150; // rows of a list; the counts above the map are of all
const COUNT = new Intl.NumberFormat("en");
const at = (id) => document.getElementById(id);

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const tail = (peer) => `…${peer.slice(-6)}`;
const ms = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)) + " ms";
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const plural = (count, word) => `${COUNT.format(count)} ${word}${count === 1 ? "" : "s"}`;

function ago(seconds) {
  if (seconds < 90) return `${Math.max(Math.round(seconds), 0)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

// --- asking ---------------------------------------------------------------------------------------------------------------------------------

// A browser may forbid storage, or have none left: then nothing is remembered, and everything else goes on.
function recall(store, name) {
  try {
    return window[store].getItem(name) || "";
  } catch {
    return "";
  }
}

function remember(store, name, value) {
  try {
    window[store].setItem(name, value);
  } catch {}
}

let key = recall("sessionStorage", "swarm-key");
let names = new Map(); // peer -> what it is called
let taken = []; // hops of the last answer: {peer, start, stop}
let latest = null;
let heardAt = 0;

const headers = (more = {}) => (key ? { ...more, Authorization: `Bearer ${key}` } : more);
const called = (peer) => names.get(peer) || tail(peer);

async function look() {
  try {
    const answer = await fetch("swarm.json", { headers: headers(), cache: "no-store", signal: AbortSignal.timeout(15000) });
    at("key-form").hidden = answer.status !== 401;
    if (answer.status === 401) return tell(key ? "The gateway does not know this key." : "This gateway asks for a key.", key ? "hole" : "");
    if (!answer.ok) throw new Error(`it says ${answer.status}`);
    latest = await answer.json();
    heardAt = Date.now();
  } catch (error) {
    return tell(`The gateway does not answer (${error.message}); trying again. What is below is old.`, "hole");
  }
  try {
    draw();
  } catch (error) {
    console.error(error);
    tell(`This page cannot show what the gateway says (${error.message}); what it says is at swarm.json.`, "hole");
  }
}

async function keepLooking() {
  for (;;) {
    if (document.visibilityState === "visible") await look();
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
}

function tell(text, kind) {
  const banner = at("banner");
  if (banner.textContent !== text) banner.textContent = text; // said once to those who listen
  banner.className = `banner ${kind}`;
}

// --- drawing --------------------------------------------------------------------------------------------------------------------------------

function draw() {
  const { overview, gateway } = latest;
  names = new Map(overview.peers.map((peer) => [peer.peer, peer.name || tail(peer.peer)]));
  at("model").textContent = gateway.model || overview.model;
  document.title = overview.served ? "swarm" : "⚠ swarm";
  const thin = overview.covers.length > 0 && overview.covers[0].thin;
  const sentence = overview.sentence[0].toUpperCase() + overview.sentence.slice(1) + ".";
  tell(sentence, overview.served ? (thin ? "thin" : "good") : "hole");
  at("chat").hidden = gateway.model === undefined;
  drawMap(overview);
  drawNow(overview, gateway);
  drawEvents(overview);
  drawRequests(overview);
  drawPeers(overview);
  drawTrips(overview);
}

function name(component, overview) {
  return component === 0 ? "embed" : component === overview.layers + 1 ? "head" : `layer ${component - 1}`;
}

function drawMap(overview) {
  const parts = overview.covers.length ? overview.covers : [{ numerics: "", revision: "", holders: new Array(overview.layers + 2).fill(0), coming: [] }];
  at("map").replaceChildren(...parts.map((cover) => mapOf(cover, overview, parts.length > 1)));
}

function lane(components, ...children) {
  const element = h("div", { class: "lane" }, ...children);
  element.style.gridTemplateColumns = `repeat(${components}, minmax(0, 1fr))`;
  return element;
}

function mapOf(cover, overview, several) {
  const components = overview.layers + 2;
  const cells = cover.holders.map((count, component) => {
    const kind = count === 0 ? "hole" : count === 1 ? "thin" : "many";
    const coming = cover.coming[component] ? `, ${cover.coming[component]} loading it` : "";
    const cell = h("span", { class: `cell ${kind}`, title: `${name(component, overview)}: ${count === 0 ? "nobody" : plural(count, "peer")}${coming}` });
    cell.append(count === 0 ? h("b", {}, "0") : String(count));
    return cell;
  });
  const step = Math.max(1, Math.ceil(overview.layers / 12));
  const axis = cover.holders.map((_, component) => {
    const label = component === 0 ? "in" : component === components - 1 ? "out" : (component - 1) % step === 0 ? String(component - 1) : "";
    return h("span", { class: "axis" }, label);
  });
  const mine = overview.peers.filter((peer) => !cover.numerics || (peer.numerics === cover.numerics && peer.revision === cover.revision));
  const holes = cover.missing ? `Nobody serves ${cover.missing}.` : cover.holders.includes(0) ? "Nobody serves anything." : "No holes.";
  const summary = `${holes} ${cover.thin ? `One peer alone serves ${cover.thin}.` : ""}`;
  return h(
    "div",
    { class: "class" },
    several ? h("h3", {}, `${cover.numerics}, files ${cover.revision.slice(0, 8)}`) : null,
    h("p", { class: "unseen" }, summary),
    h("div", { class: "row counts" }, h("span", { class: "who quiet" }, "peers for each layer"), lane(components, ...cells)),
    ...mine.slice(0, SHOWN_PEERS).map((peer) => peerRow(peer, components)),
    more(mine.length),
    h("div", { class: "row" }, h("span"), lane(components, ...axis)),
  );
}

function more(count) {
  return count > SHOWN_PEERS ? h("p", { class: "quiet" }, `The first ${SHOWN_PEERS} of ${COUNT.format(count)} peers; all are counted.`) : null;
}

function peerRow(peer, components) {
  const bars = peer.spans.map(([start, stop]) => {
    const used = peer.state !== "silent" && taken.some((hop) => hop.peer === peer.peer && hop.start < stop && start < hop.stop);
    const said = peer.state === "online" ? peer.layers : `${peer.layers} ${peer.state === "silent" ? "gone" : peer.state === "joining" ? "loading" : peer.state}`;
    const bar = h("span", { class: `bar ${peer.state}${used ? " taken" : ""}`, title: `${peer.peer}: layers ${peer.layers}, ${peer.state}` }, said);
    bar.style.gridColumn = `${start + 1} / ${stop + 1}`;
    bar.style.gridRow = 1;
    return bar;
  });
  return h("div", { class: "row peer", "data-peer": peer.peer }, h("span", { class: "who", title: peer.peer }, called(peer.peer)), lane(components, ...bars));
}

function drawNow(overview, gateway) {
  const leader = overview.coordinator;
  const pairs = [];
  if (leader) {
    const since = `${leader.exactly ? "" : "at least "}${ago(overview.time - leader.since)}`;
    const gone = overview.peers.some((peer) => peer.peer === leader.peer && peer.state === "silent");
    pairs.push(["coordinator", `${called(leader.peer)}, term ${leader.term}, ${gone ? "does not answer: another will take its place" : `for ${since}`}`]);
  } else pairs.push(["coordinator", "nobody: clients plan their routes themselves"]);
  const online = overview.peers.filter((peer) => peer.state === "online");
  pairs.push(["peers", `${online.length} serving, ${overview.peers.length - online.length} loading, leaving or silent`]);
  pairs.push(["sessions", `${COUNT.format(online.reduce((sum, peer) => sum + peer.sessions, 0))} held by peers, each at all of its hops`]);
  if (gateway.running !== undefined) pairs.push(["this gateway", `${plural(gateway.running, "answer")} running, ${plural(gateway.tokens, "token")} so far`]);
  const odd = Object.keys(overview.problems).length;
  if (odd) pairs.push(["passed over", `${plural(odd, "announcement")} that make no sense`]);
  at("now").replaceChildren(...pairs.flatMap(([term, text]) => [h("dt", {}, term), h("dd", {}, text)]));
  if (gateway.tokens_per_second) drawRate(gateway.tokens_per_second);
}

function drawRate(rates) {
  const top = Math.max(...rates, 1);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const now = rates[rates.length - 1];
  svg.setAttribute("viewBox", `0 0 ${rates.length * 4} 60`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Tokens a second over the last three minutes: now ${now.toFixed(0)}, at most ${Math.max(...rates).toFixed(0)}`);
  const draw = (tag, attributes) => {
    const part = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [attribute, value] of Object.entries(attributes)) part.setAttribute(attribute, value);
    svg.append(part);
  };
  rates.forEach((rate, bar) => rate > 0 && draw("rect", { class: "tick", x: bar * 4, y: 59 - (56 * rate) / top, width: 3, height: (56 * rate) / top }));
  draw("line", { class: "base", x1: 0, x2: rates.length * 4, y1: 59.5, y2: 59.5 });
  const caption = h("p", { class: "quiet" }, h("span", {}, "3 minutes ago"), h("span", {}, `highest ${Math.max(...rates).toFixed(0)} tokens/s`), h("span", {}, "now"));
  at("rate").replaceChildren(svg, caption);
}

function drawEvents(overview) {
  const items = overview.events.slice(-60).reverse();
  const list = items.map((event) => h("li", { class: event.kind }, h("time", {}, clock(event.time)), event.text));
  at("events").replaceChildren(...(list.length ? list : [h("li", {}, "Nothing since the gateway began to look.")]));
}

const requests = new Map(); // id -> its element, kept so that what is open stays open

function drawRequests(overview) {
  const there = new Set(overview.requests.map((request) => request.id));
  for (const [id, element] of requests) if (!there.has(id)) element.remove(), requests.delete(id);
  at("split-legend").hidden = !there.size;
  for (const request of overview.requests) {
    if (!requests.has(request.id)) {
      const element = h("div", { class: "request", "data-request": request.id }, h("p"), h("div", { class: "hops" }), h("p", { class: "quiet" }), h("details", {}, h("summary", {}, "Why this route"), h("pre")));
      requests.set(request.id, element);
      at("requests").append(element);
    }
    updateRequest(requests.get(request.id), request);
  }
  const none = at("requests").querySelector(".none");
  if (!there.size && !none) at("requests").append(h("p", { class: "quiet none" }, "None through this gateway. What others ask shows as load of the peers."));
  if (there.size && none) none.remove();
}

function updateRequest(element, request) {
  const [title, hops, footer, why] = element.children;
  title.textContent = `Answer ${request.id}: ${plural(request.tokens, "token")} after a prompt of ${COUNT.format(request.prompt)}, ${request.tokens_per_second.toFixed(1)} tokens/s${request.reroutes ? `, lost ${plural(request.reroutes, "hop")} on the way` : ""}`;
  const longest = Math.max(...request.hops.map((hop) => hop.milliseconds + hop.queue_milliseconds + hop.network_milliseconds), 0.001);
  hops.replaceChildren(
    ...request.hops.flatMap((hop) => {
      const parts = [["compute", hop.milliseconds], ["queue", hop.queue_milliseconds], ["network", hop.network_milliseconds]];
      const bar = h("span", { class: "split", "aria-hidden": "true" }, ...parts.map(([kind, value]) => {
        const part = h("i", { class: kind });
        part.style.width = `${(100 * value) / longest}%`;
        return part;
      }));
      const text = `${ms(hop.milliseconds)} computing${hop.measured ? "" : " (predicted)"}, ${ms(hop.queue_milliseconds)} waiting, ${ms(hop.network_milliseconds)} on the way`;
      const gone = latest.overview.peers.every((peer) => peer.peer !== hop.peer_id || peer.state === "silent");
      return [
        h("span", { class: "who", title: hop.peer_id }, called(hop.peer_id)),
        h("span", { class: "quiet" }, hop.layers.includes(":") ? `layers ${hop.layers}` : hop.layers),
        bar,
        h("span", { class: gone ? "number state-silent" : "number" }, gone ? "gone: somebody else is sought" : text),
      ];
    }),
  );
  const planner = request.planner ? `planned by ${request.standby ? "standby" : "coordinator"} ${called(request.planner)}, term ${request.term}` : "planned by this gateway itself";
  footer.textContent = request.hops.length ? `Measured round the ring: ${ms(request.network)} a token beside computing. Waiting and way are predicted. Route ${planner}.` : "Looking for a route …";
  why.hidden = !request.why.length;
  why.lastChild.textContent = request.why.join("\n");
}

function drawPeers(overview) {
  const head = ["Peer", "Layers", "State", "A layer takes", "Sessions", "Free cache", "From here", "Heard"];
  const rows = overview.peers.slice(0, SHOWN_PEERS).map((peer) => {
    const free = peer.cache_tokens ? peer.free_tokens / peer.cache_tokens : 0;
    const gauge = h("div", { class: "gauge", "aria-hidden": "true" }, h("i"));
    gauge.firstChild.style.width = `${100 * free}%`;
    const state = { silent: "does not answer", joining: "loading", leaving: "leaving" }[peer.state] || "serving";
    const extra = peer.share < 1 ? `, slowed to ${Math.round(100 * peer.share)} % for its owner` : "";
    return h(
      "tr", { "data-peer": peer.peer },
      h("th", { scope: "row" }, peer.name || null, peer.name ? " " : null, h("span", { class: "id", title: peer.peer }, tail(peer.peer)), peer.office === "coordinator" ? h("span", { class: "badge" }, "coordinator") : null),
      h("td", { "data-label": "Layers" }, peer.layers),
      h("td", { "data-label": "State", class: `state-${peer.state}` }, `${state}${extra}`),
      h("td", { "data-label": "A layer takes" }, `${ms(peer.decode)} a token`),
      h("td", { "data-label": "Sessions" }, COUNT.format(peer.sessions)),
      h("td", { "data-label": "Free cache" }, h("div", {}, `${COUNT.format(peer.free_tokens)} of ${COUNT.format(peer.cache_tokens)}`, gauge)),
      h("td", { "data-label": "From here" }, peer.rtt === null ? "not measured" : ms(peer.rtt)),
      h("td", { "data-label": "Heard" }, `${ago(peer.age)} ago`),
    );
  });
  const table = h("table", {}, h("thead", {}, h("tr", {}, ...head.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, ...rows));
  const shown = rows.length ? [table, more(overview.peers.length)] : [h("p", { class: "quiet" }, "Nobody has announced itself.")];
  at("peers").replaceChildren(...shown.filter(Boolean));
}

function drawTrips(overview) {
  const peers = overview.peers.slice(0, SHOWN_TRIPS);
  const trip = (one, other) => {
    const both = [one.rtts[other.peer], other.rtts[one.peer]].filter((value) => value !== undefined);
    return both.length ? both.reduce((sum, value) => sum + value, 0) / both.length : null;
  };
  if (peers.length < 2) return at("trips").replaceChildren(h("p", { class: "quiet" }, "It takes two peers."));
  const rows = peers.map((one) =>
    h("tr", {}, h("th", { scope: "row", title: one.peer }, called(one.peer)), ...peers.map((other) => {
      if (one === other) return h("td", { class: "self" }, "·");
      const value = trip(one, other);
      const cell = h("td", {}, value === null ? "–" : ms(value));
      if (value !== null) cell.style.background = `color-mix(in srgb, var(--network) ${Math.round(Math.min(Math.max(Math.log10(value + 0.1) + 1, 0) * 14, 60))}%, transparent)`;
      return cell;
    })),
  );
  const head = h("thead", {}, h("tr", {}, h("td"), ...peers.map((peer) => h("th", { scope: "col", title: peer.peer }, called(peer.peer)))));
  const rest = overview.peers.length > peers.length ? h("p", { class: "quiet" }, `The first ${peers.length} of ${overview.peers.length}.`) : null;
  at("trips").replaceChildren(...[h("table", {}, head, h("tbody", {}, ...rows)), rest].filter(Boolean));
}

// --- the chat box ---------------------------------------------------------------------------------------------------------------------------

let conversation = [];
let running = null; // what stops the answer that comes

async function ask(text) {
  conversation.push({ role: "user", content: text });
  add("mine", text);
  const item = add("its", "…");
  const said = item.querySelector(".said");
  const answer = { role: "assistant", content: "" };
  running = new AbortController();
  busy(true);
  try {
    const finish = await stream(conversation, running.signal, (piece, route) => {
      if (piece) answer.content += piece;
      if (answer.content) said.textContent = answer.content.trimStart();
      if (route) showRoute(item, route);
      at("talk").scrollTop = at("talk").scrollHeight;
    });
    if (!answer.content) said.textContent = "(an empty answer)";
    if (finish === "length") item.append(h("p", { class: "quiet" }, "Cut here: this box asks for 256 tokens at most."));
  } catch (error) {
    item.classList.add("broken");
    said.textContent = answer.content.trimStart();
    item.append(h("p", { class: "fault" }, error.name === "AbortError" ? "Stopped." : `It broke off: ${error.message}`));
  } finally {
    running = null;
    busy(false);
    at("heard-answer").textContent = item.textContent; // said once, whole
  }
  if (answer.content) conversation.push({ role: "assistant", content: answer.content.trim() });
  else conversation.pop();
}

// A proxy between us and the gateway says things of its own, in any form.
async function whyNot(answer) {
  const text = await answer.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `${answer.status} ${answer.statusText} ${text.replace(/<[^>]*>/g, " ").replace(/\s+/g, " ").trim().slice(0, 200)}`.trim();
  }
}

async function stream(messages, signal, heard) {
  const chat = latest.gateway.chat;
  const asked = { model: latest.gateway.model, stream: true, show_route: true, temperature: 0, max_tokens: 256 };
  const body = chat ? { ...asked, messages } : { ...asked, prompt: messages[messages.length - 1].content };
  const answer = await fetch(chat ? "v1/chat/completions" : "v1/completions", {
    method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body), signal,
  });
  if (!answer.ok) throw new Error(await whyNot(answer));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let finish = null;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the gateway closed the connection");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (event === "data: [DONE]") return finish;
      if (!event.startsWith("data: ")) continue;
      const said = JSON.parse(event.slice(6));
      if (said.error) throw new Error(said.error.message);
      for (const choice of said.choices) {
        finish = choice.finish_reason || finish;
        heard(chat ? choice.delta.content : choice.text, choice.route);
      }
    }
  }
}

function add(kind, text) {
  const item = h("li", { class: kind }, h("p", { class: "said" }, text));
  at("talk").append(item);
  at("talk").scrollTop = at("talk").scrollHeight;
  return item;
}

function showRoute(item, route) {
  taken = route.hops;
  const hops = route.hops.map((hop) => h("li", { title: hop.peer }, `${called(hop.peer)} · ${hop.layers} · ${ms(hop.compute_ms)}`));
  const speed = `${route.tokens_per_second.toFixed(1)} tokens/s${route.reroutes ? `, went on over another route ${plural(route.reroutes, "time")}` : ""}`;
  item.querySelectorAll(".route, .speed").forEach((old) => old.remove());
  item.append(h("ol", { class: "route", "aria-label": "Its route" }, ...hops), h("p", { class: "quiet speed" }, speed));
  if (latest) drawMap(latest.overview);
}

function busy(is) {
  at("send").disabled = is;
  at("stop").hidden = !is;
  at("fresh").disabled = is;
}

// --- what people press ------------------------------------------------------------------------------------------------------------------------

at("chat-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("chat-text").value.trim();
  if (!text || running) return;
  at("chat-text").value = "";
  ask(text);
});

at("chat-text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("chat-form").requestSubmit();
  }
});

at("stop").addEventListener("click", () => {
  if (running) running.abort();
  at("chat-text").focus();
});

at("fresh").addEventListener("click", () => {
  conversation = [];
  taken = [];
  at("talk").replaceChildren();
  if (latest) drawMap(latest.overview);
  at("chat-text").focus();
});

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = at("key").value.trim();
  remember("sessionStorage", "swarm-key", key);
  look();
});

const THEMES = ["auto", "light", "dark"];

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  at("theme").textContent = `Theme: ${theme}`;
  remember("localStorage", "swarm-theme", theme);
}

let theme = THEMES.includes(recall("localStorage", "swarm-theme")) ? recall("localStorage", "swarm-theme") : "auto";
at("theme").addEventListener("click", () => setTheme((theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length])));
setTheme(theme);
setInterval(() => {
  if (heardAt) at("heard").textContent = `seen ${ago((Date.now() - heardAt) / 1000)} ago`;
}, 1000);
keepLooking();
