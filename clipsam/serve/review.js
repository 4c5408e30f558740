/* The review page: newest parts, one part with its regions, verdicts, a moved threshold, a region of interest.
   Talks to /api of this service alone; see clipsam/serve/review.py. */
"use strict";

(() => {
  const $ = id => document.getElementById(id);
  const facts = JSON.parse($("page-facts").textContent);
  const EVERY = 3000;  // milliseconds between two looks for new parts
  const PAGE = 40;

  const viewer = new PhotoViewer($("stage"));
  const drawing = new RoiDrawing(viewer);
  const listed = new Map();  // id -> {part, button}, the newest first in the page
  let token = facts.token ? sessionStorage.getItem("clipsam-token") : null;
  let shown = null;  // the part in the viewer, as /api/parts/ID gives it
  let roi = null;
  let oldest = null;
  let wanted = 0;  // of several answers on the way, only the last counts

  // ---- the service

  async function ask(path, {method = "GET", body, blob = false} = {}) {
    const headers = {};
    if (token) headers.Authorization = `Bearer ${token}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const answer = await fetch(path, {method, headers, body: body === undefined ? undefined : JSON.stringify(body)});
    if (answer.status === 401) { login(); throw new Error("the token is not right"); }
    if (!answer.ok) {
      const refused = await answer.json().catch(() => null);
      throw new Error(refused?.error?.message ?? `the service answered ${answer.status}`);
    }
    return blob ? answer.blob() : answer.json();
  }

  function tell(text) { $("state").textContent = text; }

  function attempt(work) { return work.catch(error => tell(error.message)); }

  function login(message) {
    sessionStorage.removeItem("clipsam-token");
    const tried = token !== null;
    token = null;
    $("login").hidden = false;
    $("review").hidden = true;
    $("login-error").hidden = !tried;
    $("login-error").textContent = message ?? "This token is not the service's.";
    $("token").focus();
  }

  $("login").addEventListener("submit", event => {
    event.preventDefault();
    token = $("token").value.trim();
    $("token").value = "";
    begin();
  });

  // ---- the list

  const pictures = new IntersectionObserver(entries => {
    for (const {target, isIntersecting} of entries) if (isIntersecting) {
      pictures.unobserve(target);
      ask(`/api/parts/${target.dataset.id}/thumbnail`, {blob: true}).then(
        blob => { target.src = URL.createObjectURL(blob); target.onload = () => URL.revokeObjectURL(target.src); }, () => {});
    }
  });

  const word = part => part.decision ?? (part.flagged ? "suspicious" : "passed");
  const kind = part => part.decision === "error" ? "error" : part.flagged ? "ng" : "ok";

  const reviewed = part => part.truth === null ? "" : part.truth ? "✓ bad" : "✓ good";

  function when(text) {
    const time = new Date(text);
    const today = time.toDateString() === new Date().toDateString();
    return today ? time.toLocaleTimeString([], {timeStyle: "short"}) : time.toLocaleString([], {dateStyle: "short", timeStyle: "short"});
  }

  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") element.className = value;
      else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  }

  function entry(part) {
    const picture = make("img", {class: "picture", alt: "", "data-id": part.id});
    const button = make("button", {type: "button", title: part.name, onclick: () => attempt(open(part.id))}, picture,
      make("span", {class: "name"}, part.name),
      make("span", {class: "when number"}, make("span", {class: `badge ${kind(part)}`}, word(part)),
        make("span", {class: "truth"}, reviewed(part)), when(part.time)));
    button.dataset.id = part.id;
    listed.set(part.id, {part, button});
    pictures.observe(picture);
    return make("li", {}, button);
  }

  async function parts(more) {
    const filter = $("filter").value;
    const before = more && oldest ? `&before=${oldest}` : "";
    const found = (await ask(`/api/parts?limit=${PAGE}${before}${filter ? `&${filter}` : ""}`)).parts;
    if (!more) { listed.clear(); $("parts").replaceChildren(); }
    $("parts").append(...found.map(entry));
    if (found.length) oldest = found.at(-1).id;
    $("more").hidden = found.length < PAGE;
    $("empty").hidden = listed.size > 0;
    $("newest").hidden = true;
    return found;
  }

  async function look() {
    if (!$("review").hidden && !document.hidden && !drawing.drawing) {
      const filter = $("filter").value;
      const [newest] = (await ask(`/api/parts?limit=1${filter ? `&${filter}` : ""}`)).parts;
      const first = listed.size ? Math.max(...listed.keys()) : 0;
      if (newest && newest.id > first) {
        // At the top of the list the newest part comes by itself; who looks at an older one is not disturbed.
        const top = shown === null || shown.part.id === first;
        if (top && $("parts").scrollTop === 0) { await parts(false); await open(newest.id); attempt(scores()); }
        else $("newest").hidden = false;
      }
    }
  }

  // ---- one part

  async function open(id) {
    const turn = ++wanted;
    const found = await ask(`/api/parts/${id}`);
    if (turn !== wanted) return;
    if (drawing.drawing) endDrawing();
    shown = found;
    const {part} = shown;
    for (const {button} of listed.values()) button.setAttribute("aria-current", String(Number(button.dataset.id) === id));
    listed.get(id)?.button.scrollIntoView({block: "nearest", inline: "nearest"});
    viewer.setThreshold(shown.pixel_threshold);
    viewer.show({width: shown.width, height: shown.height, photo: shown.photo, map: shown.map,
      regions: shown.regions, label: `${part.name}: ${word(part)}`});
    drawing.show(sameSize() ? roi?.zones : null);
    $("badge").className = `badge ${kind(part)}`;
    $("badge").textContent = word(part);
    $("name").textContent = part.name;
    $("facts").textContent = part.score === null ? "" : `score ${part.score.toFixed(3)}`;
    $("note").hidden = !(shown.note || shown.error);
    $("note").textContent = shown.error ?? shown.note;
    $("draw").disabled = part.decision === "error";
    verdicts();
    regions();
  }

  const sameSize = () => roi?.zones && roi.zones.photo_size[0] === shown.width && roi.zones.photo_size[1] === shown.height;

  function verdicts() {
    const {part} = shown;
    $("verdict").hidden = part.decision === "error";
    $("question").textContent = `Found ${part.decision === null ? (part.flagged ? "suspicious" : "good") : part.flagged ? "defective" : "good"}:`;
    const last = shown.verdicts.filter(said => said.region === null).at(-1);
    for (const [id, name] of [["confirm", "confirm"], ["reject", "reject"]]) {
      $(id).className = id === "confirm" ? "yes" : "no";
      $(id).setAttribute("aria-pressed", String(last?.verdict === name));
    }
    $("said").textContent = last ? `${last.verdict === "confirm" ? "confirmed" : "rejected"} by ${last.reviewer}` : "";
  }

  function regions() {
    $("no-regions").hidden = shown.regions.length > 0;
    $("regions").replaceChildren(...shown.regions.map((region, index) => {
      const choice = (name, label, style) => make("button", {type: "button", class: style,
        "aria-pressed": String(region.verdict === name), "aria-label": `${label} region ${index + 1}`,
        onclick: () => attempt(say(name, region.id))}, label);
      return make("li", {onmouseenter: () => mark(index), onmouseleave: () => mark(null)},
        make("span", {}, `${region.defect} `, make("span", {class: "soft small number"}, region.score.toFixed(2))),
        choice("confirm", "Yes", "yes"), choice("reject", "No", "no"));
    }));
  }

  function mark(index) {
    viewer.mark(index);
    [...$("regions").children].forEach((item, i) => item.classList.toggle("marked", i === index));
  }

  async function say(verdict, region = null) {
    const reviewer = $("reviewer").value.trim();
    $("reviewer").classList.toggle("missing", !reviewer);
    if (!reviewer) { $("reviewer").focus(); tell("Who are you? Enter a name or number first."); return; }
    localStorage.setItem("clipsam-reviewer", reviewer);
    const id = shown.part.id;
    const part = await ask(`/api/parts/${id}/verdicts`, {method: "POST", body: {reviewer, verdict, region}});
    const known = listed.get(id);
    if (known) known.button.querySelector(".truth").textContent = reviewed(part);
    tell(`Stored: ${verdict === "confirm" ? "confirmed" : "rejected"} by ${reviewer}.`);
    if (shown.part.id === id) await open(id);
    attempt(whatIf());
  }

  function step(by) {
    const ids = [...listed.keys()].sort((a, b) => b - a);
    const next = ids[ids.indexOf(shown?.part.id) + by];
    if (next !== undefined) attempt(open(next));
  }

  // ---- the threshold

  async function scores() {
    const found = await ask("/api/scores");
    const tallest = Math.max(1, ...found.flagged.map((count, i) => count + found.others[i]));
    const width = 300 / found.flagged.length;
    const bars = found.flagged.flatMap((count, i) => [["others", found.others[i], 0], ["flagged", count, found.others[i]]]
      .filter(([, number]) => number).map(([name, number, below]) => PhotoViewer.make("rect", {class: name, x: i * width + 0.4,
        width: width - 0.8, y: 88 - 86 * (number + below) / tallest, height: Math.max(1, 86 * number / tallest)})));
    const line = PhotoViewer.make("line", {id: "line", y1: 0, y2: 90});
    const was = found.threshold === null ? [] : [PhotoViewer.make("line", {class: "was", x1: 300 * found.threshold, x2: 300 * found.threshold, y1: 0, y2: 90})];
    $("histogram").replaceChildren(...bars, ...was, line);
    if (!$("threshold").dataset.touched) $("threshold").value = found.threshold ?? shown?.pixel_threshold ?? 0.5;
    await whatIf();
  }

  let asked = 0;

  async function whatIf() {
    const threshold = Number($("threshold").value);
    $("threshold-value").textContent = threshold.toFixed(3);
    const line = document.getElementById("line");
    line?.setAttribute("x1", 300 * threshold);
    line?.setAttribute("x2", 300 * threshold);
    const turn = ++asked;
    const found = await ask(`/api/what-if?threshold=${threshold}`);
    if (turn !== asked) return;
    const reviewed = found.reviewed ? ` Of ${found.reviewed} reviewed: false alarms ${found.false_alarms_before} → ${found.false_alarms_after}, misses ${found.misses_before} → ${found.misses_after}.` : "";
    $("what-if").textContent = `NG ${found.ng_before} → ${found.ng_after} of ${found.parts} parts; ${found.turned_ng_count} would turn NG, ${found.turned_ok_count} OK.${reviewed}`;
    const links = [["turned_ng", "to-ng", "NG"], ["turned_ok", "to-ok", "OK"]].flatMap(([key, style, to]) => found[key].slice(0, 6)
      .map(id => make("button", {type: "button", class: style, onclick: () => attempt(open(id))}, `${id} → ${to}`)));
    $("turned").replaceChildren(...links);
  }

  let pause = null;
  $("threshold").addEventListener("input", () => {
    $("threshold").dataset.touched = "yes";
    $("threshold-value").textContent = Number($("threshold").value).toFixed(3);
    clearTimeout(pause);
    pause = setTimeout(() => attempt(whatIf()), 80);
  });

  // ---- the region of interest

  async function region() {
    roi = await ask("/api/roi");
    $("roi-state").textContent = roi.zones === null ? "None is drawn: all of the photo counts."
      : roi.in_use ? `In use, from ${roi.file}.` : `Saved in ${roi.file}; used when the service is started with --roi.`;
    if (shown) drawing.show(sameSize() ? roi.zones : null);
  }

  function startDrawing() {
    $("drawing").hidden = false;
    $("verdict").hidden = true;
    viewer.setHeat(false);
    drawing.start(sameSize() ? roi.zones : null);
  }

  function endDrawing() {
    drawing.stop();
    drawing.show(sameSize() ? roi?.zones : null);
    $("drawing").hidden = true;
    $("verdict").hidden = false;
    viewer.setHeat($("heat").getAttribute("aria-pressed") === "true");
  }

  async function save() {
    drawing.close();
    const {include, ignore} = drawing.zones;
    await ask("/api/roi", {method: "PUT", body: {photo_size: [shown.width, shown.height], include, ignore}});
    await region();
    endDrawing();
    tell(`The region of interest is saved in ${roi.file}.`);
  }

  // ---- controls

  function toggle(id, apply) {
    $(id).addEventListener("click", () => {
      const on = $(id).getAttribute("aria-pressed") !== "true";
      $(id).setAttribute("aria-pressed", String(on));
      apply(on);
    });
  }

  toggle("heat", on => viewer.setHeat(on));
  toggle("outlines", on => viewer.setOutlines(on));
  $("opacity").addEventListener("input", () => viewer.setOpacity($("opacity").value));
  $("confirm").addEventListener("click", () => attempt(say("confirm")));
  $("reject").addEventListener("click", () => attempt(say("reject")));
  $("filter").addEventListener("change", () => attempt(parts(false).then(found => found.length ? open(found[0].id) : null)));
  $("more").addEventListener("click", () => attempt(parts(true)));
  $("newest").addEventListener("click", () => attempt(parts(false).then(found => found.length ? open(found[0].id) : null)));
  $("draw").addEventListener("click", startDrawing);
  $("zone").addEventListener("change", () => { drawing.close(); drawing.zone = $("zone").value; });
  $("undo").addEventListener("click", () => drawing.undo());
  $("clear").addEventListener("click", () => drawing.clear());
  $("cancel").addEventListener("click", endDrawing);
  $("save").addEventListener("click", () => attempt(save()));
  viewer.onpick = index => { if (!drawing.drawing) mark(index); };
  $("reviewer").value = localStorage.getItem("clipsam-reviewer") ?? "";

  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select") || !shown) return;
    if (drawing.drawing) {
      if (event.key === "Enter" && !event.target.matches("button")) drawing.close();
      else if (event.key === "Escape") endDrawing();
      return;
    }
    const keys = {j: () => step(1), k: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
      c: () => $("confirm").click(), x: () => $("reject").click(), h: () => $("heat").click(), o: () => $("outlines").click()};
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });

  // ---- the beginning

  async function begin() {
    if (facts.token && !token) { login(); return; }
    try {
      const found = await parts(false);
      if (token) sessionStorage.setItem("clipsam-token", token);
      $("login").hidden = true;
      $("review").hidden = false;
      viewer.setOpacity($("opacity").value);
      await region();
      if (found.length) await open(found[0].id);
      await scores();
    } catch (error) { tell(error.message); }
  }

  begin();
  setInterval(() => look().catch(error => tell(error.message)), EVERY);
})();
