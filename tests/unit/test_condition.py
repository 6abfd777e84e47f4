"""Conditions of jobs: what is one expression over a row, and the place of what isn't."""

import pytest

from cdc_reader.condition import check_condition
from schemas.errors import SettingError


@pytest.mark.parametrize(
    "text",
    [
        "price > 100",
        "`we ird` = 'x' AND NOT stock",
        "added > NOW() - INTERVAL 1 DAY",
        "j->'$.a' = 1 OR a MEMBER OF ('[1]')",
        "title LIKE '%;-- /* # %' COLLATE utf8mb4_bin",
        "id BETWEEN 1 AND 2 OR (a, b) > (1, 2)",
        "CASE WHEN a IS NULL THEN 1 ELSE b <=> 2 END",
        "x'4142' = a",
        "ST_Contains(g, p)",
        "MOD(id, 10) = 3",
    ],
)
def test_one_expression_over_a_row_is_let_through(text: str) -> None:
    check_condition(text)


@pytest.mark.parametrize(
    ("text", "column", "what"),
    [
        ("", 1, "not an expression"),
        ("price >", 7, "missing"),
        ("price > 100) OR (1 = 1", 12, "Unexpected token"),
        ("a = 1; DROP TABLE books", 6, "more than one"),
        ("DELETE FROM books", 1, "not an expression"),
        ("SELECT 1", 1, "not an expression"),
        ("a = 1 UNION SELECT 2", 1, "not an expression"),
        ("id IN (SELECT 1)", 8, "a query"),
        ("EXISTS (SELECT 1)", 9, "a query"),
        ("(SELECT 1)", 1, "not an expression"),
        ("id IN (TABLE books)", 1, "a query"),
        ("id IN (VALUES ROW(1))", 8, "a query"),
        ("a = 1 AND SLEEP(10)", 11, "SLEEP"),
        ("a = 1 AND `sleep` (10)", 11, "the function sleep"),
        ("get_lock('a', 1)", 1, "get_lock"),
        ("load_file('/etc/passwd') LIKE 'x'", 1, "load_file"),
        ("COUNT(*) > 1", 1, "many rows"),
        ("row_number() OVER () > 1", 1, "many rows"),
        ("id = @x", 6, "a variable"),
        ("@x := 1", 1, "an assignment"),
        ("id = @@version", 6, "a variable"),
        ("a = ?", 5, "a placeholder"),
        ("a = 1 /*! OR 1 */", 7, "a comment"),
        ("a IN (/*! SELECT */ 1)", 7, "a comment"),
        ("CASE WHEN /*! SLEEP(9) OR */ 1 THEN 1 END", 11, "a comment"),
        ("a = 1 -- x", 7, "a comment"),
        ("a = 1 # x", 7, "a comment"),
        ("a = 1 FOR UPDATE", 9, "Unexpected token"),
        ("a = 1 INTO OUTFILE 'x'", 10, "Unexpected token"),
        ("1 = 1 LIMIT 3", 11, "Unexpected token"),
        ("sys.version_major() = 8", 1, "a stored function"),
        ("a = 'x", 1, ""),
    ],
)
def test_anything_else_is_refused_with_its_place(text: str, column: int, what: str) -> None:
    with pytest.raises(SettingError) as refused:
        check_condition(text)
    message = str(refused.value)
    assert f"column {column}: " in message
    assert what in message
    assert message.splitlines()[-2].strip() == text.strip()
