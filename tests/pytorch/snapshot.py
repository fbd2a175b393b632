"""Memory snapshots of PyTorch for tests/test_pytorch_snapshot.c, made on the CUDA runtime of stand-in/.

usage: snapshot.py [--out FOLDER]

Each is a process of its own. What PyTorch's own statistics say of it is printed: the test has these numbers.
"""
import argparse
import gzip
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
STAND_IN = os.environ.get("BRIM_PYTORCH_STAND_IN", os.path.join(HERE, "../../build/pytorch-stand-in"))

# name: what _record_memory_history is given, PYTORCH_CUDA_ALLOC_CONF, blocks made before the record begins
SNAPSHOTS = {
    "whole": ({"stacks": "python"}, "", 0),
    "frames": ({"stacks": "all", "max_entries": 40}, "", 0),
    "job": ({}, "", 0),
    "late": ({"stacks": "python", "max_entries": 60}, "expandable_segments:True", 6),
}


def train(torch):
    nn = torch.nn
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 1000)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        loss = model(torch.randn(512, 64, device="cuda")).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    try:
        torch.empty(3 << 30, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        pass


JOB = ("--model llama --set vocab_size=97,hidden_size=64,intermediate_size=96,num_hidden_layers=1,num_attention_heads=4,"
       "num_key_value_heads=2,max_position_embeddings=64 --batch 2 --seq 16 --steps 1")


def make_job(path):
    """A step of a job of job.py, recorded from the first parameter on: what `brim report --predict` lies beside."""
    import job

    a = job.parse(JOB.split())
    job.prepare()
    job.prepare_card(a.card)
    import loop
    import models
    import torch

    class Record:
        def mark(self, phase):
            pass

    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.cuda.init()
    torch.cuda.memory._record_memory_history(stacks="python", context=None, max_entries=100000)
    loop.run(a, models.make(a), Record())
    torch.cuda.memory._dump_snapshot(path)


def make(name, path):
    """In the snapshot's own process."""
    if name == "job":
        return make_job(path)
    import torch

    options, _, before = SNAPSHOTS[name]
    kept = [torch.empty(3000 * (i + 1), dtype=torch.uint8, device="cuda") for i in range(before)]
    torch.cuda.memory._record_memory_history(**options)
    train(torch)
    kept = kept[::2]  # noqa: F841: some of them go
    torch.cuda.memory._dump_snapshot(path)
    stats = torch.cuda.memory_stats()
    for which in ("current", "peak"):
        print(name, which, *(stats["%s_bytes.all.%s" % (kind, which)] for kind in ("requested", "allocated", "reserved")))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default=os.path.join(HERE, "fixtures"))
    a = parser.parse_args()
    for name, (_, conf, _) in SNAPSHOTS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "snapshot.pickle")
            env = dict(os.environ, STAND_IN_MIB="2600", LD_PRELOAD=os.path.join(STAND_IN, "libpytorch-stand-in.so"),
                       LD_LIBRARY_PATH=STAND_IN, PYTORCH_NVML_BASED_CUDA_CHECK="0", SNAPSHOT=name, SNAPSHOT_PATH=path)
            env.pop("PYTORCH_ALLOC_CONF", None)
            env["PYTORCH_CUDA_ALLOC_CONF"] = conf
            subprocess.run([sys.executable, __file__], env=env, check=True)
            with open(path, "rb") as data, open(os.path.join(a.out, "snapshot_%s.pickle.gz" % name), "wb") as out:
                out.write(gzip.compress(data.read(), 9, mtime=0))


if __name__ == "__main__":
    if os.environ.get("SNAPSHOT"):
        make(os.environ["SNAPSHOT"], os.environ["SNAPSHOT_PATH"])
    else:
        main()
