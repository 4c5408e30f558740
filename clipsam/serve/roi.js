/* RoiDrawing: polygons drawn on a PhotoViewer, in pixels of the photo.

   new RoiDrawing(viewer)        draws on viewer.layer
     .show(zones)                {include: [[[x, y], ...], ...], ignore: [...]} to look at, or null
     .start(zones) .stop()       drawing on and off; click corners, the first one again (or close()) closes
     .zone = "include"           what the next polygon is; or "ignore"
     .undo() .clear() .close()   .zones gives what is drawn
   Knows nothing of servers. */
"use strict";

class RoiDrawing {
  constructor(viewer) {
    this.viewer = viewer;
    this.zone = "include";
    this.drawing = false;
    this.zones = {include: [], ignore: []};
    this.open = [];
    viewer.svg.addEventListener("click", event => { if (this.drawing) this.#corner(event); });
  }

  show(zones) {
    this.zones = {include: [...(zones?.include ?? [])], ignore: [...(zones?.ignore ?? [])]};
    this.open = [];
    this.#draw();
  }

  start(zones) {
    this.drawing = true;
    this.viewer.svg.classList.add("drawing");
    this.show(zones);
  }

  stop() {
    this.drawing = false;
    this.viewer.svg.classList.remove("drawing");
    this.open = [];
    this.#draw();
  }

  undo() {
    if (this.open.length) this.open.pop();
    else (this.zones[this.zone].length ? this.zones[this.zone] : this.zones.include).pop();
    this.#draw();
  }

  clear() { this.show(null); }

  close() {
    if (this.open.length >= 3) this.zones[this.zone].push(this.open);
    this.open = [];
    this.#draw();
  }

  #corner(event) {
    const [width, height] = this.size;
    const {x, y} = this.viewer.point(event);
    const corner = [Math.min(width, Math.max(0, Math.round(x))), Math.min(height, Math.max(0, Math.round(y)))];
    const [first] = this.open;
    if (first && this.open.length >= 3 && Math.hypot(first[0] - x, first[1] - y) < 3 * this.#radius) this.close();
    else {
      this.open.push(corner);
      this.#draw();
    }
  }

  get size() {
    const {width, height} = this.viewer.svg.viewBox.baseVal;
    return [width, height];
  }

  get #radius() {
    const matrix = this.viewer.svg.getScreenCTM();
    return 5 / (matrix ? matrix.a : 1);
  }

  #draw() {
    const shapes = ["include", "ignore"].flatMap(zone => this.zones[zone].map(polygon =>
      PhotoViewer.make("polygon", {class: `zone ${zone}`, points: polygon.join(" ")})));
    if (this.open.length) {
      shapes.push(PhotoViewer.make("polyline", {class: `zone open ${this.zone}`, points: this.open.join(" ")}));
      shapes.push(...this.open.map(([x, y]) => PhotoViewer.make("circle", {class: "corner", cx: x, cy: y, r: this.#radius})));
    }
    this.viewer.layer.replaceChildren(...shapes);
  }
}
