"""Docstrings as the reference shows them: every `name: what it is` of a parameter or attribute in a line of its own."""

import re

import griffe


class ParameterLists(griffe.Extension):
    """A pass of mkdocstrings over all docstrings, which are written as running text."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if not (obj.is_class or obj.is_function):
            return
        names = [parameter.name for parameter in obj.parameters]
        names += [name for name, member in obj.members.items() if isinstance(member, griffe.Attribute)]
        if obj.docstring and names:
            name = "|".join(map(re.escape, names))
            begins = rf"(?:^|(?<=[.;)] ))((?:{name})(?:, (?:{name}))*): "
            text = re.sub(begins, r"\n- **\1**: ", obj.docstring.value, flags=re.MULTILINE)
            # Markdown begins no list within a paragraph
            text = "\n\n".join(part.replace("\n- **", "\n\n- **", 1) for part in text.split("\n\n"))
            obj.docstring.value = re.sub(
                r"(?<=\.) (?=Raises `?UserError)|(?<=\.)\n(?=Raises `?UserError)", "\n\n", text
            )
