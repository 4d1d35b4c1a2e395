"""A schedule and early stopping in a plain torch loop, without any other part of relaunch.

python scripts/examples/schedule_alone.py
"""

import torch

from strategies import EarlyStopping, EarlyStoppingState, schedules

EPOCHS, STEPS = 40, 10


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(320, 4)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = schedules.warmup(20).then(schedules.cosine(floor=0.1))
    # It returns a factor on the rate, which is what torch's LambdaLR multiplies with.
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: schedule(min(step, EPOCHS * STEPS - 1), EPOCHS * STEPS)
    )
    rule = EarlyStopping("val/loss", mode="min", patience=3, min_delta=1e-4)
    state = EarlyStoppingState()  # a value: keep state.to_json() in your checkpoint
    for epoch in range(EPOCHS):
        for rows in torch.randperm(256).split(256 // STEPS + 1):
            optimizer.zero_grad()
            (model(x[rows]) - y[rows]).square().mean().backward()
            optimizer.step()
            scheduler.step()
        with torch.no_grad():
            value = float((model(x[256:]) - y[256:]).square().mean())
        state, is_best = rule.update(state, value, step=(epoch + 1) * STEPS)
        if is_best:
            best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if state.reason is not None:
            print(f"stopped after epoch {epoch}: {state.reason}")
            break
    model.load_state_dict(best)
    print(f"best {state.best:.6f}")


if __name__ == "__main__":
    main()
