from launcher.training.reporting.resume_report import ResumeReport, report_resume

STATE = {
    "optimizer": {"name": "AdamW"},
    "data": {"epoch": 3},
    "random": {"seed": 11},
    "objects": {"ema": {}, "gone": {}},
}
MAKER = {"strategy": "ddp", "world_size": 2, "precision": "fp32"}


def report(**now):
    return report_resume(
        STATE, MAKER, now={**MAKER, **now}, objects=("ema", "fresh"), changes=("lr: 1 -> 2",)
    )


def test_everything_is_in_one_of_three_lists():
    found = report(strategy="zero2", world_size=3)
    assert "object ema" in found.restored
    assert any("AdamW" in one for one in found.restored)
    assert any("seed 11" in one for one in found.derived)
    assert found.changed == (
        "strategy: ddp -> zero2",
        "world_size: 2 -> 3",
        "lr: 1 -> 2",
        "object fresh: new, as the script built it",
        "object gone: saved, but no longer given",
    )


def test_lines_leave_out_what_is_empty():
    assert ResumeReport(restored=("a", "b"), derived=(), changed=("c",)).lines() == [
        "restored: a; b",
        "changed: c",
    ]
