"""How much of what the ViT's patches tell do the queries pass on? Usable information, by the same probes of both.

Mutual information cannot answer that: of a deterministic map it is all or infinite. Usable information (Xu et al. 2020,
arXiv 2002.10689) can: how many bits of a label a probe of a given kind reads off, I(X → Y) = H(Y) − H(Y | X), with both
entropies as cross-entropies on examples that the probe never saw. Pure functions of tensors, no model.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qformer_viz.errors import BadShape, BadValues

PROBES = ("linear", "attention")
# Shares of the examples that probes learn from, and that decide when to stop; the rest measures.
LEARN, STOP = 0.7, 0.1
ATTENTIONS = 8
BATCH, EPOCHS, PATIENCE = 64, 60, 8
# (rate, weight decay) that are tried: what lies deep takes small steps and a firm hand, what lies flat neither.
SETTINGS = ((1e-3, 1.0), (4e-3, 0.03))
RESAMPLES = 1000
FEWEST = 100


@dataclass(frozen=True)
class Usable:
    """`bits` of a label that a probe reads off an example, in the mean over examples it never saw, with the 95 %
    bootstrap interval over them; `entropy`, the bits that there are to be read. A label of several binary parts counts
    their sum. Below zero the probe has learned what does not hold."""

    bits: float
    low: float
    high: float
    entropy: float


class Probe(nn.Module):
    """Reads labels off [n, k, d] by way of weighted means of the k vectors, with weights learned for what a vector says
    and where in the row it stands. Of a single vector that is multinomial logistic regression."""

    def __init__(self, like: Tensor, outputs: int):
        """like: [n, k, d], examples by whose mean and spread the means are standardised."""
        super().__init__()
        self.mean: Tensor
        self.spread: Tensor
        _, vectors, width = like.shape
        mean = sum(part.float().sum((0, 1)) for part in like.split(BATCH)) / (len(like) * vectors)
        spread = sum((part.float() - mean).square().sum((0, 1)) for part in like.split(BATCH))
        self.register_buffer("mean", mean)
        self.register_buffer("spread", (spread / (len(like) * vectors)).sqrt().clamp_min(1e-6))
        means = min(vectors, ATTENTIONS)
        self.look = nn.Parameter(torch.randn(width, means) / width**0.5)
        self.place = nn.Parameter(torch.zeros(vectors, means))
        self.read = nn.Linear(means * width, outputs)
        nn.init.zeros_(self.read.weight)

    def forward(self, vectors: Tensor) -> Tensor:
        vectors = vectors.float()
        # What is taken away from every vector alike changes no weight, and weights add up to one: only means need be
        # standardised.
        weights = (vectors @ (self.look / self.spread[:, None]) + self.place).softmax(1)
        means = weights.transpose(1, 2) @ vectors
        return self.read(((means - self.mean) / self.spread).flatten(1))


def usable_information(
    features: Tensor,
    labels: Mapping[str, Tensor],
    kind: str = "attention",
    seed: int = 0,
    on_progress: Callable[[int, int], object] = lambda done, of: None,
) -> dict[str, Usable]:
    """What a probe reads of each label off features [n, k, d], k vectors for each of n examples.

    kind: "linear" reads off the mean of the vectors, "attention" off `ATTENTIONS` weighted means, see `Probe`.
    labels: integers [n], classes from 0; or booleans [n, c], c binary parts. on_progress(done, total) is called
    after each label.
    Every label has a probe of its own. The examples are taken as they come: the first learn, the last measure.
    Raises BadShape or BadValues where features and labels do not fit.
    """
    if kind not in PROBES:
        raise BadValues(f"probe {kind!r}", " or ".join(PROBES), "choose one of them")
    if features.dim() != 3 or not len(labels) or any(len(each) != len(features) for each in labels.values()):
        raise BadShape(
            f"features {list(features.shape)} with labels { ({k: list(v.shape) for k, v in labels.items()}) }",
            "[n, k, d] with [n] or [n, c] each",
            "give every example its vectors and its labels",
        )
    if len(features) < FEWEST:
        raise BadValues(f"{len(features)} examples", f"{FEWEST} or more", "give more examples")
    learn, stop = round(LEARN * len(features)), round((LEARN + STOP) * len(features))
    if kind == "linear":
        features = features.mean(1, keepdim=True, dtype=torch.float32)
    parts = features.tensor_split([learn, stop])
    found = {}
    for done, (name, label) in enumerate(labels.items(), 1):
        found[name] = _read(parts, label.tensor_split([learn, stop]), seed)
        on_progress(done, len(labels))
    return found


def _read(parts: tuple[Tensor, ...], labels: tuple[Tensor, ...], seed: int) -> Usable:
    (learn, stop, measure), (known, check, truth) = parts, labels
    binary = known.dim() == 2
    outputs = known.shape[1] if binary else int(torch.cat(labels).max()) + 1
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        probes = [_learned(Probe(learn, outputs), setting, parts, labels, rng) for setting in SETTINGS]
    probe = min(probes, key=lambda probe: float(_losses(probe, stop, check).mean()))
    prior = _nats(_constant(known, outputs).expand(len(truth), -1), truth) / math.log(2)
    gained = prior - _losses(probe, measure, truth) / math.log(2)
    draws = gained[torch.randint(len(gained), (RESAMPLES, len(gained)), generator=rng)].mean(1)
    low, high = draws.quantile(torch.tensor([0.025, 0.975])).tolist()
    return Usable(float(gained.mean()), low, high, float(prior.mean()))


def _learned(
    probe: Probe,
    setting: tuple[float, float],
    parts: tuple[Tensor, ...],
    labels: tuple[Tensor, ...],
    rng: torch.Generator,
) -> Probe:
    """The probe after the epoch that was best on the examples that decide when to stop."""
    rate, decay = setting
    (learn, stop, _), (known, check, _) = parts, labels
    optimiser = torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=decay)
    # A probe may look at nothing and say what is best said then, or bits could be lost by looking.
    probe.read.bias.data.copy_(_constant(known, len(probe.read.bias)))
    best, kept, waited = math.inf, {}, 0
    for epoch in range(EPOCHS + 1):
        for chosen in torch.randperm(len(learn), generator=rng).split(BATCH) if epoch else ():
            loss = _nats(probe(learn[chosen]), known[chosen]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        now = float(_losses(probe, stop, check).mean())
        waited += 1
        if now < best:
            best, waited = now, 0
            kept = {name: value.clone() for name, value in probe.state_dict().items()}
        if waited == PATIENCE:
            break
    probe.load_state_dict(kept)
    return probe


@torch.no_grad()
def _losses(probe: Probe, vectors: Tensor, labels: Tensor) -> Tensor:
    """Nats that each example costs, [n]."""
    return torch.cat(
        [_nats(probe(v), y) for v, y in zip(vectors.split(BATCH), labels.split(BATCH), strict=True)]
    )


def _nats(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").sum(1)


def _constant(labels: Tensor, outputs: int) -> Tensor:
    """Logits [outputs] of what is best said without looking, learned with one example of everything added."""
    if labels.dim() == 1:
        return (torch.bincount(labels, minlength=outputs) + 1.0).log()
    share = (labels.float().sum(0) + 1) / (len(labels) + 2)
    return share.logit()
