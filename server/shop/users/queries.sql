-- name: insert_user
-- Inserts nothing if another user has the email address.
INSERT INTO shop_users (id, display_name, email, email_key, created_us, updated_us) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (email_key) DO NOTHING

-- name: read_user
SELECT seq, id, display_name, email, balance_currency, balance_units, balance_nanos, version, created_us, updated_us
FROM shop_users WHERE id = ?

-- name: lock_user
SELECT seq, id, display_name, email, balance_currency, balance_units, balance_nanos, version, created_us, updated_us
FROM shop_users WHERE id = ? FOR UPDATE

-- name: list_users
SELECT seq, id, display_name, email, balance_currency, balance_units, balance_nanos, version, created_us, updated_us
FROM shop_users WHERE seq > ? ORDER BY seq LIMIT ?

-- name: update_user
UPDATE shop_users SET display_name = ?, email = ?, email_key = ?, version = version + 1, updated_us = ? WHERE id = ?

-- name: update_balance
UPDATE shop_users
SET balance_currency = ?, balance_units = ?, balance_nanos = ?, version = version + 1, updated_us = ?
WHERE id = ?

-- name: delete_user
DELETE FROM shop_users WHERE id = ?

-- name: insert_reservation
INSERT INTO shop_reservations (id, user_id, currency, units, nanos, state, created_us, updated_us)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: lock_reservation
SELECT id, user_id, currency, units, nanos, state, created_us, updated_us FROM shop_reservations WHERE id = ? FOR UPDATE

-- name: update_reservation
UPDATE shop_reservations SET state = ?, updated_us = ? WHERE id = ?

-- name: sum_active_reservations
-- Their number and their sums. The sums can't overflow: a wallet accepts no more than it can hold.
SELECT count(*), CAST(coalesce(sum(units), 0) AS BIGINT), coalesce(sum(nanos), 0)
FROM shop_reservations WHERE user_id = ? AND state = 1
