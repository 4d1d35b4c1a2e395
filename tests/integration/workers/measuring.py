"""13 samples, their predictions, every metric of ours of them, and scikit-learn's answers."""

import math
from typing import Any

import torch
from torchmetrics.classification import MulticlassAUROC, MulticlassCohenKappa

from strategies import metrics

SAMPLES = 13
CLASSES = 4


class Predicted(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Scores for classes, of which the last is never a label; a regression; losses and a mask."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.labels = torch.randint(0, CLASSES - 1, (SAMPLES,), generator=generator)
        self.scores = torch.randn(SAMPLES, CLASSES, generator=generator)
        self.targets = 3 * torch.randn(SAMPLES, generator=generator, dtype=torch.float64) + 20
        noise = torch.randn(SAMPLES, generator=generator, dtype=torch.float64)
        self.guesses = self.targets + noise
        self.losses = torch.rand(SAMPLES, 6, generator=generator, dtype=torch.float64)
        self.mask = torch.rand(SAMPLES, 6, generator=generator) > 0.4
        # What a mask leaves out may be anything, and must not be seen.
        self.losses[~self.mask] = math.nan
        self.num_bytes = torch.randint(1, 9, (SAMPLES,), generator=generator)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[index] for name, values in vars(self).items()}


def measure(kappa: Any, auroc: Any, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return everything at once."""
    scores, labels = batch["scores"], batch["labels"]
    guesses, targets = batch["guesses"], batch["targets"]
    losses, mask = batch["losses"], batch["mask"]
    by_class = {
        f"{name} {average}": getattr(metrics, name)(
            scores, labels, num_classes=CLASSES, average=average
        )
        for name in ("precision", "recall", "f1")
        for average in ("macro", "micro", "weighted", "none")
    }
    binary = (scores.argmax(-1) == 1).long(), (labels == 1).long()
    return {
        "loss": torch.nn.functional.cross_entropy(scores, labels, reduction="none"),
        "accuracy": metrics.accuracy(scores, labels),
        "top 2": metrics.top_k(scores, labels, 2),
        "matrix": metrics.confusion_matrix(scores, labels, num_classes=CLASSES),
        "f1 binary": metrics.f1(*binary, num_classes=2, average="binary"),
        "mse": metrics.mse(guesses, targets),
        "rmse": metrics.rmse(guesses, targets),
        "mae": metrics.mae(guesses, targets),
        "r2": metrics.r2(guesses, targets),
        "r2 centered": metrics.r2(guesses, targets, center=20.0),
        "mse weighted": metrics.mse(guesses, targets, weights=batch["num_bytes"]),
        "perplexity": metrics.perplexity(losses, mask),
        "bits": metrics.bits_per_byte(losses, batch["num_bytes"].sum(), mask),
        "mine": ((guesses * targets).sum(), (targets**2).sum()),
        "kappa": metrics.torchmetric(kappa, scores, labels),
        "auroc": metrics.torchmetric(auroc, scores.softmax(-1), labels),
        **by_class,
    }


def kappa_and_auroc() -> tuple[Any, Any]:
    """Two metric objects of torchmetrics whose states are sums."""
    return (
        MulticlassCohenKappa(CLASSES),
        MulticlassAUROC(CLASSES, thresholds=20, average="none", validate_args=False),
    )


def expected() -> dict[str, float]:
    """Return what scikit-learn says of all samples at once."""
    from sklearn import metrics as oracle  # seconds, which the ranks need not wait for

    data = Predicted()
    y, p = data.labels.numpy(), data.scores.argmax(-1).numpy()
    targets, guesses = data.targets.numpy(), data.guesses.numpy()
    found = {
        "loss": oracle.log_loss(y, data.scores.double().softmax(-1).numpy(), labels=range(CLASSES)),
        "accuracy": oracle.accuracy_score(y, p),
        "top 2": oracle.top_k_accuracy_score(y, data.scores.numpy(), k=2, labels=range(CLASSES)),
        "f1 binary": oracle.f1_score(y == 1, p == 1),
        "mse": oracle.mean_squared_error(targets, guesses),
        "rmse": oracle.root_mean_squared_error(targets, guesses),
        "mae": oracle.mean_absolute_error(targets, guesses),
        "r2": oracle.r2_score(targets, guesses),
        "r2 centered": oracle.r2_score(targets, guesses),
        "mse weighted": oracle.mean_squared_error(
            targets, guesses, sample_weight=data.num_bytes.numpy()
        ),
        "perplexity": float(data.losses[data.mask].mean().exp()),
        "bits": float(data.losses[data.mask].sum() / math.log(2) / data.num_bytes.sum()),
        "mine": float((guesses * targets).sum() / (targets**2).sum()),
        "kappa": oracle.cohen_kappa_score(y, p),
    }
    for name in ("precision", "recall", "f1"):
        score = getattr(oracle, f"{name}_score")
        for average in ("macro", "micro", "weighted"):
            found[f"{name} {average}"] = score(y, p, average=average, zero_division=0)
        each = score(y, p, average=None, labels=range(CLASSES), zero_division=0)
        found |= {f"{name} none/{number}": value for number, value in enumerate(each)}
    matrix = oracle.confusion_matrix(y, p, labels=range(CLASSES))
    found |= {f"matrix/{i}/{j}": matrix[i, j] for i in range(CLASSES) for j in range(CLASSES)}
    whole = kappa_and_auroc()[1]
    whole.update(data.scores.softmax(-1), data.labels)
    found |= {f"auroc/{number}": float(value) for number, value in enumerate(whole.compute())}
    return {name: float(value) for name, value in found.items()}
