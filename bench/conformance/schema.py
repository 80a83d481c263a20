"""The tables of a subject's database, made by the runner: the same for all, as SQL that each database understands."""

COMMIT_SECONDS = 0.25
"""How long a COMMIT takes that stores a row in slow_commits (PostgreSQL: a deferred trigger that sleeps)."""

USUAL_COMMIT_SECONDS = 0.01
"""How long a COMMIT takes that stores an item of A1: as with a disk or a replica that has to confirm it. The run's own
server lies in memory and needs no disk."""

AUTHORS = 5
BOOKS = 4

POSTGRESQL = f"""
CREATE TABLE items (id SERIAL PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE deferred (
    id SERIAL PRIMARY KEY,
    item_id INTEGER NOT NULL REFERENCES items DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE slow_commits (id SERIAL PRIMARY KEY, name TEXT NOT NULL);
CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(TG_ARGV[0]::float); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER sleep_at_commit AFTER INSERT ON slow_commits
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sleep({COMMIT_SECONDS});
CREATE CONSTRAINT TRIGGER usual_commit AFTER INSERT ON items
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.name LIKE 'a1-%')
    EXECUTE FUNCTION sleep({USUAL_COMMIT_SECONDS});
CREATE TABLE labels (id SERIAL PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE strict (
    id SERIAL PRIMARY KEY,
    label_id INTEGER REFERENCES labels,
    name VARCHAR(10) NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0)
);
CREATE TABLE authors (id SERIAL PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE books (id SERIAL PRIMARY KEY, title TEXT NOT NULL, author_id INTEGER NOT NULL REFERENCES authors);
INSERT INTO authors (name) SELECT CASE n WHEN 1 THEN 'Ann' ELSE 'Author ' || n END FROM generate_series(1, {AUTHORS}) n;
INSERT INTO books (title, author_id) SELECT 'Book ' || b, a FROM generate_series(1, {AUTHORS}) a,
    generate_series(1, {BOOKS}) b;
"""

SQLITE = f"""
CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE deferred (
    id INTEGER PRIMARY KEY,
    item_id INTEGER NOT NULL REFERENCES items DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE slow_commits (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE labels (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE strict (
    id INTEGER PRIMARY KEY,
    label_id INTEGER REFERENCES labels,
    name VARCHAR(10) NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0)
);
CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT NOT NULL, author_id INTEGER NOT NULL REFERENCES authors);
WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM a WHERE n < {AUTHORS})
    INSERT INTO authors (name) SELECT CASE n WHEN 1 THEN 'Ann' ELSE 'Author ' || n END FROM a;
WITH RECURSIVE b(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM b WHERE n < {BOOKS})
    INSERT INTO books (title, author_id) SELECT 'Book ' || b.n, authors.id FROM authors, b;
"""
