-- name: insert_order
INSERT INTO shop_orders (id, customer_id, currency, units, nanos, state, created_us, updated_us)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
RETURNING seq

-- name: insert_item
INSERT INTO shop_order_items (order_seq, position, sku, quantity) VALUES (?, ?, ?, ?)

-- name: read_order
SELECT seq, id, customer_id, currency, units, nanos, state, version, created_us, updated_us
FROM shop_orders WHERE id = ?

-- name: lock_order
SELECT seq, id, customer_id, currency, units, nanos, state, version, created_us, updated_us
FROM shop_orders WHERE id = ? FOR UPDATE

-- name: list_orders
SELECT seq, id, customer_id, currency, units, nanos, state, version, created_us, updated_us
FROM shop_orders WHERE seq > ? ORDER BY seq LIMIT ?

-- name: read_items
SELECT sku, quantity FROM shop_order_items WHERE order_seq = ? ORDER BY position

-- name: add_item
-- The item goes behind the last one.
INSERT INTO shop_order_items (order_seq, position, sku, quantity)
SELECT o.seq, (SELECT coalesce(max(i.position) + 1, 0) FROM shop_order_items AS i WHERE i.order_seq = o.seq), ?, ?
FROM shop_orders AS o WHERE o.id = ?

-- name: update_order
UPDATE shop_orders SET state = ?, version = version + 1, updated_us = ? WHERE id = ?
