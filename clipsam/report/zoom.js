/* PhotoZoom: look closer at the photo of a PhotoViewer.

   new PhotoZoom(viewer)     the wheel zooms about the pointer, dragging moves, a double click shows all again
     .reset(width, height)   a photo of this size was shown: all of it is in sight
     .by(factor)             zoom about the middle; above 1 is closer
   A drag ends without the click that would pick a region. Fingers zoom the page as they always do. */
"use strict";

class PhotoZoom {
  static CLOSEST = 16;

  constructor(viewer) {
    Object.assign(this, {viewer, svg: viewer.svg, width: 1, height: 1, drag: null});
    this.svg.addEventListener("wheel", event => {
      event.preventDefault();
      this.#about(this.viewer.point(event), 1.2 ** (-event.deltaY / (event.deltaMode ? 3 : 100)));
    }, {passive: false});
    this.svg.addEventListener("dblclick", () => this.reset(this.width, this.height));
    this.svg.addEventListener("pointerdown", event => {
      if (event.button === 0 && event.pointerType !== "touch" && this.scale > 1) {
        this.drag = {from: this.viewer.point(event), x: event.clientX, y: event.clientY, far: false};
      }
    });
    this.svg.addEventListener("pointermove", event => this.#move(event));
    for (const end of ["pointerup", "pointerleave"]) this.svg.addEventListener(end, () => {
      if (this.drag?.far) this.svg.addEventListener("click", stop, {capture: true, once: true});
      setTimeout(() => this.svg.removeEventListener("click", stop, {capture: true}));
      this.drag = null;
    });
    const stop = event => event.stopPropagation();
  }

  reset(width, height) {
    Object.assign(this, {width, height, x: 0, y: 0, scale: 1});
    this.#apply();
  }

  by(factor) {
    this.#about({x: this.x + this.width / this.scale / 2, y: this.y + this.height / this.scale / 2}, factor);
  }

  #about({x, y}, factor) {
    const scale = Math.min(PhotoZoom.CLOSEST, Math.max(1, this.scale * factor));
    this.x = x - (x - this.x) * this.scale / scale;
    this.y = y - (y - this.y) * this.scale / scale;
    this.scale = scale;
    this.#apply();
  }

  #move(event) {
    if (!this.drag) return;
    this.drag.far ||= Math.hypot(event.clientX - this.drag.x, event.clientY - this.drag.y) > 4;
    const {x, y} = this.viewer.point(event);
    this.x += this.drag.from.x - x;
    this.y += this.drag.from.y - y;
    this.#apply();
  }

  /* What is in sight stays within the photo. */
  #apply() {
    const wide = this.width / this.scale, high = this.height / this.scale;
    this.x = Math.min(Math.max(this.x, 0), this.width - wide);
    this.y = Math.min(Math.max(this.y, 0), this.height - high);
    this.svg.setAttribute("viewBox", `${this.x} ${this.y} ${wide} ${high}`);
    this.svg.classList.toggle("closer", this.scale > 1);
  }
}
