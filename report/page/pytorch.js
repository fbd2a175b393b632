/* ---- What a job of PyTorch would need, beside brim's own plan: brim plan --framework pytorch --html ---- */
/* PyTorch's kinds from the bottom of a stack, and the colour of brim's component that is the same thing. */
const KINDS = [['parameters', 'parameter'], ['frozen parameters', 'frozen'], ['casts of weights', 'master'], ['optimizer states', 'optimizer'],
  ['gradients', 'gradient'], ['activations', 'activation'], ['temporaries', 'temporary'], ['workspaces', 'workspace'], ['buckets of ranks', 'communication'], ['inputs', 'input'], ['buffers', 'buffer']];
const COMPONENTS = ['parameter', 'frozen', 'master', 'optimizer', 'gradient', 'activation', 'activation_gradient', 'temporary', 'workspace', 'input', 'buffer'];
const colourOf = kind => (KINDS.find(k => k[0] === kind) || ['', 'unknown'])[1];
const kindKey = kind => kind.replace(/ /g, '_');

function read() {
  const element = document.getElementById('plan'), plan = JSON.parse(element.textContent), p = plan.pytorch, page = plan.page;
  element.remove();
  /* The bars from the bottom up: what each holds at its own peak. */
  plan.bars = [{name: 'PyTorch', sum: p.requested_bytes, parts: KINDS.map(([name, colour]) => ({name, colour, bytes: p.at_peak[kindKey(name)] || 0}))}];
  const memory = plan.brim.memory;
  if (memory) plan.bars.unshift({name: 'brim', sum: memory.peak_bytes,
    parts: COMPONENTS.map(name => ({name: people(name), colour: name, bytes: memory.components[name] ? memory.components[name].at_peak : 0}))});
  for (const bar of plan.bars) bar.parts = bar.parts.filter(part => part.bytes > 0);
  plan.points = page.points.map(row => ({by: KINDS.map(([name]) => row[page.kinds.indexOf(name)]), allocated: row[row.length - 3], reserved: row[row.length - 2], span: page.spans[row[row.length - 1]]}));
  plan.spans = page.spans.map((span, i) => ({...span, to: i + 1 < page.spans.length ? page.spans[i + 1].first : plan.points.length}));
  plan.peak = plan.points.reduce((best, point, i) => point.allocated > plan.points[best].allocated ? i : best, 0);
  return plan;
}

/* ---- Words ---- */
function place(at) {
  return [at.layer === null ? null : 'layers.' + at.layer, at.module].filter(Boolean).join('.') || 'the model itself';
}
function momentName(span, long) {
  if (span.phase === 'model') return long ? 'the model is made' : 'model';
  if (span.phase === 'optimizer') return long ? 'the optimizer is made' : 'optimizer';
  return (span.phase === 'evaluate' ? 'evaluation' : 'step ' + span.step + ', ' + span.phase);
}

function verdictText(plan) {
  const p = plan.pytorch, limit = plan.page.limit_bytes;
  if (p.verdict.answer === 'fits') return 'It reserves ' + size(p.reserved_bytes) + ' of the ' + size(limit) + ' that there are beside the context.';
  return plan.page.verdict.replace(/^It (fits|does not fit)[,:.]? */, '').replace(/^./, c => c.toUpperCase()) + ' There are ' + size(limit) + ' beside the context.';
}
function heading(plan) {
  const p = plan.pytorch, page = plan.page, at = p.peak_at, brim = plan.brim.memory, verdict = p.verdict;
  const figures = [figure('Requested', size(p.requested_bytes), exact(p.requested_bytes), true),
    figure('Allocated', size(p.allocated_bytes), 'in blocks; what must fit'),
    figure('Reserved', size(p.reserved_bytes), 'in segments; nvidia-smi shows it and the context'),
    figure('Peak at', at.phase, (at.step ? 'step ' + at.step + ', ' : '') + place(at) + ', ' + at.op)];
  if (brim) figures.push(figure('brim needs', size(brim.needs_bytes), 'for the same training, planned'));
  return [h('p', {class: 'brand'}, h('b', {}, 'brim'), ' what PyTorch would need'), h('h1', {}, plan.model),
    h('p', {class: 'facts'}, (plan.parameters ? count(plan.parameters) + ' parameters \u00b7 ' : '') + page.title.split(/ {2,}/).join(' \u00b7 ')),
    h('p', {class: 'facts'}, 'Predicted for torch ' + p.versions.torch + ', transformers ' + p.versions.transformers + ' on ' + page.on + '.'),
    h('p', {class: 'command'}, h('code', {}, 'brim ' + page.command.join(' '))),
    p.unverified ? h('p', {class: 'notice', role: 'note'}, 'Unverified: ' + p.unverified + '.') : null,
    plan.brim.error ? h('p', {class: 'notice', role: 'note'}, 'Without brim\u2019s own plan beside it: ' + plan.brim.error + '.') : null,
    verdict ? h('p', {class: 'headline'}, h('b', {class: verdict.fits ? 'better' : 'worse'}, verdict.fits ? 'Fits. ' : 'Does not fit. '), verdictText(plan)) : null,
    h('dl', {class: 'figures'}, figures)];
}

/* ---- Bar beside bar ---- */
function barChart(plan) {
  const node = h('div', {class: 'chart'}), p = plan.pytorch;
  let drawn = 0;
  const draw = () => {
    const width = drawn = Math.max(260, Math.round(node.clientWidth || 420)), height = 430, box = {left: 48, top: 34, width: width - 56, height: height - 34 - 34};
    const most = 1.03 * Math.max(p.reserved_bytes, ...plan.bars.map(b => b.sum)), y = v => box.top + box.height * (1 - v / most);
    const svg = s('svg', {viewBox: '0 0 ' + width + ' ' + height, role: 'img', 'aria-label': plan.bars.map(bar => bar.name + ': ' + bar.parts.map(x => x.name + ' ' + size(x.bytes)).join(', ')).join('. ')});
    svg.append(sizeAxis(box, most, y));
    const room = box.width / plan.bars.length, wide = Math.min(170, room * .72), links = s('g', {}), tops = [];
    plan.bars.forEach((bar, i) => {
      const x = box.left + room * (i + .5) - wide / 2;
      let below = 0;
      tops.push({});
      for (const part of bar.parts) {
        const from = y(below + part.bytes), tall = y(below) - from;
        svg.append(s('rect', {class: 'part', x: fixed(x), y: fixed(from), width: fixed(wide), height: Math.max(.4, fixed(tall) - (tall > 3 ? 1 : 0)), style: {fill: paint(part.colour)}},
          s('title', {}, part.name + ' ' + size(part.bytes))));
        if (tall > 15) svg.append(s('text', {class: 'inside ' + onPaint(part.colour), x: fixed(x + wide / 2), y: fixed(from + tall / 2 + 4), 'text-anchor': 'middle'},
          wide > 7 * (part.name.length + 11) ? part.name + ' ' + size(part.bytes) : size(part.bytes)));
        tops[i][part.colour] = [from, y(below), x];
        below += part.bytes;
      }
      if (bar.name === 'PyTorch') svg.append(s('rect', {class: 'full', x: fixed(x), y: fixed(y(p.reserved_bytes)), width: fixed(wide), height: fixed(y(bar.sum) - y(p.reserved_bytes))}));
      svg.append(s('text', {class: 'strong', x: fixed(x + wide / 2), y: height - 12, 'text-anchor': 'middle'}, bar.name + ' ' + size(bar.sum)));
    });
    /* What is the same in both leans from one bar to the other. */
    if (tops.length > 1) for (const [colour, [from, to, x]] of Object.entries(tops[0])) {
      const other = tops[1][colour];
      if (other) links.append(s('path', {d: 'M' + fixed(x + wide) + ' ' + fixed(from) + 'L' + fixed(other[2]) + ' ' + fixed(other[0]) + 'V' + fixed(other[1]) + 'L' + fixed(x + wide) + ' ' + fixed(to) + 'Z', style: {fill: paint(colour), 'fill-opacity': '.16'}}));
    }
    const x = box.left + room * (plan.bars.length - .5), over = y(p.reserved_bytes);
    svg.append(links, s('text', {class: 'halo', x: fixed(x), y: fixed(over - 6), 'text-anchor': 'middle'}, 'reserved ' + size(p.reserved_bytes)));
    node.replaceChildren(svg);
  };
  onResize(node, () => { if (Math.round(node.clientWidth) !== drawn) draw(); });
  return node;
}

/* From brim's peak to PyTorch's, a row a difference: bars that begin where the last one ended. */
function differences(plan) {
  const p = plan.pytorch, start = plan.brim.memory.peak_bytes, list = [];
  /* The last row takes what is too small to be seen. */
  p.differences.forEach((row, i) => {
    const last = i === p.differences.length - 1, small = list.small || 0;
    if (Math.abs(row.bytes) < p.requested_bytes / 2000 && !last) list.small = small + row.bytes;
    else if (row.bytes || (last && small)) list.push({...row, bytes: row.bytes + (last ? small : 0)});
  });
  let at = start, most = Math.max(start, p.requested_bytes), least = start;
  for (const row of list) { row.from = at; at += row.bytes; most = Math.max(most, at); least = Math.min(least, at); }
  least = Math.max(0, least - (most - least) * .25);
  const share = v => 100 * Math.max(0, v - least) / (most - least);
  const bar = (from, to, cls) => h('span', {class: 'span ' + cls, style: {left: share(Math.min(from, to)) + '%', width: Math.max(.3, Math.abs(share(to) - share(from))) + '%'}});
  const line = (name, why, shown, value, cls) => h('tr', {class: cls || null}, h('th', {scope: 'row'}, name, why ? h('span', {class: 'why'}, why) : null), h('td', {class: 'spans', 'aria-hidden': 'true'}, shown), h('td', {}, value));
  return h('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'From brim\u2019s peak to PyTorch\u2019s'}, h('table', {class: 'falls'},
    h('caption', {}, h('span', {}, 'From brim\u2019s peak to PyTorch\u2019s, by the operation and the module of each allocation.' + (least > 0 ? ' The bars begin at ' + size(least) + '.' : ''))),
    h('tbody', {}, line('brim\u2019s peak', '', bar(least, start, 'whole'), size(start), 'sum'),
      list.map(row => line(row.name, row.why, bar(row.from, row.from + row.bytes, row.bytes < 0 ? 'less' : 'more-of'), signed(row.bytes))),
      line('PyTorch requests', '', bar(least, p.requested_bytes, 'whole'), size(p.requested_bytes), 'sum'))));
}

function legendOf(parts) { return h('ul', {class: 'legend'}, parts.map(part => h('li', {}, swatch(part.colour), part.name))); }

function sideBySide(plan) {
  const both = plan.bars.length > 1, seen = new Map();
  for (const bar of plan.bars) for (const part of bar.parts) if (part.bytes > bar.sum / 1000) seen.set(part.colour, part);
  const section = h('section', {id: 'bars', 'aria-labelledby': 'bars-title'}, h('h2', {id: 'bars-title'}, both ? 'The same training in brim and in PyTorch' : 'What is alive at the peak'),
    h('p', {class: 'lead'}, both ? 'Each at its own peak. What a tensor is, is the same in both; when it comes and goes, and what is kept for backward, is not.' : 'Each byte by what it is for.'));
  const chart = h('div', {}, barChart(plan), legendOf(KINDS.concat([['activation gradients', 'activation_gradient']]).map(([name, colour]) => ({name, colour})).filter(x => seen.has(x.colour))));
  section.append(both ? h('div', {class: 'pair', style: {'margin-top': '18px'}}, chart, differences(plan)) : chart);
  section.append(asTable('The bars as a table', () => table('Bytes at the peak of each', ['component', ...plan.bars.map(b => b.name)],
    [...seen.values()].map(part => [h('span', {class: 'keyed'}, swatch(part.colour), part.name), ...plan.bars.map(b => { const own = b.parts.find(x => x.colour === part.colour); return own ? size(own.bytes) : '\u2013'; })])
      .concat([{sum: true, cells: ['sum', ...plan.bars.map(b => size(b.sum))]}]))));
  return section;
}

/* ---- Two steps ---- */
const PHASE_COLOUR = {forward: 1, backward: 2, clip: 4, step: 3, evaluate: 5};
const PHASE_SHORT = {forward: 'fwd', backward: 'bwd', optimizer: 'opt', evaluate: 'eval', model: 'load'};

function drawCourse(plan, view, width) {
  const {points} = plan, narrow = width < 560, height = narrow ? 330 : 440, box = view.box = {left: narrow ? 44 : 56, top: 58, width: width - (narrow ? 52 : 68), height: height - 58 - 32};
  const range = points.slice(view.from, view.to), limit = plan.page.limit_bytes;
  let most = Math.max(...range.map(point => point.reserved));
  const shown = limit !== null && limit <= 1.6 * most;
  most = 1.04 * (shown ? Math.max(most, limit) : most);
  view.x = i => box.left + box.width * (i - view.from) / (view.to - view.from);
  view.y = v => box.top + box.height * (1 - v / most);
  const svg = s('svg', {height}), below = new Float64Array(range.length);
  for (const span of plan.spans) {
    const from = Math.max(span.first, view.from), to = Math.min(span.to, view.to);
    if (from >= to) continue;
    const x0 = view.x(from), x1 = view.x(to), wide = x1 - x0, label = [span.phase, PHASE_SHORT[span.phase]].find(text => text && wide > 6.6 * text.length + 6);
    svg.append(s('rect', {x: fixed(x0), y: box.top - 50, width: Math.max(.5, fixed(wide - 1)), height: 22, rx: Math.min(3, wide / 4), style: {fill: 'var(--phase-' + (PHASE_COLOUR[span.phase] || 0) + ')'}}, s('title', {}, momentName(span))));
    if (label) svg.append(s('text', {x: fixed((x0 + x1) / 2), y: box.top - 35, 'text-anchor': 'middle'}, label));
  }
  svg.append(sizeAxis(box, most, view.y));
  KINDS.forEach(([, colour], k) => {
    if (!range.some(point => point.by[k])) return;
    const base = below.slice();
    range.forEach((point, i) => { below[i] += point.by[k]; });
    let path = 'M' + fixed(view.x(view.from)) + ' ' + fixed(view.y(base[0]));
    for (let i = 0; i < range.length; i++) path += 'L' + fixed(view.x(view.from + i)) + ' ' + fixed(view.y(below[i])) + 'H' + fixed(view.x(view.from + i + 1));
    for (let i = range.length; i-- > 0;) path += 'L' + fixed(view.x(view.from + i + 1)) + ' ' + fixed(view.y(base[i])) + 'H' + fixed(view.x(view.from + i));
    svg.append(s('path', {class: 'area', fill: paint(colour), d: path + 'Z'}));
  });
  let reserved = '';
  range.forEach((point, i) => { reserved += (i ? 'V' : 'M' + fixed(view.x(view.from)) + ' ') + fixed(view.y(point.reserved)) + 'H' + fixed(view.x(view.from + i + 1)); });
  svg.append(s('path', {class: 'l-reserved', d: reserved}));
  const labels = [];
  if (shown) {
    svg.append(s('line', {class: 'l-limit', x1: box.left, x2: box.left + box.width, y1: view.y(limit), y2: view.y(limit)}));
    labels.push({text: 'the card has ' + size(limit), places: [[box.left + 6, view.y(limit) - 6, 'start'], [box.left + 6, view.y(limit) + 16, 'start']]});
  }
  const top = range.reduce((best, point, i) => point.allocated > range[best].allocated ? i : best, 0) + view.from, x = view.x(top), y = view.y(points[top].allocated), right = x > box.left + box.width * .6;
  svg.append(s('circle', {class: 'ring', stroke: 'var(--ink)', cx: fixed(x), cy: fixed(y), r: 4}));
  const name = (top === plan.peak ? 'peak ' : 'highest ') + size(points[top].allocated);
  labels.unshift({text: name, places: right ? [[x - 8, y - 8, 'end'], [x - 8, y + 20, 'end'], [x + 8, y - 8, 'start']] : [[x + 8, y - 8, 'start'], [x + 8, y + 20, 'start'], [x - 8, y - 8, 'end']]});
  svg.append(layLabels(width, labels), s('text', {x: box.left + box.width, y: height - 8, 'text-anchor': 'end'}, 'allocations and frees, in order'));
  view.overlay = s('g', {});
  svg.append(view.overlay);
  return svg;
}

function course(plan) {
  const section = h('section', {id: 'course', 'aria-labelledby': 'course-title'}, h('h2', {id: 'course-title'}, 'Two steps, from the model on'),
    h('p', {class: 'lead'}, 'What is requested of each kind, and what the allocator has reserved. From the second step on a step asks for the same as the one before.'));
  const view = {from: 0, to: plan.points.length}, readout = h('p', {class: 'readout'}), {points} = plan;
  const words = i => {
    const point = points[i], parts = KINDS.map(([name], k) => [name, point.by[k]]).filter(x => x[1] >= point.allocated / 1000).sort((a, b) => b[1] - a[1]);
    return [momentName(point.span, true) + ': allocated ', h('b', {}, size(point.allocated)), ', reserved ', h('b', {}, size(point.reserved)), '; ' + parts.map(([name, bytes]) => name + ' ' + size(bytes)).join(', ')];
  };
  const text = i => words(i).map(x => typeof x === 'string' ? x : x.textContent).join('');
  const chart = explorer({label: 'Memory over two steps', range: () => [view.from, view.to - 1], start: () => plan.peak,
    at: x => view.from + Math.floor((x - view.box.left) / view.box.width * (view.to - view.from)), draw: width => drawCourse(plan, view, width), text,
    show: i => {
      const x = (view.x(i) + view.x(i + 1)) / 2;
      view.overlay.replaceChildren(s('line', {class: 'cursor', x1: x, x2: x, y1: view.box.top, y2: view.box.top + view.box.height}));
      readout.replaceChildren(...words(i));
    }});
  const steps = [...new Set(plan.spans.filter(span => PHASE_COLOUR[span.phase]).map(span => span.step))];
  const choose = id => {
    const spans = plan.spans.filter(span => id === 'all' || (span.step === Number(id) && span.phase !== 'model' && span.phase !== 'optimizer'));
    view.from = spans[0].first;
    view.to = Math.max(view.from + 1, spans[spans.length - 1].to);
    chart.draw();
  };
  put(section, h('div', {class: 'controls'}, choice('Show', [['all', 'All'], ...steps.map(step => [String(step), 'Step ' + step])], 'all', choose)), chart.node, readout,
    h('ul', {class: 'legend'}, KINDS.filter((_, k) => points.some(point => point.by[k] > plan.pytorch.requested_bytes / 2000)).map(([name, colour]) => h('li', {}, swatch(colour), name)),
      h('li', {}, h('i', {style: {'border-color': 'var(--accent)'}}), 'reserved')),
    asTable('The phases as a table', () => table('The highest of each phase, and what is allocated at its end', ['phase', 'requested', 'allocated', 'reserved', 'left'],
      plan.pytorch.moments.map(m => [momentName(m), size(m.requested_bytes), size(m.allocated_bytes), size(m.reserved_bytes), size(m.left_bytes)]))));
  section.probe = {view, chart, choose, text};
  return section;
}

/* ---- Activations, and the largest ---- */
function activations(plan) {
  const rows = plan.page.places.filter(row => row.pytorch || row.brim), both = !!plan.brim.memory, most = Math.max(1, ...rows.flatMap(row => [row.pytorch, row.brim]));
  const bar = (bytes, cls) => h('span', {class: 'span ' + cls, style: {left: 0, width: 100 * bytes / most + '%'}});
  return h('div', {}, h('h3', {}, 'Activations by what makes them'), rows.length ? h('table', {class: 'falls', style: {'margin-top': '8px'}},
    h('thead', {}, h('tr', {}, h('th', {scope: 'col'}, ''), h('th', {}, ''), h('th', {scope: 'col'}, 'PyTorch'), both ? h('th', {scope: 'col'}, 'brim') : null)),
    h('tbody', {}, rows.map(row => h('tr', {}, h('th', {scope: 'row'}, row.name), h('td', {class: 'spans two', 'aria-hidden': 'true'}, bar(row.pytorch, 'of-pytorch'), both ? bar(row.brim, 'of-brim') : null), h('td', {}, size(row.pytorch)), both ? h('td', {}, size(row.brim)) : null))))
    : h('p', {class: 'quiet small'}, 'At the peak there are none.'));
}
function largest(plan) {
  const live = [...plan.pytorch.live_at_peak].sort((a, b) => b.bytes - a.bytes).slice(0, 12);
  return h('div', {}, h('h3', {}, 'The largest at the peak'), table('Of ' + count(plan.pytorch.live_at_peak.length) + ' allocations', ['where', 'operation', 'bytes'],
    live.map(a => [h('span', {class: 'keyed'}, swatch(colourOf(a.kind)), place(a)), a.op, size(a.bytes)])));
}
function details(plan) {
  return h('section', {id: 'details', 'aria-labelledby': 'details-title'}, h('h2', {id: 'details-title'}, 'At the peak, in detail'),
    h('div', {class: 'pair', style: {'margin-top': '18px'}}, activations(plan), largest(plan)));
}

function start() {
  const plan = read(), main = document.getElementById('main'), sections = [sideBySide(plan), course(plan), details(plan)];
  document.title = plan.model + ': what PyTorch would need';
  put(document.getElementById('head'), heading(plan));
  put(main, sections);
  drawNew();
  window.brimPlan = {plan, sections};
  put(document.getElementById('foot'), h('p', {}, 'Sizes are binary: 1 MiB is 1,048,576 bytes. Predicted: the sequence of allocations follows the rules that equal unmodified PyTorch on a stand-in for a card, event by event; no card has confirmed this job.'),
    h('p', {}, 'Written by ', h('code', {}, 'brim plan --framework pytorch --html'), ', brim ' + plan.page.brim + '. This file is complete in itself: it loads nothing and sends nothing.'));
}
start();
