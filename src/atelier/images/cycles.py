"""Cycles of folders: which folders lead to each other through subfolders and links."""

from collections.abc import Callable, Iterable


class FolderCycles:
    """The strongly connected components of a graph of folders, found as they are asked for.

    Every folder and every edge is looked at once, however many questions are asked.
    """

    def __init__(self, next_folders: Callable[[str], Iterable[str]]) -> None:
        self._next_folders = next_folders
        # One folder stands for each component: two folders lead to each other if theirs is equal.
        self._component: dict[str, str] = {}

    def closes(self, holder: str, target: str) -> bool:
        """Return whether an edge from ``holder`` to ``target`` is part of a cycle."""
        if target not in self._component:
            self._explore(target)
        # A folder without a component was not reached from the target.
        return self._component.get(holder) == self._component[target]

    def _explore(self, start: str) -> None:
        """Give each folder that ``start`` leads to its component, by Gabow's algorithm.

        It is not recursive, because chains of folders can be longer than Python's stack.
        """
        order = {start: 0}
        # Folders without a component yet, and those of them that may be the first of theirs.
        pending, firsts = [start], [start]
        path = [(start, iter(self._next_folders(start)))]
        while path:
            folder, following = path[-1]
            for other in following:
                if other in self._component:
                    continue
                if other not in order:
                    order[other] = len(order)
                    pending.append(other)
                    firsts.append(other)
                    path.append((other, iter(self._next_folders(other))))
                    break
                while order[firsts[-1]] > order[other]:
                    firsts.pop()
            else:
                path.pop()
                if firsts[-1] == folder:
                    firsts.pop()
                    while folder not in self._component:
                        self._component[pending.pop()] = folder
