"""What a rule monitors must have been measured, as a number."""

import pytest

from launcher.training.loop.evaluation_rules import EvaluationRules
from strategies import ConfigError, EarlyStopping, ReduceOnPlateau

JUDGE = EvaluationRules(stop=EarlyStopping("val/loss"), plateau=None)
PLATEAU = EvaluationRules(stop=None, plateau=ReduceOnPlateau("test/loss"))


def test_what_is_measured_will_do():
    JUDGE.require_measured({"val/loss": 1.0}, 4)
    JUDGE.require_measured_as("val", {"val/loss": 1.0})
    JUDGE.require_measured_as("other", {"other/x": 1.0})  # val/loss may come yet
    EvaluationRules(stop=None, plateau=None).require_measured({}, 4)


@pytest.mark.parametrize("metrics", [{}, {"val/accuracy": 1.0}, {"val/loss": [[1.0]]}])
def test_what_is_not_is_told(metrics):
    words = r"is a table" if "val/loss" in metrics else r"after step 4 measured"
    with pytest.raises(ConfigError, match=f'EarlyStopping monitors "val/loss".*{words}'):
        JUDGE.require_measured(metrics, 4)
    with pytest.raises(ConfigError, match='EarlyStopping monitors "val/loss"'):
        JUDGE.require_measured_as("val", metrics)
    with pytest.raises(ConfigError, match="ReduceOnPlateau"):
        PLATEAU.require_measured(metrics, 4)
