"""Shell completion: commands by us, overrides by Hydra's own completer, which knows groups and fields."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.spec import SpecError

_BASH = """_saint() {
  local word="${COMP_WORDS[COMP_CWORD]}"
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "COMMANDS" -- "$word"))
  else
    local line="${COMP_LINE#* }"
    COMPREPLY=($(COMP_LINE="saint ${line#* }" COMP_POINT=${#COMP_LINE} saint run -sc query=bash 2>/dev/null))
    [[ "${COMPREPLY[0]}" == *= || "${COMPREPLY[0]}" == *. || "${COMPREPLY[0]}" == */ ]] && compopt -o nospace
  fi
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=/}
complete -F _saint saint"""

_ZSH = "autoload -U +X bashcompinit && bashcompinit\n" + _BASH

_FISH = """complete -c saint -f -n "test (count (commandline -opc)) -eq 1" -a "COMMANDS"
function __saint_overrides
  set -l words (commandline -opc)
  set -lx COMP_LINE "saint "(string join " " -- $words[3..-1])" "(commandline -ct)
  saint run -sc query=fish 2>/dev/null
end
complete -c saint -f -n "test (count (commandline -opc)) -gt 1" -a "(__saint_overrides)\""""


def script(shell: str, commands: Iterable[str]) -> str:
    """The completion script of a shell, for some commands. Raises ``SpecError``."""
    scripts = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
    if shell not in scripts:
        raise SpecError(f"{shell!r}, but there is completion for {', '.join(scripts)}; name one of them")
    return scripts[shell].replace("COMMANDS", " ".join(commands))
