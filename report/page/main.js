/* ---- The page ---- */
function storedText(o) {
  const weights = o.weights || 'fp32';
  return o.quantize && o.quantize !== 'none' ? o.quantize + ', rest ' + weights : weights;
}
function rankText(o) {
  return o.ranks + ' ranks' + (o.stages > 1 ? ', ' + o.stages + ' stages ' + o.pipeline : '') + (o.tensor > 1 ? ', tensor ' + o.tensor : '') +
    (o.ranks > Math.max(1, o.stages || 1) * Math.max(1, o.tensor || 1) ? ', ' + o.parallel : '');
}
function optionText(run) {
  const o = run.options, info = run.info, parts = [count(info.parameters) + ' parameters', storedText(o), o.optimizer];
  parts.push('batch ' + o.batch + (o.seq ? ' \u00d7 ' + o.seq + ' tokens' : '') + (o.accumulate > 1 ? ' \u00d7 ' + o.accumulate + ' micro-batches' : ''));
  if (o.checkpoint && o.checkpoint !== 'none') parts.push('checkpoint ' + o.checkpoint);
  if (o.seq && o.attention) parts.push(o.attention + ' attention');
  if (o.optimizer_in_backward) parts.push('optimizer in backward');
  if (o.zero_grad && o.zero_grad !== 'free') parts.push('gradients kept as zeros');
  if (o.loss_chunk) parts.push('loss in chunks of ' + count(o.loss_chunk) + ' rows');
  if (o.ranks > 1) parts.push(rankText(o));
  if (o.lora) parts.push('LoRA ' + o.lora);
  if (o.adapter) parts.push('adapter ' + o.adapter);
  parts.push(plural(o.steps, 'step'), 'seed ' + o.seed, plural(o.threads, 'thread'));
  return parts.join(' \u00b7 ');
}
function whereText(at) {
  return at ? [at.phase, (at.step ? 'step ' + count(at.step) + ', ' : '') + (at.place || 'the model itself') + (at.op ? ', ' + at.op : '')] : ['unknown', ''];
}

function heading(run, two) {
  const m = run.memory, plan = run.plan, books = run.books, [phase, place] = whereText(books.peak_at);
  const planned = m && m.planned ? m.planned : plan, apart = m && planned ? m.peak_bytes - planned.peak_bytes : null;
  const figures = [figure(m ? 'Peak, measured' : 'Peak, planned', size(books.peak_bytes), exact(books.peak_bytes), true)];
  if (!m && !run.info.planned) figures.push(figure('Highest so far', size(measuredSoFar(run)), 'measured, as far as the log goes'));
  if (m && planned) figures.push(figure('Peak, planned', size(planned.peak_bytes), apart === 0 ? '0 bytes apart' : exact(Math.abs(apart)) + (apart > 0 ? ' less than measured' : ' more than measured')));
  figures.push(figure('Peak at', phase, place), figure('Needs', size(books.needs_bytes), exact(books.needs_bytes - books.peak_bytes) + ' of gaps above the peak'));
  if (m && m.card) figures.push(figure('Used on the card', size(m.card.used_bytes), size(m.card.used_bytes - m.card.reserved_bytes) + ' beyond what is reserved' + (m.process ? '; the process on the host ' + size(m.process.peak_bytes) : '')));
  else if (m && m.process) figures.push(figure('Process', size(m.process.peak_bytes), size(m.process.unaccounted_bytes) + ' unaccounted: libraries, stacks, buffers'));
  if (run.end && run.end.status === 'done' && !run.info.planned) figures.push(figure('Loss', number(run.end.loss_first, 2) + ' \u2192 ' + number(run.end.loss_last, 2), plural(run.end.steps, 'step') + ', ' + secondsText(run)));
  return h('div', {class: 'run'}, h(two ? 'h2' : 'h1', {class: two ? 'title' : null}, two ? label(run) : null, run.info.model), h('p', {class: 'facts'}, optionText(run)),
    h('p', {class: 'command'}, h('code', {}, 'brim ' + (run.info.command || []).join(' '))), h('div', {}, notices(run)),
    h('dl', {class: 'figures'}, figures), strip(run), two ? null : bookTable(run));
}
/* What the steps took and what the evaluations did; where a line does not say, what the whole run took. */
function secondsText(run) {
  const sum = (list, of) => list.reduce((a, x) => a + of(x), 0), evaluated = sum(run.validations, v => v.seconds === undefined ? NaN : v.seconds);
  const rows = sum(run.steps, row => row[LAST] - row[FIRST] + 1), whole = rows === run.end.steps && run.validations.length && isFinite(evaluated);
  return whole ? duration(sum(run.steps, row => row[SECONDS]) * 1e6) + '; validation ' + duration(evaluated * 1e6) : duration(run.end.seconds * 1e6) + ' in all';
}
function measuredSoFar(run) {
  return run.steps.reduce((a, row) => Math.max(a, row[PEAK]), run.peakEvent < 0 ? 0 : run.total[run.peakEvent]);
}
/* What is wrong or missing, in plain words. */
function notices(run) {
  const list = [];
  if (run.end && run.end.status !== 'done') list.push('The run failed: ' + (run.end.error || 'it does not say why') + '.');
  list.push(...run.file.notes || []);
  if (!run.end && run.plan) list.push('The figures here are the plan\u2019s; the events and steps are as far as they go.');
  if (run.contradictions) list.push('Events left out because they contradict those before them: ' + count(run.contradictions) + '.');
  if (run.n && !run.eventsEnd) list.push('The events break off after ' + count(run.n) + '.');
  else if (run.eventsEnd && !run.eventsEnd.complete) list.push('There were more events than a log keeps: it holds the first ' + count(run.n) + '.');
  return list.map(text => h('p', {class: 'notice', role: 'note'}, text));
}
/* The composition at the peak as one bar. */
function strip(run) {
  const parts = run.order.map(c => [run.components[c], atPeak(run, run.components[c])]).filter(p => p[1] > 0);
  return h('div', {class: 'strip', role: 'img', 'aria-label': 'At the peak: ' + parts.map(([n, b]) => people(n) + ' ' + size(b)).join(', ')},
    parts.map(([name, bytes]) => h('span', {title: people(name) + ' ' + size(bytes), style: {background: paint(name), 'flex-grow': bytes, 'flex-basis': '0'}})));
}
function bookTable(run) {
  const m = run.memory, planned = m && m.planned ? m.planned : run.plan, books = run.books, shown = run.order.filter(c => { const x = books.components[run.components[c]]; return x && x.peak > 0; });
  const both = value => [planned ? value(planned) : '\u2013', m ? value(m) : null].filter(x => x !== null), share = text => h('span', {class: 'share'}, text);
  /* Where planned and measured are the same everywhere, a narrow window shows the one. */
  const alike = m && planned && m.peak_bytes === planned.peak_bytes && shown.every(c => m.components[run.components[c]].at_peak === planned.components[run.components[c]].at_peak);
  return h('div', {class: 'books'}, h('div', {class: alike ? 'alike' : null}, table('What was live at the peak' + (m ? ', planned and measured' : ', as planned') + '. Own peak is each component\u2019s own highest moment: it does not sum.',
    ['component', ...both(x => x === m ? 'measured' : 'planned'), share('share'), 'own peak'],
    shown.map(c => { const name = run.components[c]; return [h('span', {class: 'keyed'}, swatch(name), people(name)), ...both(x => size(x.components[name].at_peak)), share(percent(atPeak(run, name) / books.peak_bytes)), size(books.components[name].peak)]; })
      .concat([{sum: true, cells: ['peak', ...both(x => size(x.peak_bytes)), share('100 %'), '']}]))), h('div', {class: 'stacked'}, textbook(run), cardTable(run)));
}
/* What is in use on a card, at the end of the run; in the words of brim's closing table. */
const CARD_ROWS = ['reserved', 'others', 'context', 'kernels', 'library', 'transport', 'graphs', 'unaccounted'];
const CARD_MEANING = {process: 'nvidia-smi\u2019s figure for this process', all: 'nvidia-smi\u2019s figure for the whole card, because it has none for this process',
  driver: 'the driver\u2019s figure for the whole card, and what others had is in context: NVIDIA\u2019s management library does not answer'};
function cardTable(run) {
  const card = run.memory && run.memory.card;
  if (!card) return null;
  const rows = CARD_ROWS.filter(name => card[name + '_bytes']).map(name => [name, size(card[name + '_bytes'])]), meaning = CARD_MEANING[card.counted_by];
  return table('On the card at the end of the run.' + (meaning ? ' Used is ' + meaning + '.' : ''), ['', ''], rows.concat([{sum: true, cells: ['used', size(card.used_bytes)]}]));
}
/* Why the peak is not the sum of the own peaks. */
function textbook(run) {
  const sum = (group, key) => run.order.reduce((a, c) => a + (run.groups[c] === group && run.books.components[run.components[c]] ? run.books.components[run.components[c]][key] : 0), 0);
  const later = group => sum(group, 'at_peak') - sum(group, 'peak'), main = ['parameters', 'gradients', 'optimizer_states', 'activations'];
  const total = main.reduce((a, g) => a + sum(g, 'peak'), 0);
  const rows = [['textbook P + G + O + A', size(total)], ['gradients not there yet', signed(later('gradients'))], ['activations freed, or not there yet', signed(later('activations'))],
    ['states not there yet', signed(later('optimizer_states') + later('parameters'))], ['overhead: what the textbook leaves out', signed(sum('overhead', 'at_peak'))]].filter(row => row[1] !== '0 B');
  return table('The textbook adds own peaks, which do not come at one moment.', ['', ''], rows.concat([{sum: true, cells: ['the true peak', size(run.books.peak_bytes)]}]));
}

function start() {
  const runs = [...document.querySelectorAll('script.log')].map((e, i) => readLog(e, 'AB'[i]));
  runs.forEach(readRanks);
  if (runs.length > 1) commonScale(runs);
  const head = document.getElementById('head'), main = document.getElementById('main'), two = runs.length > 1;
  document.title = runs.map(r => r.info.model).filter((x, i, all) => all.indexOf(x) === i).join(' and ') + ': memory of ' + (two ? 'two training runs' : 'a training run');
  head.append(h('p', {class: 'brand'}, h('b', {}, 'brim'), ' memory report'), two ? h('h1', {style: {'margin-bottom': '22px'}}, 'Two training runs') : '',
    h('div', {class: 'runs' + (two ? ' two' : '')}, runs.map(run => heading(run, two))));
  if (two) main.append(compare(runs[0], runs[1]));
  const details = h('div', {});
  const show = run => {
    const parts = [timeline(run), treemap(run), allocators(run)];
    const side = ranksSection(run);
    details.replaceChildren(...side ? [side] : [], ...parts);
    drawNew();
    window.brimReport = {runs, run, parts, ranks: side};
  };
  if (two) main.append(h('section', {style: {'padding-bottom': '0'}}, h('h2', {}, 'In detail'), h('div', {class: 'controls'}, choice('Run', runs.map(r => [r.letter, r.letter + ': ' + differences(r, runs[r.letter === 'A' ? 1 : 0])]), 'A', id => show(runs['AB'.indexOf(id)])))));
  main.append(details);
  show(runs[0]);
  main.append(overTheRun(runs));
  drawNew();
  document.getElementById('foot').append(h('p', {}, 'Sizes are binary: 1 MiB is 1,048,576 bytes. Figures are bytes that brim counted as they were allocated; nothing is sampled or estimated.'),
    h('p', {}, 'Written by ', h('code', {}, 'brim report'), runs[0].info.brim ? ' ' + runs[0].info.brim : '', ' from ', h('code', {}, runs.map(r => r.file.name || 'a run log').join(' ')), '. This file is complete in itself: it loads nothing and sends nothing.'));
}
start();
