"""transformers' Trainer as the script: phases are marked where it calls what it calls, without a reference more."""
import inspect
import tempfile
import types

import torch
import transformers

OPTIMIZERS = {'adamw': 'adamw_torch', 'adamw-fused': 'adamw_torch_fused', 'sgd': 'sgd', 'adamw8bit': 'adamw_bnb_8bit',
              'paged-adamw8bit': 'paged_adamw_8bit', 'adafactor': 'adafactor'}


class Rows(torch.utils.data.Dataset):
    """Rows of one length, as a tokenized data set has them."""

    def __init__(self, a, count):
        self.count, self.row = count, {'input_ids': [0] * a.seq, 'labels': 0 if a.task else [0] * a.seq}
        if a.mask != 'none':
            self.row['attention_mask'] = [1] * a.seq

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return self.row


def before(owner, name, mark):
    """owner.name calls mark() first."""
    function = getattr(owner, name, None)
    if function is None:
        return

    def wrapped(self, *args, **kwargs):
        mark()
        return function(*args, **kwargs)
    setattr(owner, name, types.MethodType(wrapped, owner))


class Place:
    """Where the training is: counts steps, micro-batches and evaluation batches, and names the phases."""

    def __init__(self, record):
        self.record, self.step, self.micro, self.batch, self.evaluating = record, -1, 0, -1, False

    def phase(self, name, inner=False):
        where = f'eval.{self.batch}' if self.evaluating else f'step{self.step}.{self.micro}' if inner else f'step{self.step}'
        self.record.mark(f'{where} {name}')

    def next_step(self):
        self.step, self.micro = self.step + 1, -1
        self.phase('batch')

    def next_micro(self):
        self.micro += 1
        self.phase('prepare', True)

    def forward(self):
        self.phase('forward', True)

    def evaluate(self):
        self.evaluating = True
        self.record.mark('eval')

    def next_batch(self):
        self.batch += 1
        self.phase('batch')


def settings(a, folder):
    known = inspect.signature(transformers.TrainingArguments).parameters
    wanted = dict(
        output_dir=folder, per_device_train_batch_size=a.batch, per_device_eval_batch_size=a.batch, max_steps=a.steps,
        gradient_accumulation_steps=a.accumulate, optim=OPTIMIZERS[a.optimizer], max_grad_norm=a.clip, report_to='none',
        bf16=a.precision == 'bf16-autocast', fp16=a.precision == 'fp16-autocast', disable_tqdm=True,
        save_strategy='steps' if a.save else 'no', save_steps=1,
        eval_strategy='steps' if a.evaluate else 'no', eval_steps=a.steps, logging_steps=a.logging,
        remove_unused_columns=False, gradient_checkpointing=a.checkpoint != 'none')
    if a.eval_accumulation:
        wanted['eval_accumulation_steps'] = a.eval_accumulation
    if a.checkpoint != 'none':
        wanted['gradient_checkpointing_kwargs'] = {'use_reentrant': a.checkpoint == 'reentrant'}
    return transformers.TrainingArguments(**{k: v for k, v in wanted.items() if k in known})


def run(a, model, record):
    place = Place(record)
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model, args=settings(a, folder), train_dataset=Rows(a, a.batch * a.accumulate * a.steps * a.ranks),
            eval_dataset=Rows(a, a.batch * a.evaluate * a.ranks) if a.evaluate else None, data_collator=transformers.default_data_collator,
            compute_metrics=(lambda predictions: {}) if a.metrics else None)
        before(trainer, 'create_optimizer', lambda: record.mark('optimizer'))
        before(trainer, 'get_batch_samples', place.next_step)
        before(trainer, 'training_step', place.next_micro)
        before(trainer, 'compute_loss', place.forward)
        before(trainer.accelerator, 'backward', lambda: place.phase('backward', True))
        clip = '_clip_grad_norm' if hasattr(trainer, '_clip_grad_norm') else None
        before(trainer if clip else trainer.accelerator, clip or 'clip_grad_norm_', lambda: place.phase('clip'))
        before(trainer, 'evaluate', place.evaluate)
        before(trainer, '_save_checkpoint', lambda: place.phase('save'))
        before(trainer, 'prediction_step', place.next_batch)
        create = trainer.create_optimizer

        def created(*args, **kwargs):
            optimizer = create(*args, **kwargs)
            before(trainer.optimizer, 'step', lambda: place.phase('step'))
            return optimizer
        trainer.create_optimizer = created
        before(model, 'zero_grad', lambda: place.phase('zero'))
        trainer.train()
