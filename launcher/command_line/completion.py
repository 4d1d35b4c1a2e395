"""What a shell needs to complete the command's options; pure."""

from .option_table import OPTIONS


def completion(shell: str) -> str:
    """Return the script that `--print-completion` prints: for bash, zsh or tcsh."""
    names = [option.name for option in OPTIONS]
    if shell == "tcsh":
        listed = " ".join(name.removeprefix("--") for name in names)
        return f"complete relaunch 'c/--/({listed})/' 'n/*/f/'"
    function = (
        "_relaunch() {\n"
        f"    COMPREPLY=($(compgen -W '{' '.join(names)}' -- \"${{COMP_WORDS[COMP_CWORD]}}\"))\n"
        "}\n"
        "complete -o default -F _relaunch relaunch"
    )
    if shell == "zsh":
        return f"autoload -U +X bashcompinit && bashcompinit\n{function}"
    return function
