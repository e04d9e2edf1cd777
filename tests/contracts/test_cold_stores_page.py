"""The page about cold stores is what the table of deviations says, and the table names tests that there are."""

from __future__ import annotations

from tests.cold_stores import DEVIATIONS, PAGE, TABLES, page, promises_of
from tests.s3_servers import S3_SERVERS


def test_the_page_is_what_the_table_says() -> None:
    assert PAGE.read_text() == page(), "python -m tests.cold_stores writes it"


def test_each_deviation_is_of_a_server_and_a_test_that_there_is() -> None:
    there = {test for file in TABLES for test in promises_of(file)}
    assert {each.test for each in DEVIATIONS} <= there
    assert {each.server for each in DEVIATIONS} <= S3_SERVERS.keys() - {"double"}
    assert len({(each.server, each.test) for each in DEVIATIONS}) == len(DEVIATIONS)
