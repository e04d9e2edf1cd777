"""Which types of columns are archived, and what is known of them.

A type is archived if PostgreSQL alone knows what it means, and if its text, read back, is the same value: that is shown
for each of them by a test with hostile values. Types that somebody made (enumerations, composites, domains, those of
extensions) are not there where the archive is read, and names of objects (`regclass`) are not those objects.
"""

from __future__ import annotations

import re

ARCHIVED = frozenset(
    {
        "smallint", "integer", "bigint", "numeric", "real", "double precision", "money", "boolean",
        "text", "character varying", "character", "bytea", "uuid", "json", "jsonb",
        "date", "time without time zone", "time with time zone", "interval",
        "timestamp without time zone", "timestamp with time zone",
        "inet", "cidr", "macaddr", "macaddr8", "bit", "bit varying",
        "point", "line", "lseg", "box", "path", "polygon", "circle", "tsvector", "tsquery",
        "int4range", "int8range", "numrange", "daterange", "tsrange", "tstzrange",
        "int4multirange", "int8multirange", "nummultirange", "datemultirange", "tsmultirange", "tstzmultirange",
    }
)  # fmt: skip
# What has a precision in the middle of its name, too: `timestamp(3) with time zone`, `interval day to second(3)`.
PRECISION = re.compile(r"\([^)]*\)")
INTERVAL_FIELDS = re.compile(r"^interval (?:year|month|day|hour|minute|second).*")


def base_of(kind: str) -> str:
    """The type without its precision, and that of the elements of an array, as `format_type` names it."""
    name = PRECISION.sub("", kind).removesuffix("[]")
    return INTERVAL_FIELDS.sub("interval", name)


def is_archived(kind: str) -> bool:
    """Whether values of a type come back from their text as they were."""
    return base_of(kind) in ARCHIVED
