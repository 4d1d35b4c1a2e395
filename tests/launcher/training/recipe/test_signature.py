"""What editors and help() show of run.prepare and run.fit."""

import inspect
from dataclasses import MISSING, fields

import pytest

from launcher import Run
from launcher.training.recipe.recipe import Recipe
from launcher.training.recipe.signature import FitArguments, PrepareArguments


def test_the_types_are_those_of_the_recipe() -> None:
    written = PrepareArguments.__annotations__ | FitArguments.__annotations__
    expected = {
        field.name: f"Required[{field.type}]"
        if field.default is MISSING and field.default_factory is MISSING
        else field.type
        for field in fields(Recipe)
    }
    assert {name: one.__forward_arg__ for name, one in written.items()} == expected


@pytest.mark.parametrize(("method", "first"), [(Run.prepare, []), (Run.fit, ["loss"])])
def test_the_signature_names_each_argument_once(method: object, first: list[str]) -> None:
    names = list(inspect.signature(method).parameters)  # type: ignore[arg-type]
    assert names[: 1 + len(first)] == ["self", *first]
    assert {field.name for field in fields(Recipe)} <= set(names)
    assert len(names) == len(set(names))
    assert inspect.signature(method).parameters["keep"].default == 3  # type: ignore[arg-type]
