"""Mirrors' statements, as text.  That the server takes them is shown by tests/integration."""

from functools import partial

import pytest

from schemas.addresses import MysqlAddress
from schemas.errors import RefusedError
from schemas.tables import Column, KeyPart, TableName, TableSchema
from sink.column_types import SinkDialect, UnknownTypeError
from sink.config import SinkConfig
from sink.ddl import (
    ComputedColumn,
    IndexColumn,
    MirrorImpossibleError,
    SecondaryIndex,
    add_columns,
    add_index,
    create_mirror,
    refuse_key,
    refuse_names,
    too_long,
)

MYSQL = SinkDialect(
    mariadb=False,
    version=(9, 7, 4),
    collations={"latin1_swedish_ci": "latin1", "utf8mb4_0900_ai_ci": "utf8mb4", "utf8mb4_0900_bin": "utf8mb4"},
)
MARIADB = SinkDialect(
    mariadb=True, version=(10, 11, 6), collations={"utf8mb4_nopad_bin": "utf8mb4", "latin1_swedish_ci": "latin1"}
)
utf8_column = partial(Column, charset="utf8mb4", collation="utf8mb4_0900_ai_ci")
ID = Column("id", "int", nullable=False)


def table(*columns: Column, key: tuple[KeyPart, ...] = (KeyPart("id"),), name: str = "books") -> TableSchema:
    return TableSchema(TableName("shop", name), columns, key)


def definition(column: Column, dialect: SinkDialect, *, in_key: bool = False) -> str:
    """The line of CREATE TABLE that declares the column."""
    schema = table(ID, column, key=(KeyPart(column.name if in_key else "id"),))
    return create_mirror(schema, "books", dialect).splitlines()[2].strip().removesuffix(",")


@pytest.mark.parametrize(
    ("column", "mysql", "mariadb"),
    [
        (Column("c", "bigint", unsigned=True), "bigint unsigned", "bigint unsigned"),
        (Column("c", "decimal", length=65, scale=30), "decimal(65,30)", "decimal(65,30)"),
        (Column("c", "float", unsigned=True), "float unsigned", "float unsigned"),
        (Column("c", "bit", length=64), "bit(64)", "bit(64)"),
        (Column("c", "timestamp", scale=6), "timestamp(6)", "timestamp(6)"),
        (Column("c", "datetime"), "datetime", "datetime"),
        (Column("c", "year"), "year", "year"),
        (Column("c", "binary", length=4), "binary(4)", "binary(4)"),
        (
            Column("c", "varchar", length=255, charset="latin1", collation="latin1_swedish_ci"),
            "varchar(255) CHARACTER SET latin1 COLLATE latin1_swedish_ci",
            "varchar(255) CHARACTER SET latin1 COLLATE latin1_swedish_ci",
        ),
        (
            utf8_column("c", "char", length=40),
            "char(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci",
            "char(10) CHARACTER SET utf8mb4",
        ),
        (
            Column("c", "text", charset="gb18030", collation="gb18030_chinese_ci"),
            "text CHARACTER SET utf8mb4",
            "text CHARACTER SET utf8mb4",
        ),
        (
            Column("c", "text", charset="cp1251", collation="cp1251_general_ci"),
            "mediumtext CHARACTER SET utf8mb4",
            "mediumtext CHARACTER SET utf8mb4",
        ),
        (
            utf8_column("c", "enum", members=("it's", "a\\b")),
            "enum('it''s','a\\\\b','') CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci",
            "enum('it''s','a\\\\b','') CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
        ),
        (
            utf8_column("c", "set", members=("a", "b")),
            "set('a','b') CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci",
            "set('a','b') CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
        ),
        (Column("c", "json"), "json", "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        (Column("c", "geomcollection"), "geometrycollection", "geometrycollection"),
        (Column("c", "vector", length=3), "vector(3)", "longblob"),
    ],
)
def test_types(column: Column, mysql: str, mariadb: str) -> None:
    assert definition(column, MYSQL) == f"`c` {mysql} NULL"
    assert definition(column, MARIADB) == f"`c` {mariadb} NULL"


def test_key_texts_are_binary_and_dont_pad() -> None:
    code = utf8_column("code", "char", length=40, nullable=False)
    assert definition(code, MYSQL, in_key=True) == (
        "`code` varchar(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin NOT NULL"
    )
    assert definition(code, MARIADB, in_key=True) == (
        "`code` varchar(10) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL"
    )


def test_whole_statement() -> None:
    schema = table(
        Column("b", "int", nullable=False),
        utf8_column("na`me", "varchar", length=1020, nullable=False),
        key=(KeyPart("na`me", 10), KeyPart("b")),
    )
    assert create_mirror(schema, "books", MYSQL, (ComputedColumn("f", "bigint"),)) == (
        "CREATE TABLE `books` (\n"
        "  `b` int NOT NULL,\n"
        "  `na``me` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin NOT NULL,\n"
        "  `f` bigint NULL,\n"
        "  PRIMARY KEY (`na``me`(10), `b`)\n"
        ") ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COMMENT='rowflow: mirror of shop.books'"
    )


def test_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(UnknownTypeError, match="column c is of type uuid"):
        definition(Column("c", "uuid"), MYSQL)


def test_key_that_is_too_long_is_refused_by_name() -> None:
    name = Column("name", "varchar", length=1000, nullable=False, charset="latin1", collation="latin1_swedish_ci")
    with pytest.raises(MirrorImpossibleError, match=r"shop\.books takes 4000 bytes"):
        refuse_key(table(name, key=(KeyPart("name"),)))
    refuse_key(table(name, key=(KeyPart("name", 768),)))
    with pytest.raises(MirrorImpossibleError, match="3076 bytes"):
        refuse_key(table(ID, name, key=(KeyPart("name", 768), KeyPart("id"))))


def test_table_without_a_key_is_refused() -> None:
    with pytest.raises(MirrorImpossibleError, match=r"shop\.books has no primary key"):
        create_mirror(table(ID, key=()), "books", MYSQL)


def test_longest_texts_become_text_where_the_row_would_be_too_long() -> None:
    cyrillic = partial(Column, type="varchar", charset="cp1251", collation="cp1251_general_ci")
    long = cyrillic("long", length=15_000)
    short = cyrillic("short", length=2_000)
    assert too_long(table(ID, long, short), MYSQL) == {"long"}
    assert "`long` text CHARACTER SET utf8mb4 NULL" in create_mirror(table(ID, long, short), "books", MYSQL)
    assert too_long(table(ID, short), MYSQL) == set()


def test_computed_column_of_a_columns_name_is_refused() -> None:
    with pytest.raises(MirrorImpossibleError, match="column ID"):
        create_mirror(table(ID), "books", MYSQL, (ComputedColumn("ID", "bigint"),))


def test_added_columns_come_at_their_places() -> None:
    schema = table(Column("first", "int"), ID, Column("last", "date"))
    assert add_columns(schema, "books", MYSQL, ["first", "last"], (ComputedColumn("f", "bigint"),)) == (
        "ALTER TABLE `books` ADD COLUMN `first` int NULL FIRST, ADD COLUMN `last` date NULL AFTER `id`,"
        " ADD COLUMN `f` bigint NULL"
    )


def test_rule_b3_secondary_indexes_are_plain() -> None:
    index = SecondaryIndex("by_title", (IndexColumn("title", 0), IndexColumn("id", 0)))
    title = utf8_column("title", "varchar", length=1020)
    assert (
        add_index(table(ID, title), "books", MYSQL, index) == "ALTER TABLE `books` ADD INDEX `by_title` (`title`, `id`)"
    )


def test_mirrors_names_are_refused_where_they_meet() -> None:
    address = MysqlAddress("127.0.0.1", 3306, "rowflow", "", "results")
    one, other = TableName("shop", "books"), TableName("archive", "Books")
    with pytest.raises(RefusedError, match=r"archive\.Books and shop\.books would share the mirror books"):
        refuse_names(SinkConfig(address, "p"), [one, other])
    refuse_names(SinkConfig(address, "p", table_name="{db}_{table}"), [one, other])
    with pytest.raises(RefusedError, match="Rowflow's own"):
        refuse_names(SinkConfig(address, "p"), [TableName("shop", "_rowflow_progress")])
    with pytest.raises(RefusedError, match="longer than 64"):
        refuse_names(SinkConfig(address, "p", table_name="{db}_{table}"), [TableName("d" * 40, "t" * 40)])
