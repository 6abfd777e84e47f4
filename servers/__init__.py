"""MySQL and Kafka for development and tests, without Docker.

In: a directory to live in, and options. Out: running servers, with the addresses and passwords to reach them. Servers
listen on 127.0.0.1 only, on free ports of their own, keep all they write under their directory and are ended by process
id, so any number of sets runs side by side. Not meant for production: one node, small heaps, short time-outs.

    commands    a program run to its end
    kept        passwords and ports: made once, kept in a file
    processes   a server process that outlives us, known by its pid file
    ports       free ports that no client connection can take away
    downloads   the user's cache directory, SHA-256 lists
    mysql_files the mysqld to run: one that is installed, or Debian sid's in a private root
    maven       Java programs, fetched by Maven
    kafka_files the jars of Kafka, and how Java runs them
    mysql       MysqlServer
    kafka       KafkaServer
    bookshop    shop.books, three rows, the users and their grants
    tools       scripts for Kafka's command line tools and MySQL's client
    services    both servers with the bookshop in them, and the files that tell others how to reach them
    __main__    up, down, run: what the Makefile calls
"""
