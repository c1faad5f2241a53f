"""Headings between the groups of parameters that a docstring lists: an extension of Sphinx."""

import re

GROUP = re.compile(r"- ([a-z ]+): ((?:`\w+`,?\s*)+)")
ENTRY = re.compile(r" {4}\*\*(\w+)")


def groups_of(docstring):
    """Return ``{group: names of parameters}`` of the list in a docstring, in its order."""
    listed = docstring.partition("in five groups")[2].partition("\nParameters\n")[0]
    return {group: re.findall(r"`(\w+)`", names) for group, names in GROUP.findall(listed)}


def add_headings(app, what, name, obj, options, lines):
    """Write the name of a group above the first of its parameters."""
    firsts = {names[0]: group for group, names in groups_of("\n".join(lines)).items()}
    for number in reversed(range(len(lines))):
        entry = ENTRY.match(lines[number])
        group = firsts.pop(entry.group(1), None) if entry else None
        if group:
            lines[number:number] = [f"    .. rubric:: {group.capitalize()}", ""]


def setup(app):
    """Run when numpydoc has made one list of a docstring's parameters."""
    app.connect("autodoc-process-docstring", add_headings, priority=800)
    return {"parallel_read_safe": True}
