"""Options that take several values one after another."""

from typing import Any

from typer.core import TyperCommand


class Lists(TyperCommand):
    """A command whose options of several values take them one after another: ``--style A B``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Say the option again before each of its values, as click wants it."""
        several = {name for param in self.params if param.multiple for name in param.opts}
        spread: list[str] = []
        option = ""
        for arg in args:
            if arg.startswith("-"):
                option = arg if arg in several else ""
                spread += [] if option else [arg]
            else:
                spread += [option, arg] if option else [arg]
        return super().parse_args(ctx, spread)
