"""SQL in which each function, operator and type is PostgreSQL's own, whatever the `search_path` and its schemas hold.

A function or an operator that fits better, planted in a schema on the path, would run with the rights of the user that
opens the store. So every name bears its schema. It is put there when a statement is first used, and not by hand: SQL
in which each `=` is `OPERATOR(pg_catalog.=)` cannot be read. Not a `search_path` of the session: behind a pooler that
is the next client's; nor one of the transaction: to set it costs each call a statement, and the server its plans.

The SQL of this backend keeps to a few rules, which a test with planted names watches over:

- A function is in lower case and its parenthesis follows at once; everything else that has one is not, or has a blank.
- All operators bind alike once they are qualified: where two meet, parentheses say which comes first.
- No IN, JOIN … USING, BETWEEN, LIKE or CASE x WHEN, which look for an operator by its name: `= ANY`, and ON.
- Tables of the catalogue, and the types of DDL, are written with their schema.
"""

from __future__ import annotations

import re
from typing import Final

_CATALOGUE: Final = "pg_catalog."
_TOKEN: Final = re.compile(
    r"""
      (?P<kept> '(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | \$\d+ | \s+ | [.]\s*[a-z_]+ )
    | ::\s*(?P<type> [a-z0-9_]+ )
    | (?P<function> unnest (?=[(][^(),]*[)]) | (?!unnest)[a-z_][a-z0-9_]* (?=[(]) )  # of several, it is grammar
    | (?P<word> \w+ )
    | (?P<operator> [-+*/<>=|]+ )
    | (?P<other> . )
    """,
    re.VERBOSE,
)
_TYPES: Final = {"bigint": "int8", "int": "int4", "boolean": "bool"}
_FORMS: Final = {"coalesce", "extract", "substring"}
"""Forms of the grammar that look like functions, or that the grammar maps to functions of the catalogue."""
_BEHIND_ASSIGNMENTS: Final = {"WHERE", "FROM", "RETURNING"}


def qualified(sql: str) -> str:
    """Return SQL with the schema of whatever is PostgreSQL's own."""
    parts: list[str] = []
    before = ""
    assigning: list[bool] = [False]  # whether a `=` at this depth of parentheses is an assignment
    for match in _TOKEN.finditer(sql):
        kind, text = match.lastgroup, match[0]
        if kind == "type":
            name = match["type"]
            text = f"::{_CATALOGUE}{_TYPES.get(name, name)}"
        elif kind == "function" and text not in _FORMS:
            text = _CATALOGUE + text
        elif kind == "word":
            assigning[-1] = text == "SET" or (assigning[-1] and text not in _BEHIND_ASSIGNMENTS)
        elif kind == "operator" and not (text == "=" and assigning[-1]) and (text != "*" or before == ")"):
            text = f"OPERATOR({_CATALOGUE}{text})"
        elif text == "(":
            assigning.append(False)
        elif text == ")":
            assigning.pop()
        parts.append(text)
        before = match[0] if not match[0].isspace() else before
    return "".join(parts)
