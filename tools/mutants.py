"""Mutants of a source: small slips of the pen, one at a time, that some test ought to notice.

Python's come from mutmut (https://mutmut.readthedocs.io), with three kinds of ours: a call that is not made, an
error that is not raised, a result that is not returned. Lua's are made here, on its tokens.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mutant:
    """One changed source. `line` counts from 1; `before` and `after` are what changed there, for people."""

    line: int
    before: str
    after: str
    source: str


LEFT_ALONE = re.compile(r"(log|logger|logging)\.|(len|isinstance|cast)$")
"""Calls that are not changed: no behaviour hangs on a log's words, and the rest would only raise a TypeError."""


def of_python(source: str) -> list[Mutant]:
    """The mutants of a module, its constants and class bodies too, but for its imports, types and decorators."""
    import libcst as cst  # noqa: PLC0415 - comes with mutmut, which only Python needs
    from libcst.metadata import MetadataWrapper, WhitespaceInclusivePositionProvider  # noqa: PLC0415

    module = cst.parse_module(source)
    places = MetadataWrapper(module, unsafe_skip_copy=True).resolve(WhitespaceInclusivePositionProvider)
    offsets = [0, *(end.end() for end in re.finditer("\n", source))]
    made = {}
    for node in _changeable(module):
        for changed in _changes(node):
            before, after = module.code_for_node(node), module.code_for_node(changed)
            start = offsets[places[node].start.line - 1] + places[node].start.column
            if source.startswith(before, start):
                mutated = source[:start] + after + source[start + len(before) :]
            else:  # a statement of several lines, which stands further to the right in the source
                whole: Any = module.deep_replace(node, changed)
                mutated = whole.code
            line = source.count("\n", 0, start + len(before) - len(before.lstrip())) + 1
            made[mutated] = Mutant(line, before.strip(), after.strip(), mutated)
    made.pop(source, None)
    return list(made.values())


def _changeable(node: Any) -> Iterator[Any]:
    import libcst as cst  # noqa: PLC0415

    if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom) or _is_alias(node):
        return
    if isinstance(node, cst.Call) and LEFT_ALONE.match(_name(node.func)):
        return
    yield node
    for child in node.children:
        yield from _changeable(child)


def _changes(node: Any) -> Iterator[Any]:
    """What mutmut makes of a node; a call or an error left out; a result that is forgotten."""
    import libcst as cst  # noqa: PLC0415
    from mutmut.mutation.mutators import mutation_operators  # noqa: PLC0415

    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            yield from operator(node)
    call = node.value if isinstance(node, cst.Expr) else None
    if isinstance(call, cst.Await) or (isinstance(call, cst.Call) and not LEFT_ALONE.match(_name(call.func))):
        yield cst.Pass()
    if isinstance(node, cst.Raise):
        yield cst.Pass()
    if isinstance(node, cst.Return) and node.value is not None and _name(node.value) != "None":
        yield node.with_changes(value=cst.Name("None"))


def _is_alias(node: Any) -> bool:
    """Whether a statement names a type."""
    annotation = getattr(node, "annotation", None)
    return annotation is not None and _name(getattr(annotation, "annotation", None)) == "TypeAlias"


def _name(node: Any) -> str:
    return f"{_name(node.value)}.{node.attr.value}" if hasattr(node, "attr") else str(getattr(node, "value", ""))


TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*)|(?P<string>"[^"\n]*")|(?P<number>\d+)|(?P<name>[A-Za-z_]\w*)"""
    r"""|(?P<operator>[<>=~]=|\.\.\.?|[-+*/%^#<>=(){}\[\],;:.])|(?P<space>\s+)"""
)
SWAPS = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "~=",
    "~=": "==",
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "and": "or",
    "or": "and",
    "not": "",
    "true": "false",
    "false": "true",
}
FIELDS = ("spent", "held", "suspense")
NAMES = {
    **{field: tuple(other for other in FIELDS if other != field) for field in FIELDS},
    "LEASES": ("SUSPENSE",),
    "SUSPENSE": ("LEASES",),
    ".amount": (".estimate",),
    ".estimate": (".amount",),
}
"""What one can take for the other."""
STATES = ("open", "suspense", "settled", "voided", "accepted")
WHOLE_CALL = re.compile(r"^[ \t]*(?:redis\.call|[a-z_]\w*)(?=\()", re.MULTILINE)
WHOLE_ASSIGNMENT = re.compile(r"^[ \t]*(?!local\b)[a-z][\w.\[\]]*(?:, [a-z][\w.\[\]]*)* = [^\n{]*$", re.MULTILINE)
WHOLE_RETURN = re.compile(r"^[ \t]*return\b[^\n{]*$", re.MULTILINE)
CONDITION = re.compile(r"\b(?:if|elseif)\b(?P<condition>[^\n]*?)\bthen\b")
KEYWORDS = frozenset({"if", "elseif", "while", "for", "return", "local", "function", "end", "else", "and", "or", "not"})


def of_lua(source: str) -> list[Mutant]:
    """The mutants of a script: comparisons, sums, constants and fields changed, conditions forced, steps dropped."""
    code = TOKEN.sub(lambda token: " " * len(token[0]) if token["comment"] else token[0], source)
    edits = {*_tokens(code), *_statements(code)}
    return [_edited(source, start, end, text) for start, end, text in sorted(edits)]


def _edited(source: str, start: int, end: int, text: str) -> Mutant:
    line = source.count("\n", 0, start) + 1
    begin, stop = source.rfind("\n", 0, start) + 1, source.find("\n", end)
    stop = len(source) if stop < 0 else stop
    before, after = source[begin:stop].strip(), (source[begin:start] + text + source[end:stop]).strip()
    return Mutant(line, before, after, source[:start] + text + source[end:])


def _tokens(code: str) -> Iterator[tuple[int, int, str]]:
    previous = ""
    for token in TOKEN.finditer(code):
        text = token[0]
        if token["string"]:
            yield from ((*token.span(), f'"{other}"') for other in _other_strings(text[1:-1]))
        elif token["number"]:
            yield from ((*token.span(), str(int(text) + step)) for step in (1, -1) if int(text) + step >= 0)
        elif text == "+" and code[token.end() :].startswith(" 0"):  # makes a number of a text, as `- 0` would
            pass
        elif text in SWAPS and not (text == "-" and previous in ("", "=", "(", ",", "return", "or", "and")):
            yield (*token.span(), SWAPS[text])
        elif text == "-":
            yield (*token.span(), "")
        elif not _declares(code, token.start()):
            dot = "." if previous == "." else ""
            yield from ((*token.span(), other.removeprefix(".")) for other in NAMES.get(dot + text, ()))
        if not token["space"]:
            previous = text


def _declares(code: str, place: int) -> bool:
    """Whether the line of a place makes new names."""
    line = code[code.rfind("\n", 0, place) + 1 : place]
    return re.match(r"\s*(local\s|function\b)", line) is not None and "=" not in line


def _other_strings(text: str) -> Iterator[str]:
    """For a kind of money the other kinds, with or without its colon; for a state another state."""
    colon = ":" if text.startswith(":") else ""
    if text.removeprefix(":") in FIELDS:
        yield from (colon + field for field in FIELDS if field != text.removeprefix(":"))
    if text in STATES:
        yield from (state for state in STATES if state != text and state not in FIELDS)


def _statements(code: str) -> Iterator[tuple[int, int, str]]:
    for call in WHOLE_CALL.finditer(code):
        end = _closing(code, call.end())
        if call[0].strip() not in KEYWORDS and (end == len(code) or code[end] in "\n "):
            yield call.start(), end, ""
    for statement in (*WHOLE_RETURN.finditer(code), *WHOLE_ASSIGNMENT.finditer(code)):
        if statement[0].count("(") == statement[0].count(")") and not statement[0].rstrip().endswith(("or", "and")):
            yield *statement.span(), ""
    for condition in CONDITION.finditer(code):
        yield from ((*condition.span("condition"), forced) for forced in (" true ", " false "))


def _closing(code: str, opening: int) -> int:
    """The place after the bracket that closes the one at `opening`."""
    depth = 0
    for token in TOKEN.finditer(code, opening):
        depth += (token[0] == "(") - (token[0] == ")")
        if depth == 0:
            return token.end()
    return len(code)
