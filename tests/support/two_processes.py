"""`torchrun --nproc-per-node N -m tests.support.two_processes FOLDER PARTS`: a small training; PARTS draws make one
loss."""

import sys
from pathlib import Path

import torch

from model.training_loop import Schedule, make_accelerator, run

folder, parts = Path(sys.argv[1]), int(sys.argv[2])
accelerator = make_accelerator("fp32")
torch.manual_seed(0)
module = torch.nn.Linear(3, 1)
module.unused = torch.nn.Parameter(torch.ones(2))


def draw(number):
    return [
        torch.randn(8, 3, generator=torch.Generator().manual_seed(parts * number + i)) for i in range(parts)
    ]


def loss_of(module, batch):
    return sum((module(x) - x.sum(1, keepdim=True)).square().mean() for x in batch) / parts, {}


run("small", accelerator, module, draw, loss_of, Schedule(steps=5, lr=1e-2, warmup=1), folder)
