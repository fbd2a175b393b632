/* ---- What the peak is made of: a treemap by layer and component ---- */
/* "model.layers.3.mlp.up_proj" belongs to the layer "model.layers.3"; without a number the place is its own. */
function layerOf(place) {
  const parts = place.split('.'), at = parts.findIndex(p => /^\d+$/.test(p));
  return at < 0 ? place : parts.slice(0, at + 1).join('.');
}

function makeTree(run) {
  const root = {name: '', path: '', bytes: 0, by: new Map(), children: new Map(), tensors: []};
  const add = (node, t, c) => {
    node.bytes += t.bytes;
    node.by.set(c, (node.by.get(c) || 0) + t.bytes);
  };
  const child = (node, path, name) => {
    if (!node.children.has(path)) node.children.set(path, {name, path, bytes: 0, by: new Map(), children: new Map(), tensors: []});
    return node.children.get(path);
  };
  for (const t of liveAt(run, run.peakEvent)) {
    const c = componentAt(t, run.peakEvent), place = run.places[t.place] === undefined ? 'unknown' : run.places[t.place], layer = layerOf(place);
    const first = child(root, layer, layer || 'the model itself');
    const second = child(first, place, place === layer ? 'itself' : place.slice(layer.length + 1));
    for (const node of [root, first, second]) add(node, t, c);
    second.tensors.push([t, c]);
  }
  return root;
}
function bySize(nodes) { return [...nodes].sort((a, b) => b.bytes - a.bytes); }

/* Squarified (Bruls, Huizing, van Wijk 2000): rows along the shorter side as long as that makes rectangles less long. */
function squarify(items, x, y, w, height) {
  const placed = [], list = items.filter(item => item.bytes > 0), sum = list.reduce((a, b) => a + b.bytes, 0);
  if (!sum || w <= 0 || height <= 0) return placed;
  const scale = w * height / sum;
  let at = 0;
  while (at < list.length) {
    const short = Math.min(w, height);
    let rowSum = 0, worst = Infinity, end = at;
    while (end < list.length) {
      const sumWith = rowSum + list[end].bytes * scale, most = list[at].bytes * scale, least = list[end].bytes * scale;
      const ratio = Math.max(short * short * most / (sumWith * sumWith), sumWith * sumWith / (short * short * least));
      if (ratio > worst) break;
      worst = ratio; rowSum = sumWith; end++;
    }
    const thick = rowSum / short;
    let along = 0;
    for (; at < end; at++) {
      const long = list[at].bytes * scale / thick;
      placed.push(w >= height ? {item: list[at], x, y: y + along, w: thick, h: long} : {item: list[at], x: x + along, y, w: long, h: thick});
      along += long;
    }
    if (w >= height) { x += thick; w -= thick; } else { y += thick; height -= thick; }
  }
  return placed;
}

function treemap(run) {
  const section = h('section', {id: 'composition', 'aria-labelledby': 'composition-title'},
    h('h2', {id: 'composition-title'}, 'What the peak is made of'));
  if (run.peakEvent < 0) return section;
  const root = makeTree(run), map = h('div', {class: 'map', role: 'group', 'aria-label': 'Bytes at the peak by layer and component'});
  const crumbs = h('div', {class: 'crumbs'}), readout = h('p', {class: 'readout'});
  let node = root, width = 0;
  function go(to, focus) {
    node = to;
    draw();
    if (focus) (crumbs.querySelector('button') || map.querySelector('button') || map).focus();
  }
  function draw() {
    width = map.clientWidth || 900;
    const height = map.clientHeight || 460;
    crumbs.replaceChildren(...(node === root ? [h('span', {}, 'All layers, ' + size(root.bytes)), h('span', {class: 'hint'}, 'A click on a layer opens it.')]
      : [h('button', {class: 'plain', type: 'button', onclick: () => go(root, true)}, '\u2190 All layers'), h('span', {}, node.name + ', ' + size(node.bytes))]));
    map.replaceChildren(...squarify(bySize(node.children.values()), 0, 0, width, height).map(place => tile(place)));
    readout.textContent = 'At ' + when(run, run.peakEvent) + ': ' + describe(node);
  }
  function describe(of) {
    return [...of.by].sort((a, b) => b[1] - a[1]).map(([c, bytes]) => componentName(run, c) + ' ' + size(bytes)).join(', ');
  }
  function tile({item, x, y, w, h: tall}) {
    const opens = node === root && item.children.size > 1, named = w > 46 && tall > 34, head = named ? 20 : 0, gap = w > 8 && tall > 8 ? 1.5 : .5;
    const share = percent(item.bytes / root.bytes);
    const parts = node === root ? [...item.by].map(([c, bytes]) => ({c, bytes})) : item.tensors.map(([t, c]) => ({c, t, bytes: t.bytes}));
    const cells = squarify(bySize(parts), 0, head, w - 2 * gap, tall - 2 * gap - head).map(cell => h('span', {class: 'cell ' + onPaint(run.components[cell.item.c]), 'aria-hidden': 'true',
      style: {left: 100 * cell.x / (w - 2 * gap) + '%', top: cell.y + 'px', width: 'calc(' + 100 * cell.w / (w - 2 * gap) + '% - ' + Math.min(1, cell.w / 2) + 'px)', height: Math.max(.5, cell.h - 1) + 'px', background: paint(run.components[cell.item.c]), padding: cell.w > 40 && cell.h > 24 ? null : '0'}}, cell.w > 66 && cell.h > 26 ? cellText(cell) : null));
    const text = item.name + ', ' + size(item.bytes) + ', ' + share + ': ' + describe(item);
    const tell = () => { readout.replaceChildren(h('b', {}, item.name + ' ' + size(item.bytes)), ' (' + share + '): ' + describe(item)); };
    return h(opens ? 'button' : 'div', {class: 'tile', type: opens ? 'button' : null, role: opens ? null : 'img', tabindex: opens ? null : '0',
      'aria-label': text + (opens ? '. Opens.' : ''), onclick: opens ? () => go(item, true) : null, onpointerenter: tell, onfocus: tell,
      style: {left: 'calc(' + 100 * x / width + '% + ' + gap + 'px)', top: y + gap + 'px', width: 'calc(' + 100 * w / width + '% - ' + 2 * gap + 'px)', height: tall - 2 * gap + 'px'}},
      named ? h('span', {class: 'name', 'aria-hidden': 'true'}, item.name, w > 90 ? h('small', {}, size(item.bytes)) : null) : null, cells);
  }
  function cellText({item, w, h: tall}) {
    const name = item.t && item.t.op ? opName(run, item.t.op) : componentName(run, item.c);
    return tall > 42 && name.length * 6.6 + 12 < w ? [name, h('br', {}), size(item.bytes)] : size(item.bytes);
  }
  map.addEventListener('keydown', event => { if (event.key === 'Escape' && node !== root) { event.preventDefault(); go(root, true); } });
  onResize(map, () => { if (map.clientWidth !== width) draw(); });
  const there = run.order.filter(c => root.by.get(c) > 0);
  const peakElsewhere = run.total[run.peakEvent] !== run.books.peak_bytes;
  put(section,
    h('p', {class: 'lead'}, 'Every byte live at the highest moment, by the layer that owns it. Areas are bytes; colours are components.' +
      (peakElsewhere ? ' This is the highest moment of the logged events; the run\u2019s own peak, ' + size(run.books.peak_bytes) + ', was outside them.' : '')),
    h('div', {class: 'controls'}, crumbs), map, readout, legend(run, there),
    asTable('The layers as a table', () => table('Bytes at the peak by layer', ['layer', ...there.map(c => componentName(run, c)), 'together', 'share'],
      bySize(root.children.values()).map(item => [item.name, ...there.map(c => item.by.has(c) ? size(item.by.get(c)) : '\u2013'), size(item.bytes), percent(item.bytes / root.bytes)])
        .concat([{sum: true, cells: ['all', ...there.map(c => size(root.by.get(c))), size(root.bytes), '100 %']}]))));
  section.probe = {map, go, root};
  return section;
}
function legend(run, components) {
  return h('ul', {class: 'legend'}, components.map(c => h('li', {}, swatch(run.components[c]), componentName(run, c))));
}
