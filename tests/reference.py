"""Write the tables of the reference from the code: `python -m tests.reference`.

What stands between `<!-- generated: KIND ARGUMENTS -->` and `<!-- end -->` in a page of `docs/` is
made here, from the docstrings of errors, route handlers, commands and settings: the one place
where their meanings are written down.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import click
import msgspec
from msgspec.inspect import (
    BoolType,
    DictType,
    EnumType,
    FloatType,
    IntType,
    NoneType,
    StrType,
    StructType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from murmurate.cli.commands import main as commands
from murmurate.config import SECTIONS, TABLES, PolicyRule, Section, UpstreamConfig
from murmurate.core.errors import MurmurateError
from murmurate.gateway.administration import Administration
from murmurate.gateway.approvals import Decisions
from murmurate.gateway.auditing import Auditing
from murmurate.gateway.background import Background
from murmurate.gateway.batches import BatchRoutes
from murmurate.gateway.completions import Completions, Embeddings
from murmurate.gateway.files import FileRoutes
from murmurate.gateway.management import Management
from murmurate.gateway.responses.compaction import Compaction
from murmurate.gateway.responses.service import Responses
from murmurate.gateway.responses.stored import Stored
from murmurate.gateway.responses.talks import Talks
from murmurate.gateway.surface import Handlers, ItemHandlers, open_routes, scoped_routes
from murmurate.gateway.timetable import Timetable
from murmurate.gateway.usage import Usages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "murmurate"
BLOCK = re.compile(r"(<!-- generated: (\w+)([^>\n]*) -->\n).*?(<!-- end -->)", re.DOTALL)
ENDLESS = 1e9
"""Bounds from here on only keep out what no clock or memory knows, such as `inf`."""
SHAPES: dict[type[Type], str] = {BoolType: "true or false", StrType: "text", DictType: "table"}
PARTS: dict[str, type[Section]] = {
    "models.NAME.upstreams": UpstreamConfig,
    "policy.rules": PolicyRule,
}
"""What stands in a list of tables."""

ITEMS: dict[type[Type], str] = {IntType: "integers", StructType: "tables"}
CONNECTION = ("state", "key", "url")


def regenerate(page: str) -> str:
    """Return the page with its generated parts as the code has them now."""

    def made(found: re.Match[str]) -> str:
        begin, kind, arguments, end = found.groups()
        return f"{begin}{KINDS[kind](arguments)}{end}"

    return BLOCK.sub(made, page)


def errors(prefixes: str) -> str:
    """Return the errors whose codes begin so, in the order in which the code has them."""
    wanted = tuple(prefixes.split())
    return table(
        ("code", "status", "what happened, and what to do"),
        (
            (f"`{kind.code}`", str(kind.http_status), meaning(kind))
            for kind in family()
            if kind.code.startswith(wanted)
        ),
    )


def family() -> list[type[MurmurateError]]:
    """Return all errors that have a code of their own, also those beside what raises them."""
    for file in sorted(SOURCE.rglob("*.py")):
        if re.search(r"^    code = ", file.read_text("utf-8"), re.MULTILINE):
            import_module(".".join(file.relative_to(SOURCE.parent).with_suffix("").parts))
    kinds: list[type[MurmurateError]] = [MurmurateError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    ours = (it for it in dict.fromkeys(kinds) if it.__module__.startswith("murmurate."))
    coded = [kind for kind in ours if "code" in vars(kind)]
    return sorted(coded, key=lambda kind: (kind.__module__, inspect.getsourcelines(kind)[1]))


def routes(_: str) -> str:
    """Return what clients can ask for, with the scope that it needs."""
    parts = cast(
        "tuple[Any, ...]",
        (
            Completions,
            Embeddings,
            Management,
            Administration,
            Background,
            Timetable,
            ItemHandlers(*cast("tuple[Any, ...]", (Responses, Stored, Talks, Compaction))),
            FileRoutes,
            BatchRoutes,
            Decisions,
            Usages,
            Auditing,
        ),
    )
    merged: dict[Any, list[str]] = {}
    scopes: dict[Any, str] = {}
    for route in scoped_routes(Handlers(*parts)):  # classes have the handlers of what they make
        path = re.sub(r"\{([a-z]+)\}", lambda name: name[1].upper(), route.path)
        place = f"`{route.method} {path}`"
        merged.setdefault(route.handler, []).append(place)
        scopes[route.handler] = f"`{route.scope.value}`"
    rows = [(", ".join(places), scopes[it], meaning(it)) for it, places in merged.items()]
    public = open_routes(cast("Any", Management))
    rows += [(f"`GET {path}`", "", meaning(handler)) for path, handler in public.items()]
    return table(("route", "scope", "what it does"), rows)


def settings(names: str) -> str:
    """Return the settings of sections; the names stand before the keys when there are several."""
    sections = names.split()
    return table(
        ("key", "type", "default", "meaning"),
        (
            (f"`{f'{name}.' if sections[1:] else ''}{field.name}`", *cells(kind, field))
            for name in sections
            for kind in [PARTS.get(name) or {**SECTIONS, **TABLES}[name.partition(".")[0]]]
            for field in msgspec.structs.fields(kind)
        ),
    )


def cells(section: type[Section], field: msgspec.structs.FieldInfo) -> tuple[str, str, str]:
    """Return the type of a setting, its default, and what it means."""
    words, _, default = described(section)[field.name].partition(" [")
    types = {it.name: it.type for it in cast("StructType", type_info(section)).fields}
    return shape(types[field.name]), default.removesuffix("]") or built_in(field), words


@cache
def described(section: type[Section]) -> dict[str, str]:
    """Return the words below each field of a section, each as one line."""
    [tree] = ast.parse(inspect.getsource(section)).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in pairwise(tree.body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                found[name] = " ".join(words.split())
            case _:
                pass
    missing = [it for it in section.__struct_fields__ if it not in found]
    assert not missing, f"{section.__name__}: say below {', '.join(missing)} what it means"
    return found


def built_in(field: msgspec.structs.FieldInfo) -> str:
    """Return the default as one would write it into the file."""
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if value is None:
        return "none"
    if value == "":
        return "empty"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value if isinstance(value, str) else msgspec.json.encode(value).decode()}`"


def shape(kind: Type) -> str:
    """Return what may stand in the file."""
    match kind:
        case UnionType(types=types):
            [kind] = [it for it in types if not isinstance(it, NoneType)]
            return shape(kind)
        case IntType() | FloatType():
            name = "integer" if isinstance(kind, IntType) else "number"
            bounds = [f"over {kind.gt:g}"] if kind.gt is not None else []
            bounds += [f"at least {kind.ge}"] if kind.ge is not None else []
            bounds += [f"at most {kind.le}"] if kind.le is not None and kind.le < ENDLESS else []
            return ", ".join([name, *bounds])
        case EnumType(cls=names):
            return ", ".join(f"`{it.value}`" for it in names)
        case VarTupleType(item_type=item, min_length=least):
            items = f"list of {ITEMS.get(type(item), 'texts')}"
            return f"{items}, not empty" if least else items
        case _:
            return SHAPES[type(kind)]


def overview(_: str) -> str:
    """Return all commands with the first sentence about each."""
    return table(
        ("command", "what it does"),
        (
            (f"[`{usage}`](#{anchor(usage)})", summary(inspect.cleandoc(command.help or "")))
            for usage, command in leaves(commands, "murmurate")
        ),
    )


def details(_: str) -> str:
    """Return a section for each command: what it does, examples, options."""
    return "\n".join(section(usage, command) for usage, command in leaves(commands, "murmurate"))


def connection(_: str) -> str:
    """Return the options that say which server to talk to."""
    ask = commands.commands.get("ask") or commands.get_command(click.Context(commands), "ask")
    assert ask is not None
    return options(it for it in ask.params if it.name in CONNECTION)


def section(usage: str, command: click.Command) -> str:
    """Return what a command's `--help` says."""
    words, _, examples = inspect.cleandoc(command.help or "").partition("\b\n")
    paragraphs = [" ".join(part.split()) for part in words.strip().split("\n\n")]
    parts = [f"### {usage}", *paragraphs]
    if examples:
        parts.append(f"```text\n{examples.strip()}\n```")
    connects = {it.name for it in command.params}.issuperset(CONNECTION)
    own = [it for it in command.params if isinstance(it, click.Option)]
    own = [it for it in own if not (connects and it.name in CONNECTION)]
    if own:
        parts.append(options(own).strip())
    return "\n\n".join(parts) + "\n"


def options(params: Iterable[click.Parameter]) -> str:
    """Return options with the help that the command gives."""
    rows: list[tuple[str, str]] = []
    for option in params:
        assert isinstance(option, click.Option), option
        assert option.help, f"{option.opts}: say what it is for, in help="
        value = "" if option.is_flag else f" {option.make_metavar(click.Context(commands))}"
        words = option.help
        if option.show_default:
            words = f"{words.removesuffix('.')} [{option.default}]."
        if option.envvar:
            words += f" Also `{option.envvar}`."
        rows.append((f"`{option.opts[0]}{value}`".replace("|", "\\|"), words))
    return table(("option", "meaning"), rows)


def leaves(group: click.Group, name: str) -> Iterable[tuple[str, click.Command]]:
    """Yield each command that does something, as it is typed."""
    context = click.Context(group)
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, f"{name} {word}")
        else:
            given = [it for it in command.params if isinstance(it, click.Argument)]
            places = [it.make_metavar(context) for it in given]
            yield " ".join([name, word, *places]), command


def anchor(heading: str) -> str:
    """Return the name under which a heading can be linked."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def summary(words: str) -> str:
    """Return the first paragraph, without the full stop of a single sentence."""
    return " ".join(words.split("\n\n", maxsplit=1)[0].split()).removesuffix(".")


def meaning(thing: object) -> str:
    """Return a docstring as one line."""
    words = inspect.getdoc(thing)
    assert words, f"{thing}: a docstring says what it means"
    return " ".join(words.split())


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [" | ".join(cells) for cells in rows]
    shown = [f"| {line} |".replace("|  |", "| |") for line in lines]
    return "\n".join([f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *shown, ""])


KINDS: dict[str, Callable[[str], str]] = {
    "errors": errors,
    "routes": routes,
    "settings": settings,
    "commands": overview,
    "details": details,
    "connection": connection,
}


def main() -> None:
    """Bring every page up to date."""
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (now := regenerate(text)) != text:
            page.write_text(now, encoding="utf-8")
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
