"""From the words after `relaunch` and the environment to options with their texts; pure.

As in torchrun: dashes and underscores are the same thing in an option's name, an option may be
cut short where that leaves one meaning, `PET_<NAME>` in the environment gives an option unless the
command line does, and everything after the script belongs to the script.
"""

from collections.abc import Mapping, Sequence

from ..errors import UsageError
from ..plan.given_options import Given, Words, nearest
from .option_table import OPTIONS, TORCHRUN_OPTIONS, Option

SEE_HELP = "See relaunch --help."


def read_words(argv: Sequence[str], environ: Mapping[str, str]) -> Words:
    """Take the options off the front of the words, and those of the environment.

    Raises:
        UsageError: An option is unknown, lacks its value or has one that is not among its choices.
    """
    given = {
        option.name: Given(text=text, spelled=f"{option.variable}={text}")
        for option in OPTIONS
        if option.from_environment and (text := environ.get(option.variable))
    }
    words = list(argv)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            break
        option, value = _take(word, words)
        spelled = option.name if option.value is None else f"{option.name} {value}"
        given[option.name] = Given(text=value, spelled=spelled)
    for option in OPTIONS:
        if option.choices and option.name in given:
            _check_choice(given[option.name], option.choices)
    return Words(given=given, rest=tuple(words))


_ELSEWHERE = {
    "-c": "To start Python code that is given as text: relaunch --no-python python -c 'CODE'.",
}
"""What Python takes and torchrun does not, with what to write."""


def resolve(spelled: str) -> Option:
    """Return the option that a word such as `--nproc_per` means.

    Raises:
        UsageError: None does, or several do.
    """
    name = spelled.replace("_", "-")
    for option in OPTIONS:
        if name in (option.name, option.short):
            return option
    if name.startswith("--"):
        # torchrun's first: what is short for one of its options stays so beside ours.
        for options in (TORCHRUN_OPTIONS, OPTIONS):
            meant = [option for option in options if option.name.startswith(name)]
            if len(meant) == 1:
                return meant[0]
            if meant:
                names = ", ".join(option.name for option in meant)
                raise UsageError(f"{spelled} could be {names}. Spell it out.")
    if spelled in _ELSEWHERE:
        raise UsageError(f"there is no option {spelled}. {_ELSEWHERE[spelled]}")
    raise UsageError(f"unknown option {spelled}{nearest(name, [o.name for o in OPTIONS])}")


def _take(word: str, words: list[str]) -> tuple[Option, str]:
    """Return the option that the word begins and its value, which may be the next word."""
    spelled, equals, value = word.partition("=")
    if not word.startswith("--") and len(word) > 2:
        # `-r3`, and `-mr3` for `-m -r3`
        spelled, value, equals = word[:2], word[2:].removeprefix("="), "="
    option = resolve(spelled)
    if option.value is None:
        if equals and word.startswith("--"):
            raise UsageError(f"{spelled} takes no value, but {word} gives one. {SEE_HELP}")
        if equals:
            words.insert(0, f"-{value}")
        return option, "1"
    if not equals:
        if not words or _is_option(words[0]):
            raise UsageError(f"{spelled} needs a value. {SEE_HELP}")
        value = words.pop(0)
    return option, value


def _is_option(word: str) -> bool:
    name = word.partition("=")[0].replace("_", "-")
    return any(name in (option.name, option.short) for option in OPTIONS)


def _check_choice(given: Given, choices: Sequence[str]) -> None:
    if given.text not in choices:
        raise UsageError(f"{given.spelled} is unknown; choose from {', '.join(sorted(choices))}.")
