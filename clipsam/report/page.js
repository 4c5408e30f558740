/* The report at work: filters, sorting, the gallery, one photo in detail, light and dark, printing.

   Reads what page.html.j2 wrote: #facts (words, threshold), #index (one entry per photo), and for each photo
   with a picture a <script type="application/json" id="photo-N">, parsed only while the photo is in sight. */
"use strict";

const find = id => document.getElementById(id);
const facts = JSON.parse(find("facts").textContent);
const index = JSON.parse(find("index").textContent);
const PRINTED = 120;

const view = {query: "", state: "all", type: "", sort: "high", heat: false, outlines: true, opacity: 0.7};
let chosen = [];  // numbers of the photos that are listed, in order

const orders = {
  high: (a, b) => (b.score ?? -1) - (a.score ?? -1),
  low: (a, b) => (a.score ?? 2) - (b.score ?? 2),
  area: (a, b) => (b.area ?? -1) - (a.area ?? -1),
  name: (a, b) => names.compare(a.name, b.name),
};
const names = new Intl.Collator(undefined, {numeric: true});

function picture(number) {
  const element = find(`photo-${number}`);
  return element ? JSON.parse(element.textContent) : null;
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const many = count => count.toLocaleString("en");

function inWords(photo) {
  if (photo.state === "error") return photo.message;
  if (!photo.regions) return photo.state === "ng" ? "no region outlined" : "nothing found";
  return `${photo.regions} region${photo.regions > 1 ? "s" : ""}: ${photo.types.join(", ")}`;
}

function badge(photo) {
  const word = photo.state === "error" ? "error" : facts.words[photo.state];
  return element("span", `badge ${photo.state}`, word);
}

/* ---- the gallery ---- */

const viewers = new WeakMap();

function fillTile(tile, number) {
  const photo = index[number];
  const stage = element("span", "stage");
  const kept = picture(number);
  if (kept?.photo || kept?.map) {
    const viewer = new PhotoViewer(stage, {threshold: facts.threshold});
    apply(viewer);
    viewer.show({...kept, label: ""});
    viewers.set(tile, viewer);
  } else {
    stage.append(element("span", "none soft small", photo.state === "error" ? photo.kind : "no picture"));
  }
  const line = element("span", "line");
  const name = element("span", "name small");
  name.append(element("bdi", "", photo.name));
  line.append(name);
  if (photo.score !== undefined) line.append(element("span", "number small soft", photo.score.toFixed(3)));
  const below = element("span", "line soft small");
  below.append(badge(photo), element("span", "found", photo.types ? photo.types.join(", ") : photo.message));
  tile.append(stage, line, below);
  const score = photo.score === undefined ? "" : `, score ${photo.score.toFixed(3)}`;
  tile.setAttribute("aria-label", `${photo.name}: ${badge(photo).textContent}${score}, ${inWords(photo)}`);
  tile.title = photo.name;
}

const gallery = new Gallery(find("gallery"), {fill: fillTile, open: position => openDetail(position)});

function apply(viewer) {
  viewer.setHeat(view.heat);
  viewer.setOutlines(view.outlines);
  viewer.setOpacity(view.opacity);
}

function choose() {
  const words = view.query.toLowerCase().split(/\s+/).filter(Boolean);
  chosen = [...index.keys()].filter(number => {
    const photo = index[number];
    const name = photo.name.toLowerCase();
    return (view.state === "all" || photo.state === view.state)
      && (!view.type || photo.types?.includes(view.type))
      && words.every(word => name.includes(word));
  });
  chosen.sort((a, b) => orders[view.sort](index[a], index[b]) || a - b);
  gallery.show(chosen);
  find("count").textContent = chosen.length === index.length
    ? `${many(index.length)} photos` : `${many(chosen.length)} of ${many(index.length)} photos`;
  find("nothing").hidden = chosen.length > 0;
}

/* ---- one photo ---- */

const detail = find("detail");
const large = new PhotoViewer(find("stage"), {threshold: facts.threshold});
const zoom = new PhotoZoom(large);
let current = 0;  // position in `chosen`

large.onpick = i => markRegion(i);

function markRegion(i) {
  large.mark(i);
  [...find("regions").children].forEach((row, n) => row.classList.toggle("marked", n === i));
}

function regionRow(region, number, photo) {
  const row = element("tr");
  row.tabIndex = 0;
  const share = 100 * region.area / (photo.width * photo.height);
  const [x0, y0, x1, y1] = region.box;
  for (const [text, name] of [
    [String(number + 1), "number"], [region.defect], [region.score.toFixed(3), "number"],
    [`${share < 0.01 ? "< 0.01" : share.toFixed(2)} %`, "number"], [`${x0}, ${y0}`, "number"],
  ]) row.append(element("td", name, text));
  row.cells[3].append(element("small", "", `${many(region.area)} px`));
  row.cells[4].append(element("small", "", `to ${x1}, ${y1}`));
  for (const kind of ["mouseenter", "focus", "click"]) row.addEventListener(kind, () => markRegion(number));
  for (const kind of ["mouseleave", "blur"]) row.addEventListener(kind, () => markRegion(-1));
  return row;
}

function showDetail(position) {
  current = position;
  const number = chosen[position];
  const photo = index[number];
  const kept = picture(number);
  find("detail-name").textContent = photo.name;
  find("detail-badge").replaceWith(Object.assign(badge(photo), {id: "detail-badge"}));
  find("detail-score").textContent = photo.score === undefined ? "" : `score ${photo.score.toFixed(4)}`;
  find("detail-place").textContent = `${many(position + 1)} of ${many(chosen.length)}`;
  find("previous").disabled = position === 0;
  find("next").disabled = position === chosen.length - 1;
  const drawn = kept?.photo || kept?.map;
  find("stage").hidden = !drawn;
  for (const control of document.querySelectorAll("[data-needs-map]")) control.hidden = !kept?.map;
  find("detail-outlines").hidden = !drawn;
  if (drawn) {
    apply(large);
    large.show({...kept, label: `${photo.name}, ${inWords(photo)}`});
    zoom.reset(kept.width, kept.height);
  }
  const note = photo.state === "error" ? photo.message : kept ? kept.note : "This photo has no picture in this page.";
  find("detail-note").textContent = note;
  find("detail-note").hidden = !note;
  const regions = kept ? kept.regions : [];
  find("regions").replaceChildren(...regions.map((region, i) => regionRow(region, i, kept)));
  find("region-table").hidden = regions.length === 0;
  find("no-regions").hidden = regions.length > 0 || photo.state === "error";
  find("no-regions").textContent = kept ? "No region was outlined." : inWords(photo);
  find("more-regions").textContent = kept?.more ? `and ${kept.more} more, in results.jsonl` : "";
  const lines = !kept ? [] : [
    kept.photo && ["Photo", `${kept.width} × ${kept.height} pixels`],
    kept.seconds != null && ["Models", `${kept.seconds.toFixed(2)} s`],
    kept.sha256 && ["SHA-256", kept.sha256],
  ].filter(Boolean);
  find("detail-facts").replaceChildren(...lines.flatMap(([name, value]) =>
    [element("dt", "", name), element("dd", "number", value)]));
  find("overlay").hidden = !kept?.overlay;
  if (kept?.overlay) find("overlay").href = kept.overlay;
}

function openDetail(position) {
  showDetail(position);
  if (!detail.open) detail.showModal();
}

function step(by) {
  const position = current + by;
  if (position >= 0 && position < chosen.length) showDetail(position);
}

detail.addEventListener("close", () => gallery.focus(current));
detail.addEventListener("click", event => { if (event.target === detail) detail.close(); });
find("previous").addEventListener("click", () => step(-1));
find("next").addEventListener("click", () => step(1));
find("close").addEventListener("click", () => detail.close());

/* ---- controls ---- */

function toggle(name) {
  view[name] = !view[name];
  redraw();
}

function redraw() {
  for (const button of document.querySelectorAll("[data-toggle]")) {
    button.setAttribute("aria-pressed", view[button.dataset.toggle]);
  }
  for (const slider of document.querySelectorAll("[data-opacity]")) {
    slider.value = Math.round(100 * view.opacity);
    slider.disabled = !view.heat;
  }
  apply(large);
  for (const tile of gallery.tiles.values()) if (viewers.has(tile)) apply(viewers.get(tile));
}

for (const button of document.querySelectorAll("[data-toggle]")) {
  button.addEventListener("click", () => toggle(button.dataset.toggle));
}
for (const slider of document.querySelectorAll("[data-opacity]")) {
  slider.addEventListener("input", () => { view.opacity = slider.value / 100; redraw(); });
}
for (const button of document.querySelectorAll("[data-state]")) {
  button.addEventListener("click", () => {
    view.state = button.dataset.state;
    for (const other of document.querySelectorAll("#states [data-state]")) {
      other.setAttribute("aria-pressed", other.dataset.state === view.state);
    }
    choose();
    if (!button.closest("#states")) find("photos").scrollIntoView();
  });
}
find("search").addEventListener("input", event => { view.query = event.target.value; choose(); });
find("type").addEventListener("change", event => { view.type = event.target.value; choose(); });
find("sort").addEventListener("change", event => { view.sort = event.target.value; choose(); });

document.addEventListener("keydown", event => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const typing = event.target.matches("input[type=search], select");
  const sliding = event.target.matches("input[type=range]");
  if (event.key === "Escape" && event.target === find("search")) {
    event.target.value = view.query = "";
    choose();
    event.target.blur();
  } else if (typing) return;
  else if (event.key === "/" && !detail.open) { event.preventDefault(); find("search").focus(); }
  else if (event.key === "h") toggle("heat");
  else if (event.key === "o") toggle("outlines");
  else if (detail.open && "+-".includes(event.key)) zoom.by(event.key === "+" ? 1.5 : 1 / 1.5);
  else if (detail.open && !sliding && event.key === "ArrowRight") step(1);
  else if (detail.open && !sliding && event.key === "ArrowLeft") step(-1);
});

/* ---- light and dark, printing ---- */

const root = document.documentElement;
const stored = {
  get: () => { try { return localStorage.getItem("clipsam-theme"); } catch { return null; } },
  set: value => { try { localStorage.setItem("clipsam-theme", value); } catch { /* a page of a file may not keep it */ } },
};
const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const labelTheme = () => find("theme").setAttribute("aria-label", dark() ? "Light colours" : "Dark colours");

if (stored.get() === "dark" || stored.get() === "light") root.dataset.theme = stored.get();
find("theme").addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  stored.set(root.dataset.theme);
  labelTheme();
});
labelTheme();

find("print").addEventListener("click", () => window.print());
window.addEventListener("beforeprint", () => {
  for (const block of document.querySelectorAll("details")) block.open = true;
  find("printed").textContent = chosen.length > PRINTED
    ? `The first ${PRINTED} of the ${many(chosen.length)} listed photos are printed.` : "";
  gallery.print(PRINTED);
});
window.addEventListener("afterprint", () => gallery.endPrint());

PhotoViewer.legend(find("legend"), facts.threshold);
redraw();
choose();
document.addEventListener("DOMContentLoaded", () => gallery.refresh());  // by now all pictures are here
