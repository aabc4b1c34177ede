"""Options that take several values one after another."""

from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand

from atelier.errors import AtelierError


class Lists(TyperCommand):
    """A command whose options of several values take them one after another: ``--style A B``.

    Such an option takes all that follows, up to the next option: arguments come before it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Say the option again before each of its values, as click wants it.

        Raises:
            AtelierError: such an option took all, so that no argument is left.
        """
        several = {name for param in self.params if param.multiple for name in param.opts}
        spread: list[str] = []
        option = ""
        for arg in args:
            if arg.startswith("-"):
                option = arg if arg in several else ""
                spread += [] if option else [arg]
            else:
                spread += [option, arg] if option else [arg]
        try:
            return super().parse_args(ctx, spread)
        except typer.BadParameter as trouble:
            greedy = [arg for arg in args if arg in several]
            if not greedy or not isinstance(trouble.param, TyperArgument):
                raise
            left, *lists, _ = self.collect_usage_pieces(ctx)
            raise AtelierError(
                f"{greedy[0]} takes all that follows it, so that no {left.rstrip('.')} is left;"
                f" type them first: {' '.join([ctx.command_path, left, *lists])}."
            ) from None

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What the line of usage lists: arguments first where an option would take them."""
        lists = [f"{param.opts[0]} {param.metavar}" for param in self.params if _wanted(param)]
        if not lists:
            return super().collect_usage_pieces(ctx)
        arguments = [p.metavar or "" for p in self.params if isinstance(p, TyperArgument)]
        return [*arguments, *lists, self.options_metavar or ""]


def _wanted(param: Any) -> bool:
    """Whether this is an option of several values without which there is no command."""
    return bool(param.multiple and param.required)
