'use strict';
/* ---- Numbers as people read them ---- */
const KIB = 1024, MIB = 1048576, GIB = 1073741824, TIB = 1099511627776;

/* As brim's tables write sizes: binary units, named. */
function size(bytes) {
  const b = Math.abs(bytes), sign = bytes < 0 ? '\u2212' : '';
  if (b < 10240) return sign + Math.round(b) + ' B';
  if (b / KIB < 1023.95) return sign + (b / KIB).toFixed(1) + ' KiB';
  if (b / MIB < 1023.95) return sign + (b / MIB).toFixed(1) + ' MiB';
  if (b / GIB < 1023.995) return sign + (b / GIB).toFixed(2) + ' GiB';
  return sign + (b / TIB).toFixed(2) + ' TiB';
}
function count(n) {
  return (n < 0 ? '\u2212' : '') + Math.abs(Math.round(n)).toLocaleString('en-US');
}
function exact(bytes) { return count(bytes) + (Math.abs(bytes) === 1 ? ' byte' : ' bytes'); }
function signed(bytes) { return bytes === 0 ? '0 B' : (bytes > 0 ? '+' : '') + size(bytes); }
function percent(x) { return (x < 0 ? '\u2212' : '') + Math.abs(100 * x).toFixed(Math.abs(x) < .0995 ? 1 : 0) + ' %'; }
function change(x) { return x === 0 ? '\u2013' : (x > 0 ? '+' : '') + percent(x); }
function duration(us) {
  const t = Math.abs(us);
  if (t < 1000) return t.toFixed(0) + ' \u00b5s';
  if (t < 1e6) return (t / 1000).toFixed(t < 1e5 ? 2 : 1) + ' ms';
  return t < 12e7 ? (t / 1e6).toFixed(2) + ' s' : (t / 6e7).toFixed(1) + ' min';
}
function plural(n, one, many) { return count(n) + ' ' + (n === 1 ? one : many || one + 's'); }
function words(name) { return String(name).replace(/_/g, ' '); }
/* Components as the documentation calls them. */
const NAMES = {parameter: 'parameters', frozen: 'frozen parameters', master: 'master weights', optimizer: 'optimizer states', gradient: 'gradients',
  activation: 'activations', activation_gradient: 'activation gradients', temporary: 'temporaries', buffer: 'buffers'};
function people(name) { return NAMES[name] || words(name); }
function signedNumber(x) { return Math.abs(x) < 5e-5 ? '\u2013' : (x < 0 ? '\u2212' : '+') + Math.abs(x).toFixed(4); }
function number(x, digits) { return x === null || !isFinite(x) ? '\u2013' : x.toFixed(digits); }

/* ---- Elements. Text only ever becomes text nodes: names from a log are never read as HTML. ---- */
function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (key === 'style' && typeof value === 'object') { for (const [k, v] of Object.entries(value)) if (v !== null) node.style.setProperty(k, v); }
    else node.setAttribute(key, value === true ? '' : value);
  }
  for (const child of children.flat(3)) if (child !== null && child !== undefined && child !== false) node.append(child);
  return node;
}
function h(tag, attributes, ...children) { return fill(document.createElement(tag), attributes, children); }
function s(tag, attributes, ...children) { return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children); }
/* Like append, but lists are taken apart and what is missing is left out. */
function put(node, ...children) { return fill(node, {}, children); }
let ids = 0;
function unique(prefix) { return prefix + '-' + (++ids); }
function paint(name) { return COLOURS.has(name) ? 'var(--' + name + ')' : 'var(--unknown)'; }
/* Which text can be read on a component's colour. */
function onPaint(name) { return ['parameter', 'master', 'buffer'].includes(name) ? 'on-dark' : 'on-light'; }
const COLOURS = new Set(['parameter', 'frozen', 'master', 'optimizer', 'gradient', 'activation', 'activation_gradient',
  'temporary', 'workspace', 'input', 'buffer', 'gathered', 'communication']);
function swatch(name) { return h('span', {class: 'swatch', style: {background: paint(name)}, 'aria-hidden': 'true'}); }

function table(caption, head, rows, attributes) {
  return h('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption},
    h('table', attributes || {}, h('caption', {}, h('span', {}, caption)),
      h('thead', {}, h('tr', {}, head.map(x => h('th', {scope: 'col'}, x)))),
      h('tbody', {}, rows.map(row => h('tr', {class: row.sum ? 'sum' : null},
        (row.cells || row).map((x, i) => h(i ? 'td' : 'th', i ? {} : {scope: 'row'}, x)))))));
}
/* The same as a table, made when it is opened. */
function asTable(label, make) {
  const box = h('details', {}, h('summary', {}, label));
  box.addEventListener('toggle', () => { if (box.open && box.children.length === 1) box.append(make()); });
  window.addEventListener('beforeprint', () => { if (box.open && box.children.length === 1) box.append(make()); });
  return box;
}
function choice(label, options, value, change) {
  const name = unique('choice');
  return h('fieldset', {class: 'choice'}, h('legend', {}, label), h('div', {class: 'group'},
    options.map(([id, text]) => h('label', {}, h('input', {type: 'radio', name, value: id, checked: id === value,
      onchange: () => change(id)}), text))));
}

/* A long name may break after its dots, and between its words. */
function breakable(text) { return String(text).split(/(?<=\.)(?=\w)|(?<=\w_)(?=[a-z])/).flatMap((part, i) => i ? [h('wbr', {}), part] : [part]); }

/* A figure of the heading. */
function figure(name, big, note, first) {
  return h('div', {class: first ? 'first' : null}, h('dt', {}, name), h('dd', {}, h('span', {class: 'big'}, big), h('span', {class: 'note'}, breakable(note))));
}

/* ---- Labels in a chart ---- */
function fixed(v) { return Math.round(v * 10) / 10; }
/* Texts that must not lie on each other or reach beyond the sides: each is put at the first of its places [x, y, anchor]
 * that is free, and left out when none is; what it says stands in words too. */
function layLabels(width, labels) {
  const laid = [], g = s('g', {});
  for (const {text, places, cls} of labels) {
    const wide = text.length * 7.1 + 6;
    for (const [x, y, anchor] of places) {
      const from = anchor === 'end' ? x - wide : x, box = [from, y - 13, from + wide, y + 4];
      if (box[0] < 0 || box[2] > width || box[1] < 0 || laid.some(o => box[0] < o[2] && o[0] < box[2] && box[1] < o[3] && o[1] < box[3])) continue;
      laid.push(box);
      g.append(s('text', {class: cls || 'strong halo', x: fixed(x), y: fixed(y), 'text-anchor': anchor}, text));
      break;
    }
  }
  return g;
}

/* ---- Axes ---- */
/* Round steps in the unit that suits the largest value: [{value, text}], and the unit. */
function ticks(most, wanted) {
  const unit = most >= 2 * TIB ? TIB : most >= 2 * GIB ? GIB : most >= 2 * MIB ? MIB : most >= 2 * KIB ? KIB : 1;
  const step = niceStep(most / unit / wanted), list = [];
  for (let v = 0; v * unit <= most * 1.0001; v += step) list.push({value: v * unit, text: plainNumber(v)});
  return {list, unit: unit === TIB ? 'TiB' : unit === GIB ? 'GiB' : unit === MIB ? 'MiB' : unit === KIB ? 'KiB' : 'B'};
}
function niceStep(raw) {
  if (!(raw > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(raw)), times = raw / power;
  return power * (times <= 1 ? 1 : times <= 2 ? 2 : times <= 5 ? 5 : 10);
}
function plainNumber(v) { return Number(v.toPrecision(6)).toLocaleString('en-US', {maximumFractionDigits: 4}); }

/* Grid lines and sizes at the left; `y` maps bytes to pixels. */
function sizeAxis(box, most, y) {
  const marks = ticks(most, box.height < 220 ? 3 : 5), g = s('g', {});
  for (const mark of marks.list) {
    g.append(s('line', {class: mark.value ? 'grid' : 'base', x1: box.left, x2: box.left + box.width, y1: y(mark.value), y2: y(mark.value)}),
      s('text', {x: box.left - 8, y: y(mark.value) + 4, 'text-anchor': 'end'}, mark.text));
  }
  g.append(s('text', {x: box.left - 8, y: box.top - 9, 'text-anchor': 'end'}, marks.unit));
  return g;
}

/* Draws once it is in the page (drawNew), and when its width changes; then in the next frame, because a change of size
 * inside the observer's own callback is an error. */
const undrawn = [];
function onResize(node, draw) {
  undrawn.push(draw);
  new ResizeObserver(() => requestAnimationFrame(() => { if (node.isConnected && node.clientWidth) draw(); })).observe(node);
}
function drawNew() { for (const draw of undrawn.splice(0)) draw(); }

/* ---- A chart that the pointer and the keyboard walk along ----
 * One stop for the tab key; to assistive technology a slider whose value is what is written about the moment.
 * `draw(width)` returns the svg; `at(x, y)` the index under the pointer; `show(index, y)` marks it. */
function explorer(options) {
  const node = h('div', {class: 'chart', tabindex: '0', role: 'slider', 'aria-label': options.label,
    'aria-roledescription': 'chart', 'aria-orientation': 'horizontal', 'aria-valuemin': '0'});
  let width = 0, index = -1;
  const self = {node, get index() { return index; }};
  self.draw = () => {
    width = Math.max(280, Math.round(node.clientWidth || width || 900));
    const svg = options.draw(width);
    svg.setAttribute('viewBox', '0 0 ' + width + ' ' + svg.getAttribute('height'));
    svg.removeAttribute('height');
    svg.setAttribute('aria-hidden', 'true');
    node.replaceChildren(svg);
    const [low, high] = options.range();
    node.setAttribute('aria-valuemin', low);
    node.setAttribute('aria-valuemax', high);
    self.go(Math.min(high, Math.max(low, index < 0 ? options.start ? options.start() : high : index)));
  };
  self.go = (to, y) => {
    const [low, high] = options.range();
    if (high < low) return;
    index = Math.min(high, Math.max(low, to));
    options.show(index, y);
    node.setAttribute('aria-valuenow', index);
    node.setAttribute('aria-valuetext', options.text(index));
  };
  self.place = event => {
    const svg = node.firstElementChild, rect = svg.getBoundingClientRect(), scale = width / rect.width;
    return [(event.clientX - rect.left) * scale, (event.clientY - rect.top) * scale];
  };
  node.addEventListener('pointermove', event => {
    const [x, y] = self.place(event);
    if (options.move && options.move(event, x, y)) return;
    self.go(options.at(x, y), y);
  });
  node.addEventListener('pointerdown', event => { const [x, y] = self.place(event); if (options.down) options.down(event, x, y); });
  node.addEventListener('pointerup', event => { const [x, y] = self.place(event); if (options.up) options.up(event, x, y); });
  node.addEventListener('pointerleave', () => { if (options.leave) options.leave(); });
  node.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [low, high] = options.range(), page = Math.max(1, Math.round((high - low) / 20));
    const to = {ArrowLeft: index - 1, ArrowRight: index + 1, PageDown: index + page, PageUp: index - page, Home: low, End: high}[event.key];
    if (options.key && options.key(event)) event.preventDefault();
    else if (to !== undefined) { event.preventDefault(); self.go(to); }
  });
  onResize(node, () => { if (Math.round(node.clientWidth) !== width) self.draw(); });
  return self;
}
