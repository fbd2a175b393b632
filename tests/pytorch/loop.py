"""The plain training loop: what a script of one's own does."""
import contextlib

import torch


def optimizer(a, params):
    if a.optimizer in ('adamw', 'adamw-fused', 'adamw-loop'):
        return torch.optim.AdamW(params, lr=1e-4, fused=True if a.optimizer == 'adamw-fused' else None,
                                 foreach=False if a.optimizer == 'adamw-loop' else None)
    if a.optimizer in ('sgd', 'sgd-momentum'):
        return torch.optim.SGD(params, lr=1e-4, momentum=0.9 if a.optimizer == 'sgd-momentum' else 0)
    if a.optimizer in ('adamw8bit', 'paged-adamw8bit'):
        import bitsandbytes
        kind = bitsandbytes.optim.AdamW8bit if a.optimizer == 'adamw8bit' else bitsandbytes.optim.PagedAdamW8bit
        return kind(params, lr=1e-4)
    if a.optimizer == 'adafactor':
        from transformers.optimization import Adafactor
        return Adafactor(params, lr=1e-4, scale_parameter=False, relative_step=False)
    return None


def labels_of(a, ids):
    if a.loss == 'sum' or a.one_tensor:
        return None if a.loss == 'sum' else ids
    return torch.zeros((a.batch,) if a.task else ids.shape, dtype=torch.int64).to('cuda')


def run(a, model, record):
    def synchronized(last):
        return contextlib.nullcontext()
    if a.parallel != 'none':
        import ranks
        record.mark('wrap')
        model = ranks.wrap(a, model)

        def synchronized(last):
            return ranks.synchronized(a, model, last)
    params = [p for p in model.parameters() if p.requires_grad]
    record.mark('optimizer')
    update = optimizer(a, params)
    half = {'bf16-autocast': torch.bfloat16, 'fp16-autocast': torch.float16}.get(a.precision)
    autocast = (lambda: torch.autocast('cuda', half)) if half else contextlib.nullcontext
    scaler = torch.amp.GradScaler('cuda') if a.precision == 'fp16-autocast' else None
    lengths = [int(n) for n in a.lengths.split(',')] if a.lengths else [a.seq]
    outputs = loss = None
    if a.one_tensor:
        ids = torch.zeros(a.batch, lengths[0], dtype=torch.int64).to('cuda')
    for step in range(a.steps):
        for micro in range(a.accumulate):
            seq = lengths[(step * a.accumulate + micro) % len(lengths)]
            record.mark(f'step{step}.{micro} batch')
            if not a.one_tensor:
                ids = torch.zeros(a.batch, seq, dtype=torch.int64).to('cuda')
            labels = labels_of(a, ids)
            more = {} if a.mask == 'none' else {
                'attention_mask': torch.ones(a.batch, seq, dtype=torch.int64).to('cuda')}
            with synchronized(micro == a.accumulate - 1):
                record.mark(f'step{step}.{micro} forward')
                with autocast():
                    outputs = model(input_ids=ids, labels=labels, **more)
                    loss = outputs.logits.sum() if a.loss == 'sum' else outputs.loss
                if a.hold == 'none':
                    outputs = None
                if a.accumulate > 1:
                    loss = loss / a.accumulate
                record.mark(f'step{step}.{micro} backward')
                (scaler.scale(loss) if scaler else loss).backward()
        if scaler and update and a.clip:
            record.mark(f'step{step} unscale')
            scaler.unscale_(update)
        record.mark(f'step{step} clip')
        if a.clip:
            torch.nn.utils.clip_grad_norm_(params, a.clip)
        record.mark(f'step{step} step')
        if update and scaler:
            scaler.step(update)
            record.mark(f'step{step} update')
            scaler.update()
        elif update:
            update.step()
        record.mark(f'step{step} zero')
        if a.hold == 'step':
            outputs = None
        (update or model).zero_grad(**({'set_to_none': False} if a.zero_keep else {}))
