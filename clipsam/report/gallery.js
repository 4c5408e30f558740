/* Gallery: a grid of tiles of one size, of which only those near the window are in the page.

   new Gallery(host, {fill, open})
     fill(tile, item)      puts the content of an item into an empty <button>
     open(position)        a tile was chosen by click or Enter
   .show(items)            the items, in order; back to the first
   .refresh()              fill all visible tiles anew
   .focus(position)        bring a tile into view and give it the focus
   .print(most)            put the first tiles into the page, for printing; .show or .place ends it
   Arrow keys, Home, End, Page Up and Page Down move; one tile is a stop of the Tab key. Knows nothing of photos. */
"use strict";

class Gallery {
  static GAP = 14;
  static ROWS_AROUND = 2;

  constructor(host, {fill, open}) {
    Object.assign(this, {host, fill, open, items: [], tiles: new Map(), cursor: 0, columns: 1, width: 0});
    host.addEventListener("click", event => {
      const tile = event.target.closest(".tile");
      if (!tile) return;
      this.cursor = Number(tile.dataset.position);
      this.open(this.cursor);
    });
    host.addEventListener("keydown", event => this.#key(event));
    host.addEventListener("focusin", event => this.#move(Number(event.target.closest(".tile").dataset.position)));
    let waiting = false;
    const soon = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; this.place(); });
    };
    window.addEventListener("scroll", soon, {passive: true});
    window.addEventListener("resize", soon);
    new ResizeObserver(soon).observe(host);
  }

  show(items) {
    this.items = items;
    this.cursor = 0;
    this.clear();
    this.place();
  }

  refresh() {
    this.clear();
    this.place();
  }

  clear() {
    this.tiles.clear();
    this.host.replaceChildren();
  }

  /* Measure, and have just the tiles in the page that are near the window (and the one with the focus). */
  place() {
    if (this.printing) return;
    this.#measure();
    const {top} = this.host.getBoundingClientRect();
    const first = Math.floor(-top / this.step) - Gallery.ROWS_AROUND;
    const last = Math.floor((innerHeight - top) / this.step) + Gallery.ROWS_AROUND;
    this.#fillRange(first * this.columns, (last + 1) * this.columns);
  }

  print(most) {
    this.#measure();
    this.#fillRange(0, most);
    this.printing = true;
  }

  endPrint() {
    this.printing = false;
    this.place();
  }

  focus(position) {
    this.#move(Math.max(0, Math.min(position, this.items.length - 1)));
    this.place();
    const tile = this.tiles.get(this.cursor);
    if (!tile) return;
    tile.focus({preventScroll: true});
    tile.scrollIntoView({block: "nearest"});
    this.place();
  }

  #measure() {
    const width = this.host.clientWidth;
    const narrowest = width < 620 ? 150 : 220;
    this.columns = Math.max(1, Math.floor((width + Gallery.GAP) / (narrowest + Gallery.GAP)));
    const tile = (width - Gallery.GAP * (this.columns - 1)) / this.columns;
    const height = Math.round(0.78 * tile) + 68;
    this.step = height + Gallery.GAP;
    const rows = Math.ceil(this.items.length / this.columns);
    this.host.style.height = `${Math.max(0, rows * this.step - Gallery.GAP)}px`;
    if (width === this.width && tile === this.tile) return;
    Object.assign(this, {width, tile, height});
    for (const [position, element] of this.tiles) this.#put(element, position);
  }

  #fillRange(from, to) {
    const start = Math.max(0, from), end = Math.min(this.items.length, to);
    for (const [position, element] of this.tiles) {
      if ((position < start || position >= end) && position !== this.cursor) {
        element.remove();
        this.tiles.delete(position);
      }
    }
    for (let position = start; position < end; position++) this.#tile(position);
    if (this.items.length) this.#tile(this.cursor);
  }

  #tile(position) {
    if (this.tiles.has(position)) return;
    const element = document.createElement("button");
    element.type = "button";
    element.className = "tile";
    element.dataset.position = position;
    element.tabIndex = position === this.cursor ? 0 : -1;
    this.fill(element, this.items[position]);
    this.#put(element, position);
    this.tiles.set(position, element);
    // In the order of the items, also for those who read the page by ear.
    const next = [...this.tiles.keys()].filter(other => other > position).sort((a, b) => a - b)[0];
    this.host.insertBefore(element, this.tiles.get(next) ?? null);
  }

  #put(element, position) {
    const row = Math.floor(position / this.columns), column = position % this.columns;
    element.style.width = `${this.tile}px`;
    element.style.height = `${this.height}px`;
    element.style.transform = `translate(${column * (this.tile + Gallery.GAP)}px, ${row * this.step}px)`;
  }

  #move(position) {
    const before = this.tiles.get(this.cursor);
    if (before) before.tabIndex = -1;
    this.cursor = position;
    const now = this.tiles.get(position);
    if (now) now.tabIndex = 0;
  }

  #key(event) {
    const page = this.columns * Math.max(1, Math.floor(innerHeight / this.step));
    const steps = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns,
      PageDown: page, PageUp: -page, Home: -this.items.length, End: this.items.length};
    if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const target = this.cursor + steps[event.key];
    const outside = target < 0 || target >= this.items.length;
    if (outside && event.key.startsWith("Arrow")) return;
    this.focus(target);
  }
}
