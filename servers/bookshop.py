"""The bookshop of the examples: `shop.books` with three rows, the schema `results`, and the users that Rowflow works
as.

The users have the grants that Rowflow asks for and none beyond, but that the source user may SELECT everywhere, so that
any new database can be captured.
"""

from servers.mysql import Connection

SOURCE_USER = "rowflow_source"
SINK_USER = "rowflow_sink"
SINK_SCHEMA = "results"
SINK_GRANTS = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, CREATE TEMPORARY TABLES"

_BOOKS = """
CREATE TABLE IF NOT EXISTS shop.books (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  isbn CHAR(13) NOT NULL,
  title VARCHAR(255) NOT NULL,
  author VARCHAR(120) NOT NULL,
  publisher VARCHAR(120) NULL,
  price DECIMAL(10,2) NOT NULL,
  currency ENUM('USD','EUR','CNY') NOT NULL DEFAULT 'CNY',
  stock INT NOT NULL DEFAULT 0,
  rating FLOAT NULL,
  tags JSON NULL,
  description TEXT NULL,
  published DATE NULL,
  created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  updated_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
  PRIMARY KEY (id),
  UNIQUE KEY isbn (isbn)
) CHARACTER SET utf8mb4
"""

_THREE_BOOKS = (
    (1, "9787506380263", "人间失格", "太宰治", "作家出版社", "25.00", "CNY", 40, 4.5,
     '{"genre": "novel", "pages": 172, "tags": ["日本", "文学"]}', "Translated from the Japanese.", "2015-08-01"),
    (2, "9781449373320", "Designing Data-Intensive Applications", "Martin Kleppmann", "O'Reilly", "46.80", "USD", 12,
     4.7, '{"genre": "computing", "pages": 590, "tags": ["streams", "storage"]}', None, "2017-03-16"),
    (3, "9783518010006", "Der Steppenwolf", "Hermann Hesse", None, "14.00", "EUR", 0, None, None, "Roman", None),
)  # fmt: skip


def create_books(connection: Connection) -> None:
    """Make the database, the table and its rows, if they are not there."""
    cursor = connection.cursor()
    cursor.execute("CREATE DATABASE IF NOT EXISTS shop CHARACTER SET utf8mb4")
    cursor.execute("SHOW TABLES FROM shop LIKE 'books'")
    if cursor.fetchone():
        return
    cursor.execute(_BOOKS)
    cursor.executemany(
        "INSERT INTO shop.books (id, isbn, title, author, publisher, price, currency, stock, rating, tags, description,"
        " published) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        _THREE_BOOKS,
    )


def create_source_user(connection: Connection, password: str, user: str = SOURCE_USER) -> None:
    """Make the user who reads the binlog and the tables, if it is not there."""
    cursor = connection.cursor()
    cursor.execute("CREATE USER IF NOT EXISTS %s IDENTIFIED BY %s", (user, password))
    cursor.execute("GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO %s", (user,))


def create_sink(connection: Connection, password: str, user: str = SINK_USER, schema: str = SINK_SCHEMA) -> None:
    """Make the schema of the results and the user who writes into it, if they are not there."""
    cursor = connection.cursor()
    cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{schema}` CHARACTER SET utf8mb4")
    cursor.execute("CREATE USER IF NOT EXISTS %s IDENTIFIED BY %s", (user, password))
    cursor.execute(f"GRANT {SINK_GRANTS} ON `{schema}`.* TO %s", (user,))
