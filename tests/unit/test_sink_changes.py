"""The difference of two versions of a table."""

from schemas.tables import Column, KeyPart, TableName, TableSchema
from sink.changes import difference

ID = Column("id", "int", nullable=False)
TITLE = Column("title", "varchar", length=400, charset="utf8mb4", collation="utf8mb4_bin")
STOCK = Column("stock", "int")


def table(*columns: Column, key: str = "id") -> TableSchema:
    return TableSchema(TableName("shop", "books"), columns, (KeyPart(key),))


def test_new_columns_anywhere_are_added() -> None:
    change = difference(table(ID, TITLE), table(STOCK, ID, Column("isbn", "char", length=13), TITLE))
    assert change == (("stock", "isbn"), ())


def test_same_schema_is_no_change() -> None:
    assert difference(table(ID, TITLE), table(ID, TITLE)) == ((), ())


def test_rule_b2_renamed_column_shows_as_gone_and_added() -> None:
    change = difference(table(ID, STOCK), table(ID, Column("in_stock", "int")))
    assert change == (("in_stock",), ("column stock is gone",))


def test_everything_else_is_said_in_words() -> None:
    wider = Column("title", "varchar", length=800, charset="utf8mb4", collation="utf8mb4_0900_bin")
    assert difference(table(ID, TITLE), table(ID, wider)).other == ("column title changed its length, collation",)
    assert difference(table(ID, TITLE, STOCK), table(ID, STOCK, TITLE)).other == ("columns changed places",)
    assert difference(table(ID, STOCK), table(ID, STOCK, key="stock")).other == ("the primary key changed",)
