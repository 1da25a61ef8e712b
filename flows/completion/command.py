"""The command `hinge completion`, which prints a shell's completion script."""

import click

from flows.command_line.exit_status import EXIT_DONE

_VARIABLE = "_HINGE_COMPLETE"
"""The variable with which the script asks `hinge` for completions. Click chooses this name."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print the completion script of a shell.

    In bash and zsh, put `eval "$(hinge completion bash)"` (or zsh) at the end of ~/.bashrc (or
    ~/.zshrc). In fish, run `hinge completion fish > ~/.config/fish/completions/hinge.fish`.
    Commands, options, their choices, names of runs and directories are then completed.
    """
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None
    root = context.find_root()
    click.echo(script(root.command, {}, root.info_name or "hinge", _VARIABLE).source())
    return EXIT_DONE
