"""For mkdocs.yml: the roles of our docstrings, ``:class:`Trace```, become links of the pages.

mkdocstrings reads docstrings as Markdown, which knows no roles. A name is looked up where it stands, as Python would
do it; what no page shows is set as code.
"""

import re

from griffe import AliasResolutionError, Extension, GriffeLoader, NameResolutionError, Object

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(?P<name>[\w.]+)`")


class Roles(Extension):
    """Replaces roles once the package is loaded, when every name can be found."""

    def on_package(self, *, pkg: Object, loader: GriffeLoader, **kwargs: object) -> None:
        replace_roles(pkg)


def replace_roles(scope: Object) -> None:
    if scope.docstring is not None:
        scope.docstring.value = ROLE.sub(lambda role: link(role["name"], scope), scope.docstring.value)
    for member in scope.members.values():
        if not member.is_alias:
            replace_roles(member)


def link(name: str, scope: Object) -> str:
    # Optional: a name that no page shows is no mistake.
    return f'<autoref optional identifier="{find(name, scope)}"><code>{name}</code></autoref>'


def find(name: str, scope: Object) -> str:
    """The full name of what stands in a docstring of ``scope``, where it is defined; else the name."""
    path = name if name.startswith("odam_d2.") else _resolve(name, scope)
    try:
        return scope.modules_collection[path].canonical_path
    except (KeyError, AliasResolutionError):
        return path


def _resolve(name: str, scope: Object | None) -> str:
    while scope is not None:
        try:
            return scope.resolve(name)
        except NameResolutionError:
            scope = scope.parent
    return name
