-- Users with their wallets, and orders.
--
-- A table's `seq` grows with each row: pages are cut at it, and rows are appended although their ids are random. Times
-- are microseconds since 1970, UTC. Money is whole units and billionths (nanos), and never negative.

-- name: create_users
-- Users can be deleted, and AUTOINCREMENT never gives the `seq` of a page's end to a new user.
CREATE TABLE shop_users (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL,
    email TEXT NOT NULL,
    email_key TEXT NOT NULL UNIQUE,
    balance_currency TEXT,
    balance_units INTEGER NOT NULL DEFAULT 0 CHECK (balance_units >= 0),
    balance_nanos INTEGER NOT NULL DEFAULT 0 CHECK (balance_nanos BETWEEN 0 AND 999999999),
    version INTEGER NOT NULL DEFAULT 1,
    created_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL
);

-- name: create_reservations
-- They are kept when their user is deleted, as a record of what was spent.
CREATE TABLE shop_reservations (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    currency TEXT NOT NULL,
    units INTEGER NOT NULL CHECK (units >= 0),
    nanos INTEGER NOT NULL CHECK (nanos BETWEEN 0 AND 999999999),
    state INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL
);

-- name: create_reservations_active
-- State 1 is STATE_ACTIVE: the amounts that a wallet has reserved.
CREATE INDEX shop_reservations_active ON shop_reservations (user_id) WHERE state = 1;

-- name: create_orders
CREATE TABLE shop_orders (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    customer_id TEXT NOT NULL,
    currency TEXT NOT NULL,
    units INTEGER NOT NULL CHECK (units >= 0),
    nanos INTEGER NOT NULL CHECK (nanos BETWEEN 0 AND 999999999),
    state INTEGER NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    created_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL
);

-- name: create_order_items
CREATE TABLE shop_order_items (
    order_seq INTEGER NOT NULL REFERENCES shop_orders (seq),
    position INTEGER NOT NULL,
    sku TEXT NOT NULL,
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (order_seq, position)
) WITHOUT ROWID;
