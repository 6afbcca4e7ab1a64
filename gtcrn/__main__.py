"""The command `gtcrn …`, which is also `python -m gtcrn …` and, in a checkout, `python run.py …`."""

import os
import sys

from gtcrn.signals import ended_at_once, raise_at_sigterm


def main() -> None:
    """Compose the configuration that this process's arguments name, and hand it to its task."""
    with ended_at_once():  # nothing slow is imported before this
        try:
            import hydra

            from gtcrn import tasks
            from gtcrn.tasks.command_line import CONFIGS, list_quickly, one_line_errors
            from gtcrn.tasks.completion import suggestions
        except ModuleNotFoundError as error:  # as where only what `gtcrn.runtime` needs is installed
            sys.exit(f"error: the command gtcrn needs the package {error.name}: pip install it, or all of gtcrn's")
    raise_at_sigterm()
    if {"--help", "-h", "-sc"}.intersection(sys.argv):
        list_quickly()
    with one_line_errors():
        hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")(tasks.run)()
    if "-sc" in sys.argv and "COMP_LINE" in os.environ:  # a shell asks for completions: these follow Hydra's
        print(*suggestions(os.environ["COMP_LINE"]), sep="\n")


if __name__ == "__main__":
    main()
