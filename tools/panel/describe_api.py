"""Prints the page API's OpenAPI document for the panel's types.

What the service tells always holds all its fields, so all of them are required there; fields with a default may be
missing only in what is sent.
"""

from __future__ import annotations

import json
from typing import Any

from mww_ha.web.openapi import describe
from mww_ha.web.routes import ROUTES

REFERENCE = "#/components/schemas/"


def main() -> None:
    """Writes JSON to stdout."""
    document = describe(ROUTES, cookie="session")
    schemas: dict[str, Any] = document["components"]["schemas"]
    sent: set[str] = set()
    bodies = [one.get("requestBody") for path in document["paths"].values() for one in path.values()]
    waiting = names_in(bodies)
    while waiting:
        name = waiting.pop()
        if name not in sent:
            sent.add(name)
            waiting |= names_in(schemas[name])
    for name, one in schemas.items():
        if name not in sent:
            one["required"] = sorted(one.get("properties", {}))
    print(json.dumps(document))


def names_in(value: Any) -> set[str]:
    """The names of the schemas that ``value`` refers to."""
    if isinstance(value, dict):
        named = {str(value["$ref"]).removeprefix(REFERENCE)} if "$ref" in value else set()
        return named.union(*(names_in(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(names_in(item) for item in value))
    return set()


if __name__ == "__main__":
    main()
