/* ---- Requested, rounded and reserved; and the same trace by PyTorch's rules ---- */
function allocators(run) {
  const section = h('section', {id: 'allocators', 'aria-labelledby': 'allocators-title'},
    h('h2', {id: 'allocators-title'}, 'Requested, rounded and reserved'));
  if (!run.n) return section;
  const most = array => array.reduce((a, b) => Math.max(a, b), 0);
  const needs = run.books.needs_bytes, p = run.pytorch;
  const peaks = {asked: most(run.asked), total: most(run.total), extent: most(run.extent), allocated: most(run.allocated), reserved: most(run.reserved)};
  const view = {id: 'all', from: 0, to: run.n};
  const setView = id => { view.id = id; view.from = run.views[id].from; view.to = run.views[id].to; };
  setView('all');
  const top = Math.max(peaks.extent, needs, peaks.reserved) * 1.05;
  const ours = linesPanel(run, view, top, 'brim', [
    {name: 'requested', cls: 'l-requested', value: i => run.asked[i]},
    {name: 'rounded to 64 bytes', cls: 'l-rounded', value: i => run.total[i]},
    {name: 'extent, gaps included', cls: 'l-reserved', value: i => run.extent[i]}], needs);
  const theirs = linesPanel(run, view, top, 'PyTorch\u2019s rules', [
    {name: 'requested', cls: 'l-requested', value: i => run.asked[i]},
    {name: 'allocated, in 512-byte blocks', cls: 'l-rounded', value: i => run.allocated[i] || 0},
    {name: 'reserved in segments', cls: 'l-reserved', value: i => run.reserved[i]}], 0);
  put(section,
    h('p', {class: 'lead'}, 'Left, this run: one reservation, made once. Right, the same requests in the same order, replayed through the rules of PyTorch\u2019s CUDA caching allocator: the blue area is held in segments and not in use.'),
    h('div', {class: 'controls'}, choice('Show', Object.values(run.views).map(v => [v.id, v.name]), 'all', id => { setView(id); ours.draw(); theirs.draw(); })),
    h('div', {class: 'pair'}, ours.node, theirs.node),
    h('div', {style: {'margin-top': '20px'}}, table('Highest moment of each line', ['', 'brim', 'PyTorch\u2019s rules'], [
      ['requested', size(peaks.asked), size(peaks.asked)],
      ['in blocks: rounded up', more(peaks.total, peaks.asked), more(peaks.allocated, peaks.asked)],
      ['reserved', more(needs, peaks.total), more(peaks.reserved, peaks.allocated)],
      {sum: true, cells: ['reserved beyond what was requested', percent(needs / peaks.asked - 1), percent(peaks.reserved / peaks.asked - 1)]}])),
    h('p', {class: 'small quiet', style: {'margin-top': '8px', 'max-width': '92ch'}}, 'The replay is not a forecast of PyTorch itself, whose operations ask for more than brim\u2019s do: it shows what its allocator makes of this trace. ' +
      'Its rules: sizes in multiples of 512 B; up to 1 MiB from segments of 2 MiB, below 10 MiB from segments of 20 MiB, else a segment of its own in multiples of 2 MiB; best fit, split, merged when freed, segments kept.'),
    p && p.segments.length ? memoryMaps(run) : null,
    asTable('The lines as a table', () => lineTable(run, run.views[view.id])));
  section.probe = {ours, theirs, peaks};
  return section;
}

/* A size, and how much above the row before. */
function more(bytes, before) { return [size(bytes), h('span', {class: 'more'}, '+' + size(bytes - before))]; }

function linesPanel(run, view, top, title, lines, limit) {
  const readout = h('p', {class: 'readout'}), state = {};
  const chart = explorer({
    label: title + ': ' + lines.map(l => l.name).join(', ') + ' over the events',
    range: () => [view.from, view.to - 1],
    start: () => Math.min(view.to - 1, Math.max(view.from, run.peakEvent)),
    at: x => eventAt(run, state, x),
    draw: width => {
      const height = width < 500 ? 230 : 280, box = state.box = {left: 44, top: 24, width: width - 52, height: height - 24 - 24};
      Object.assign(state, {from: view.from, to: view.to, y: b => box.top + box.height * (1 - b / top),
        x: i => box.left + box.width * (i - view.from) / Math.max(1, view.to - view.from)});
      state.states = visible(run, view.from, view.to, state.x, box.width);
      const svg = s('svg', {height}), all = state.states.map((_, k) => k);
      svg.append(sizeAxis(box, top, state.y), s('path', {class: 'f-live', d: bandPath(state, all, () => 0, lines[1].value)}),
        s('path', {class: 'f-gap', d: bandPath(state, all, lines[1].value, i => Math.max(lines[1].value(i), lines[2].value(i)))}));
      for (const line of lines) svg.append(s('path', {class: line.cls, d: outlinePath(state, line.value)}));
      if (limit) svg.append(s('line', {class: 'l-limit', x1: box.left, x2: box.left + box.width, y1: state.y(limit), y2: state.y(limit)}));
      state.overlay = s('g', {});
      svg.append(state.overlay);
      return svg;
    },
    text: i => 'Event ' + count(i - view.from) + ': ' + lines.map(l => l.name + ' ' + size(l.value(i))).join(', '),
    show: i => {
      const {box} = state, x = fixed((state.x(i) + state.x(i + 1)) / 2);
      state.overlay.replaceChildren(s('line', {class: 'cursor', x1: x, x2: x, y1: box.top, y2: box.top + box.height}));
      readout.replaceChildren(...lines.flatMap((l, k) => [k ? ' \u00b7 ' : '', l.name + ' ', h('b', {}, size(l.value(i)))]));
    },
  });
  const colour = cls => ({'l-requested': 'var(--soft)', 'l-rounded': 'var(--ink)', 'l-reserved': 'var(--accent)'})[cls];
  const node = h('div', {}, h('h3', {}, title), chart.node, readout, h('ul', {class: 'legend'},
    lines.map(l => h('li', {}, h('i', {style: {'border-color': colour(l.cls), 'border-top-style': l.cls === 'l-requested' ? 'dotted' : 'solid'}}), l.name)),
    limit ? h('li', {}, h('i', {style: {'border-color': 'var(--ink)', 'border-top-style': 'dashed'}}), 'reservation, made once') : null));
  return {node, draw: chart.draw, chart};
}

function lineTable(run, view) {
  const rows = [], step = Math.max(1, Math.floor((view.to - view.from) / 40));
  for (let i = view.from; i < view.to; i += step) {
    rows.push([count(i - view.from), phaseName(run, i), size(run.asked[i]), size(run.total[i]), size(run.extent[i]), size(run.allocated[i] || 0), size(run.reserved[i])]);
  }
  return table('Every ' + (step === 1 ? '' : count(step) + 'th ') + 'event of ' + view.name.toLowerCase(),
    ['event', 'phase', 'requested', 'rounded', 'extent', 'PyTorch: allocated', 'PyTorch: reserved'], rows);
}

/* ---- The address space at the peak ---- */
/* Rows of equal scale, filled from left to right: blocks in their place, free stretches between them. */
function memoryMaps(run) {
  const p = run.pytorch, event = p.peak_event;
  const segments = p.segments.map(([small, ...blocks]) => ({small, bytes: blocks.reduce((a, b) => a + b[0], 0),
    blocks: blocks.map(([bytes, requested, serial]) => ({bytes, tensor: serial ? run.tensors[run.bySerial.get(serial)] : null}))}));
  const biggest = segments.reduce((a, b) => Math.max(a, b.bytes), 0);
  const together = segments.reduce((a, b) => a + b.bytes, 0);
  const perRow = Math.max(biggest, run.books.needs_bytes / 4, together / 6);
  const ours = [{blocks: ourBlocks(run, event), bytes: Math.max(run.books.needs_bytes, run.extent[event])}];
  return h('div', {}, h('h3', {style: {'margin-top': '28px'}}, 'The address space when most is requested'),
    h('p', {class: 'small quiet'}, 'Each stroke is a block where it lies, by component; pale stretches are free. A row is ' + size(perRow) + '.'),
    mapRows(run, event, 'brim: one reservation, from below what stays, from above what comes and goes', cut(ours, perRow), perRow),
    mapRows(run, event, 'PyTorch\u2019s rules: ' + plural(segments.filter(x => x.small).length, 'segment') + ' for small blocks, ' + segments.filter(x => !x.small).length + ' for large ones', pack(segments, perRow), perRow));
}
function ourBlocks(run, event) {
  const size_ = Math.max(run.books.needs_bytes, run.extent[event]), list = [];
  const placed = liveAt(run, event).map(t => ({tensor: t, bytes: t.bytes, at: t.high ? size_ - t.offset - t.bytes : t.offset})).sort((a, b) => a.at - b.at);
  let at = 0;
  for (const block of placed) {
    if (block.at > at) list.push({bytes: block.at - at, tensor: null});
    list.push(block);
    at = block.at + block.bytes;
  }
  if (size_ > at) list.push({bytes: size_ - at, tensor: null});
  return list;
}
/* One long stretch cut into rows. */
function cut(stretches, perRow) {
  const rows = [[]];
  let room = perRow;
  for (const block of stretches[0].blocks) {
    for (let left = block.bytes; left > 0;) {
      const part = Math.min(left, room);
      rows[rows.length - 1].push({x: perRow - room, bytes: part, tensor: block.tensor});
      left -= part; room -= part;
      if (room <= 0) { rows.push([]); room = perRow; }
    }
  }
  return rows.filter(row => row.length).map(blocks => ({blocks, frames: [{x: 0, bytes: blocks.reduce((a, b) => a + b.bytes, 0)}]}));
}
/* Whole segments into rows, each into the first that has room, large ones first. */
function pack(segments, perRow) {
  const rows = [];
  for (const segment of [...segments].sort((a, b) => a.small - b.small || b.bytes - a.bytes)) {
    let row = rows.find(r => r.used + segment.bytes <= perRow + 1);
    if (!row) rows.push(row = {used: 0, blocks: [], frames: []});
    let x = row.used;
    row.frames.push({x, bytes: segment.bytes});
    for (const block of segment.blocks) { row.blocks.push({x, bytes: block.bytes, tensor: block.tensor}); x += block.bytes; }
    row.used += segment.bytes;
  }
  return rows;
}
function mapRows(run, event, title, rows, perRow) {
  const W = 1200, H = 20, gap = 5, scale = W / perRow, svg = s('svg', {viewBox: '0 0 ' + W + ' ' + (rows.length * (H + gap)), preserveAspectRatio: 'none', style: {width: '100%', height: rows.length * (H + gap) + 'px', display: 'block'}, role: 'img', 'aria-label': title});
  let free = 0, all = 0;
  rows.forEach((row, r) => {
    const y = r * (H + gap);
    for (const f of row.frames) svg.append(s('rect', {class: 'free', x: f.x * scale, y, width: Math.max(.3, f.bytes * scale - .8), height: H}));
    /* Neighbours of one component are one stroke, so that thousands of blocks stay quick to draw. */
    let last = null;
    const flush = () => { if (last) svg.append(s('rect', {x: last.x * scale, y: y + 1.5, width: Math.max(.4, last.bytes * scale - (last.bytes * scale > 3 ? .7 : 0)), height: H - 3, style: {fill: paint(last.name)}})); last = null; };
    for (const b of row.blocks) {
      all += b.bytes;
      if (!b.tensor) { flush(); free += b.bytes; continue; }
      const name = run.components[componentAt(b.tensor, event)];
      if (last && last.name === name && b.bytes * scale < 1.5 && last.bytes * scale < 40) last.bytes = b.x + b.bytes - last.x;
      else { flush(); last = {x: b.x, bytes: b.bytes, name}; }
    }
    flush();
  });
  return h('div', {style: {'margin-top': '12px'}}, h('p', {class: 'small'}, title + '; ' + size(free) + ' of ' + size(all) + ' free'), h('div', {style: {'margin-top': '5px'}}, svg));
}
