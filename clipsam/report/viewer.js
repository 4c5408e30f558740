/* PhotoViewer: a photo with its heat map and the outlines of its regions, as one SVG that fits its host.

   new PhotoViewer(host, {threshold})      host: an element with a size; threshold of the map, in [0, 1]
     .show({width, height, photo, map, regions, label})
        width, height   of the photo in pixels; all drawing is in these pixels
        photo, map      addresses (data:, blob: or of the same origin) or null; the map is 8-bit grey on the
                        fixed scale 0 = 0 to 255 = 1, of any size
        regions         [{path, score, defect}], path: SVG path data in pixels of the photo, or null
     .setHeat(on) .setOutlines(on) .setOpacity(0..1) .setThreshold(0..1) .mark(index or null)
     .onpick = index => {}                a region was clicked
     .layer                               an empty <g> on top, for drawing of one's own (a ROI)
     .point(event)                        {x, y} of a pointer event in pixels of the photo
   PhotoViewer.legend(host, threshold)    the colours of the heat map, with the threshold marked

   The grey map is coloured by an SVG filter: the browser smooths it first and colours it then, on a scale that
   is the same for all photos. Knows nothing of runs, files and servers. */
"use strict";

class PhotoViewer {
  static SVG = "http://www.w3.org/2000/svg";
  // Colours of the map from 0 to 1 (those of matplotlib's "plasma": equal steps look equal, also to the colour-blind).
  static HEAT = [[13, 8, 135], [84, 2, 163], [139, 10, 165], [185, 50, 137], [219, 92, 104], [244, 136, 73],
                 [254, 188, 43], [240, 249, 33]];
  // Colours of an outline by its score: those of the overlays in a run folder.
  static SCORE = [[0, [255, 214, 64]], [0.5, [255, 196, 40]], [0.75, [255, 120, 24]], [1, [246, 30, 84]]];

  constructor(host, {threshold = 0.5} = {}) {
    this.onpick = null;
    this.svg = PhotoViewer.make("svg", {class: "viewer", preserveAspectRatio: "xMidYMid meet", role: "img"});
    this.photo = PhotoViewer.make("image", {class: "photo", x: 0, y: 0});
    this.map = PhotoViewer.make("image", {class: "heat", x: 0, y: 0, preserveAspectRatio: "none"});
    this.outlines = PhotoViewer.make("g", {class: "outlines"});
    this.layer = PhotoViewer.make("g", {class: "layer"});
    this.svg.append(this.photo, this.map, this.outlines, this.layer);
    this.setThreshold(threshold);
    this.svg.addEventListener("click", event => {
      const group = event.target.closest(".outlines > g");
      if (group && this.onpick) this.onpick([...this.outlines.children].indexOf(group));
    });
    host.replaceChildren(this.svg);
  }

  show({width, height, photo = null, map = null, regions = [], label = ""}) {
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("aria-label", label);
    for (const [image, source] of [[this.photo, photo], [this.map, map]]) {
      image.setAttribute("width", width);
      image.setAttribute("height", height);
      if (source) image.setAttribute("href", source);
      else image.removeAttribute("href");
    }
    this.svg.classList.toggle("pickable", this.onpick !== null);
    this.outlines.replaceChildren(...regions.map(region => this.#outline(region)));
  }

  setHeat(on) { this.svg.classList.toggle("no-heat", !on); }
  setOutlines(on) { this.svg.classList.toggle("no-outlines", !on); }
  setOpacity(opacity) { this.svg.style.setProperty("--heat", opacity); }
  setThreshold(threshold) { this.map.setAttribute("filter", PhotoViewer.filter(threshold)); }

  mark(index) {
    [...this.outlines.children].forEach((group, i) => group.classList.toggle("marked", i === index));
  }

  point(event) {
    const {x, y} = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    return {x, y};
  }

  #outline({path, score, defect}) {
    const group = PhotoViewer.make("g");
    if (!path) return group;
    const title = PhotoViewer.make("title");
    title.textContent = `${defect} ${score.toFixed(2)}`;
    const edge = PhotoViewer.make("path", {class: "edge", d: path, stroke: PhotoViewer.colour(score)});
    const rest = ["rim", "hit"].map(name => PhotoViewer.make("path", {class: name, d: path}));
    group.append(title, rest[0], edge, rest[1]);
    return group;
  }

  static make(name, attributes = {}) {
    const element = document.createElementNS(PhotoViewer.SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  static colour(score) {
    const stops = PhotoViewer.SCORE;
    const above = Math.max(1, stops.findIndex(([at]) => at >= score));
    const [[low, from], [high, to]] = [stops[above - 1], stops[above]];
    const part = Math.min(1, Math.max(0, (score - low) / (high - low)));
    return `rgb(${from.map((value, i) => Math.round(value + part * (to[i] - value))).join(" ")})`;
  }

  /* The address of the filter for a threshold; made once for each. Clear up to half the threshold, then
     stronger up to the threshold, above which the map covers as much as the opacity asks for. */
  static filter(threshold) {
    const id = `heat-${Math.round(1000 * threshold)}`;
    if (!document.getElementById(id)) {
      const svg = PhotoViewer.make("svg", {width: 0, height: 0, "aria-hidden": "true"});
      svg.style.position = "absolute";
      const box = {id, x: 0, y: 0, width: 1, height: 1, "color-interpolation-filters": "sRGB"};
      const filter = PhotoViewer.make("filter", box);
      const alpha = "1 0 0 0 0  1 0 0 0 0  1 0 0 0 0  1 0 0 0 0";
      const transfer = PhotoViewer.make("feComponentTransfer");
      ["R", "G", "B"].forEach((name, i) => {
        const values = PhotoViewer.HEAT.map(colour => (colour[i] / 255).toFixed(3)).join(" ");
        transfer.append(PhotoViewer.make(`feFunc${name}`, {type: "table", tableValues: values}));
      });
      const half = Math.max(threshold, 0.02) / 2;
      const cover = Array.from({length: 65}, (_, i) => Math.min(1, Math.max(0, (i / 64 - half) / half)).toFixed(3));
      transfer.append(PhotoViewer.make("feFuncA", {type: "table", tableValues: cover.join(" ")}));
      filter.append(PhotoViewer.make("feColorMatrix", {type: "matrix", values: alpha}), transfer);
      svg.append(filter);
      document.body.append(svg);
    }
    return `url(#${id})`;
  }

  static legend(host, threshold) {
    const svg = PhotoViewer.make("svg", {class: "viewer-legend", viewBox: "0 0 260 34", role: "img",
      "aria-label": `Colours of the heat map from 0 to 1, the threshold at ${threshold.toFixed(2)}`});
    const ramp = PhotoViewer.make("linearGradient", {id: "heat-ramp"});
    ramp.append(PhotoViewer.make("stop", {offset: 0, "stop-color": "#000"}),
      PhotoViewer.make("stop", {offset: 1, "stop-color": "#fff"}));
    ramp.setAttribute("color-interpolation", "sRGB");
    const bar = PhotoViewer.make("rect", {x: 0, y: 4, width: 260, height: 12, fill: "url(#heat-ramp)"});
    bar.setAttribute("filter", PhotoViewer.filter(threshold));
    const line = PhotoViewer.make("line", {x1: 260 * threshold, x2: 260 * threshold, y1: 0, y2: 20});
    const texts = [[0, "start", "0"], [threshold, "middle", threshold.toFixed(2)], [1, "end", "1"]];
    svg.append(ramp, bar, line, ...texts.map(([at, anchor, text]) => {
      const label = PhotoViewer.make("text", {x: 260 * at, y: 32, "text-anchor": anchor});
      label.textContent = text;
      return label;
    }));
    host.replaceChildren(svg);
  }
}
