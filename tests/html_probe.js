/* Put behind a report page by tests/html_headless.sh: uses the page as a reader would and writes "ok" and "not ok"
 * lines into it. What the page says is compared with what is added up here anew. */
'use strict';
(() => {
  const lines = [];
  function check(name, holds, detail) { lines.push((holds ? 'ok ' : 'not ok ') + name + (holds || detail === undefined ? '' : ': ' + detail)); }
  function same(name, a, b) { check(name, a === b, a + ' is not ' + b); }
  const {runs} = window.brimReport, all = s => [...document.querySelectorAll(s)];

  /* An independent count of what is live after each event. */
  function books(run) {
    const live = [];
    let sum = 0;
    for (let i = 0; i < run.n; i++) { sum += run.kind[i] === 0 ? run.bytes[i] : run.kind[i] === 1 ? -run.bytes[i] : 0; live.push(sum); }
    return live;
  }
  function max(list) { return list.reduce((a, b) => Math.max(a, b), 0); }

  /* Of a log that has lost lines not all figures agree; that is what its notices say. */
  const lost = runs.some(run => run.file.notes.some(note => /missing|Damaged/.test(note)));

  function logs() {
    if (lost) return;
    for (const run of runs) {
      const live = books(run), at = ' (' + run.letter + ')';
      check('there are events' + at, run.n > 100, run.n);
      same('totals are the sum of the events' + at, live.findIndex((x, i) => x !== run.total[i]), -1);
      let apart = 0;
      for (let i = 0; i < run.n; i++) { let sum = 0; for (let c = 0; c < run.C; c++) sum += run.by[i * run.C + c]; apart += sum !== run.total[i]; }
      same('components sum to the total at each event' + at, apart, 0);
      same('the highest event is the peak' + at, max(live), run.books.peak_bytes);
      same('the largest extent is what the run needs' + at, max([...run.extent]), run.books.needs_bytes);
      if (!run.info.planned) same('the outline is the run' + at, live.findIndex((x, i) => x !== run.outline[i]), -1);
      same('allocated by PyTorch\u2019s rules peaks as the replay says' + at, max(run.allocated), run.pytorch.peak_allocated);
      same('reserved by PyTorch\u2019s rules peaks as the replay says' + at, max([...run.reserved]), run.pytorch.peak_reserved);
      same('the replay\u2019s peak is that of what was asked for' + at, max([...run.asked]), run.pytorch.peak_requested);
      check('never less reserved than allocated' + at, run.allocated.every((x, i) => x <= run.reserved[i]));
      const segments = run.pytorch.segments.flatMap(([, ...blocks]) => blocks).filter(b => b[2]);
      same('blocks in the segments are what was live' + at, segments.reduce((a, b) => a + b[1], 0), run.asked[run.pytorch.peak_event]);
    }
  }

  /* The rows of a card sum to what is used, and stand in the page. */
  function cards() {
    if (runs.length > 1) return;
    for (const run of runs) {
      const card = run.memory && run.memory.card, rows = all('table').filter(t => t.caption && /^On the card/.test(t.caption.textContent)).flatMap(t => [...t.tBodies[0].rows]);
      if (!card) { same('no card, no rows', rows.length, 0); continue; }
      const shown = rows.map(r => [r.cells[0].textContent, r.cells[1].textContent]);
      const parts = shown.filter(([name]) => name !== 'used'), sum = parts.reduce((a, [name]) => a + card[name + '_bytes'], 0);
      same('the rows of the card sum to what is used', sum, card.used_bytes);
      check('context, kernels and library are rows', ['context', 'kernels', 'library'].every(name => parts.some(p => p[0] === name)), shown.join('; '));
      same('sizes are those of the log', shown.findIndex(([name, text]) => Math.abs(bytes(text) - card[name + '_bytes']) > 6e4), -1);
    }
  }

  function pointer(node, type, x, y, more) {
    node.dispatchEvent(new PointerEvent(type, Object.assign({clientX: x, clientY: y, bubbles: true, pointerType: 'mouse', button: 0}, more)));
  }
  function press(node, key, more) { node.dispatchEvent(new KeyboardEvent('keydown', Object.assign({key, bubbles: true, cancelable: true}, more))); }
  function bytes(text) {
    const m = /^([\u22120-9.,]+) (B|KiB|MiB|GiB)/.exec(text);
    return m ? Number(m[1].replace(/,/g, '')) * {B: 1, KiB: 1024, MiB: 1048576, GiB: 1073741824}[m[2]] : NaN;
  }

  function hover() {
    const {run, parts} = window.brimReport, {chart, view} = parts[0].probe, node = chart.node, svg = node.querySelector('svg'), box = svg.getBoundingClientRect();
    const side = parts[0].querySelector('.side');
    let moments = 0, wrong = 0, tensors = 0, dead = 0, outlines = 0, sums = 0;
    const picked = new Set();
    for (let k = 0; k < 80; k++)
      for (const height of [.3, .55, .75, .9]) {
        const x = box.left + box.width * (.08 + .9 * k / 80), y = box.top + box.height * height;
        pointer(node, 'pointermove', x, y);
        const i = chart.index;
        moments++;
        if (Math.abs(bytes(side.querySelector('.total').textContent) - run.total[i]) > .051 * 1048576) wrong++;
        const shown = [...side.querySelectorAll('table td')].map(td => bytes(td.textContent)).filter(isFinite).reduce((a, b) => a + b, 0);
        if (Math.abs(shown - run.total[i]) > .5 * 1048576) sums++;
        if (!view.pick) continue;
        tensors++;
        picked.add(view.pick.serial);
        if (view.pick.made > i || view.pick.freed <= i) dead++;
        if (!side.querySelector('.tensor dl').textContent.includes(run.places[view.pick.place] === undefined ? 'unknown' : run.places[view.pick.place] || 'the model itself')) wrong++;
        if (node.querySelector('path.pick')) outlines++;
      }
    same('hovering shows the moment\u2019s total and the tensor\u2019s layer', wrong, 0);
    same('the components shown add up', sums, 0);
    check('hovering finds tensors', tensors > moments / 4 && picked.size > 2, tensors + ' of ' + moments + ', ' + picked.size + ' different');
    same('each was live then', dead, 0);
    same('each is outlined', outlines, tensors);
  }

  function keyboard() {
    const {run, parts} = window.brimReport, {chart, view} = parts[0].probe, node = chart.node;
    node.focus();
    check('the chart takes the focus', document.activeElement === node);
    press(node, 'Home');
    same('Home goes to the first event', chart.index, view.from);
    press(node, 'ArrowRight');
    same('an arrow goes one event on', chart.index, view.from + 1);
    press(node, 'End');
    same('End goes to the last', chart.index, view.to - 1);
    press(node, 'p');
    same('P goes to the highest', run.total[chart.index], max([...run.total.slice(view.from, view.to)]));
    press(node, 'Escape');
    press(node, 'ArrowUp');
    same('an arrow up picks the lowest component', view.component, run.order.find(c => run.by[chart.index * run.C + c] > 0));
    const first = view.pick;
    press(node, 'ArrowDown', {shiftKey: true});
    press(node, 'ArrowUp', {shiftKey: true});
    check('with Shift another tensor of it', view.pick && first && view.pick.serial > 0);
    const text = node.getAttribute('aria-valuetext');
    check('a screen reader is told the moment and the tensor', text.includes('total') && text.includes('Tensor:') && text.includes('layer'), text);
    same('and its number', Number(node.getAttribute('aria-valuenow')), chart.index);
    const wide = view.to - view.from;
    press(node, '+');
    check('+ shows fewer events', view.to - view.from < wide, view.to - view.from);
    press(node, '0');
    same('0 shows all again', view.to - view.from, wide);
    const box = node.getBoundingClientRect(), y = box.top + box.height / 2;
    pointer(node, 'pointerdown', box.left + box.width * .3, y);
    pointer(node, 'pointermove', box.left + box.width * .6, y);
    pointer(node, 'pointerup', box.left + box.width * .6, y);
    check('a drag shows a part', view.to - view.from < wide * .5, view.to - view.from);
    press(node, '0');
    press(node, 'Escape');
  }

  function treemap() {
    const {run, parts} = window.brimReport, {map, root} = parts[1].probe;
    const layers = [...root.children.values()];
    same('layers sum to the peak', layers.reduce((a, l) => a + l.bytes, 0), run.total[run.peakEvent]);
    for (const layer of layers) {
      const inner = [...layer.children.values()], tensors = inner.flatMap(m => m.tensors);
      if (inner.reduce((a, m) => a + m.bytes, 0) !== layer.bytes || tensors.reduce((a, t) => a + t[0].bytes, 0) !== layer.bytes) check('modules and tensors sum to ' + layer.name, false);
    }
    const area = [...map.children].reduce((a, tile) => a + tile.offsetWidth * tile.offsetHeight, 0) / (map.clientWidth * map.clientHeight);
    check('tiles fill the map', area > .9 && area <= 1.01, area);
    const button = map.querySelector('button');
    if (!button) return;
    button.click();
    check('a click opens a layer', parts[1].querySelector('.crumbs button'));
    press(map.firstElementChild, 'Escape');
    check('Escape closes it', !parts[1].querySelector('.crumbs button'));
  }

  function everyControl() {
    for (const input of all('fieldset.choice input')) { input.checked = true; input.dispatchEvent(new Event('change', {bubbles: true})); }
    for (const input of all('fieldset.choice input')) if (input.value === 'event' || input.value === 'share' || input.value === 'A') { input.checked = true; input.dispatchEvent(new Event('change', {bubbles: true})); }
    const bad = all('svg [d], svg [x], svg [y], svg [cx], svg [cy], svg [width]').filter(e => ['d', 'x', 'y', 'cx', 'cy', 'width', 'height'].some(a => /NaN|undefined|Infinity/.test(e.getAttribute(a) || '')));
    same('every coordinate is a number', bad.length, 0);
    check('areas are drawn', all('path.area').length >= 4, all('path.area').length);
  }

  function alternatives() {
    for (const box of all('details')) { box.open = true; box.dispatchEvent(new Event('toggle')); }
    same('each table has rows', all('table').filter(t => t.querySelectorAll('tbody tr').length === 0).length, 0);
    same('each table has a caption or is the legend beside a chart', all('table').filter(t => !t.caption && !t.closest('.side')).length, 0);
    check('each chart has a name and a value in words', all('.chart').every(c => c.getAttribute('aria-label') && c.getAttribute('aria-valuetext') && c.tabIndex === 0 && c.getAttribute('role') === 'slider'));
    same('each section has a heading', all('main section').filter(x => !x.querySelector('h2')).length, 0);
    same('each section with a chart has a table', all('main section').filter(x => x.querySelector('.chart') && !x.querySelector('details table')).map(x => x.id).join(), '');
    same('each picture has a name', all('[role=img]').filter(x => !x.getAttribute('aria-label')).length, 0);
    same('each button has a name', all('button').filter(x => !x.textContent.trim() && !x.getAttribute('aria-label')).length, 0);
    same('one heading of the first rank', all('h1').length, 1);
    const slip = /\[object|undefined|NaN|\bnull\b|Infinity/.exec(document.body.innerText);
    check('the text has no slips', !slip, slip && document.body.innerText.slice(slip.index - 40, slip.index + 40));
  }

  /* In any window: only tables that are opened may scroll sideways, and no text is cut or lies on another. */
  function nothingCut() {
    const root = document.documentElement, wide = root.clientWidth, named = e => (e.textContent || e.className).trim().slice(0, 60);
    check('nothing is wider than the window', root.scrollWidth <= wide, root.scrollWidth + ' > ' + wide);
    const scrolled = all('.scroll').filter(e => !e.closest('details') && e.scrollWidth > e.clientWidth + 1);
    same('no table beside the text scrolls', scrolled.map(e => named(e) + ' ' + e.scrollWidth + ' > ' + e.clientWidth).join(' | '), '');
    const seen = e => e.getClientRects().length > 0, beyond = e => { const r = e.getBoundingClientRect(); return r.left < -1 || r.right > wide + 1; };
    same('no caption is cut', all('caption span').filter(e => seen(e) && beyond(e)).map(named).join(' | '), '');
    same('no word of a chart is cut', all('.chart svg text, .bars svg text').filter(e => seen(e) && beyond(e)).map(named).join(' | '), '');
    same('no text is cut', all('h1, h2, h3, p, dt, dd, li, label, button, legend').filter(e => seen(e) && !e.closest('details, .map, .skip') && !e.matches('.skip') && beyond(e)).map(named).join(' | '), '');
    const over = [];
    for (const svg of all('.chart svg, .bars svg')) {
      const texts = [...svg.querySelectorAll('text')].filter(e => seen(e) && e.textContent).map(e => [e, e.getBoundingClientRect()]);
      texts.forEach(([a, p], i) => { for (const [b, q] of texts.slice(i + 1)) if (p.left + 1 < q.right && q.left + 1 < p.right && p.top + 3 < q.bottom && q.top + 3 < p.bottom) over.push(named(a) + ' on ' + named(b)); });
    }
    same('no words of a chart lie on each other', over.join(' | '), '');
  }

  /* Ranks side by side: what is drawn is what their logs say, and no stage begins before what it waits for. */
  function ranks() {
    const section = window.brimReport.ranks, own = runs[0].ranks;
    if (!own) { check('no ranks, no picture of them', !section && !document.querySelector('#ranks')); return; }
    const {state, chart, bars, play} = section.probe, node = chart.node, m = own.micro_batches;
    check('the sentence names the fullest and its size', own.why.includes(size(max(own.kinds.map(k => k.measured || k.planned)))) && document.querySelector('#ranks .headline').textContent === own.why, own.why);
    const live = state.lanes.map(lane => books(lane.run)), held = state.lanes.map(() => 0), names = state.lanes.map(() => new Set());
    let wrong = 0, labels = 0, sums = 0;
    for (let k = 0; k < state.moments.length; k += Math.max(1, Math.floor(state.moments.length / 300))) {
      chart.go(k);
      const shown = [...bars.querySelectorAll('text.halo')].map(e => e.textContent);
      state.lanes.forEach((lane, l) => {
        const i = laneEvent(lane, state.moments[k]), there = i < 0 ? 0 : live[l][i], parts = lane.run.order.flatMap(c => byMicro(lane, i, c));
        if (parts.reduce((a, x) => a + x[0], 0) !== there || totalAt(lane, i) !== there) sums++;
        if (own.size <= 8 && !shown.some(text => text === size(there) || size(there).startsWith(text))) labels++;
        const micro = new Set(parts.filter(x => x[1]).map(x => x[1]));
        held[l] = Math.max(held[l], micro.size);
        const layer = gatheredLayer(lane, i);
        if (layer) names[l].add(layer);
      });
      if (bars.querySelectorAll('rect.full').length !== barsOf(state).length) wrong++;
    }
    same('a rank\u2019s parts sum to its live bytes', sums, 0);
    same('each bar has its size', labels, 0);
    same('there is a bar of each', wrong, 0);
    if (own.stages > 1) {
      check('stages stand on a common time', state.staged);
      same('each stage holds as many micro-batches as its schedule says', held.join(), state.lanes.map(l => (own.schedule === 'gpipe' ? m : Math.min(m, own.stages - l.kind.stage))).join());
      const ends = new Map();
      for (const lane of state.lanes) for (const part of lane.parts) ends.set(lane.kind.stage + part.what + part.micro, part);
      const early = [...ends].filter(([, part]) => part.micro >= 0).filter(([key, part]) => { const stage = parseInt(key, 10), other = ends.get((part.what === 'forward' ? stage - 1 : stage + 1) + part.what + part.micro); return other && other.end > part.start; });
      same('nothing begins before what it waits for', early.map(x => x[0]).join(), '');
    }
    if (own.strategy === 'zero3' && own.data > 1) check('gathered weights pulse by layer, twice', ['forward', 'backward'].every(phase => new Set(state.gathers.pulses.filter(p => phaseName(state.gathers.run, p.from) === phase).map(p => p.name)).size > 2) && node.querySelectorAll('path.area').length > 3, [...names[0]].join());
    node.focus();
    press(node, 'Home');
    same('Home goes to the first moment', chart.index, 0);
    press(node, 'ArrowRight');
    same('an arrow goes one moment on', chart.index, 1);
    press(node, 'End');
    same('End goes to the last moment', chart.index, state.moments.length - 1);
    press(node, 'p');
    const text = node.getAttribute('aria-valuetext'), full = own.kinds[own.fullest];
    check('a screen reader is told what each rank does and holds', state.lanes.every(lane => text.includes(lane.kind.name + ': ')) && text.includes('parameters '), text);
    check('P goes to the fullest moment', max(state.lanes.map(lane => totalAt(lane, laneEvent(lane, state.moments[chart.index])))) === state.most && (own.stages > 1 || state.most === (full.measured || full.planned)), chart.index);
    play.click();
    same('the step plays', play.getAttribute('aria-pressed'), 'true');
    play.click();
    same('and stops', play.getAttribute('aria-pressed'), 'false');
    const box = node.getBoundingClientRect();
    pointer(node, 'pointermove', box.left + box.width * .5, box.top + 40);
    check('the pointer goes to its moment', Math.abs(state.moments[chart.index] / state.end - .46) < .12, state.moments[chart.index] / state.end);
  }

  function twoRuns() {
    if (runs.length < 2) return;
    const saved = runs[0].books.peak_bytes - runs[1].books.peak_bytes, text = document.querySelector('#compare .headline').textContent;
    if (runs[0].info.model === runs[1].info.model) check('the headline says what is saved', text.includes((Math.abs(saved) / 1048576).toFixed(1) + ' MiB'), text);
    else check('the headline says that the models differ, and of no saving', text.includes('different models') && !/ saves [0-9]|less time|longer/.test(text), text);
    check('the headline gives a time no decimals', !/\d\.\d+ % (longer|less time)/.test(text), text);
    const rows = all('#compare table').pop().querySelectorAll('tbody tr');
    const peak = [...rows].find(r => r.firstElementChild.textContent === 'peak');
    check('so does the table', peak.textContent.includes((Math.abs(saved) / 1048576).toFixed(1)));
    same('two filled lines on one scale', all('#compare path.f-a, #compare path.f-b').length, 2);
  }

  function report() {
    check('no errors', window.probeErrors.length === 0, window.probeErrors.join(' | '));
    const text = lines.join('\n') + '\nend of' + ' probe';
    document.body.append(Object.assign(document.createElement('pre'), {id: 'probe', textContent: text}));
    if (parent !== window) parent.postMessage(text, '*');
  }
  /* Timers, not frames: without a screen frames come when they like. */
  setTimeout(() => {
    const whole = [nothingCut, logs, cards, hover, keyboard, ranks, treemap, everyControl, alternatives, nothingCut, twoRuns];
    for (const part of window.probeCut ? [nothingCut, alternatives, nothingCut, twoRuns] : whole) {
      try { part(); } catch (error) { check(part.name + ' runs', false, error && error.stack); }
    }
    setTimeout(report, 500);
  }, 500);
})();
